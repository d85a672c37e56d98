"""Reading image files: one place for all kinds, told apart by content, and the same rules for all.

TIFF is read by tifffile (tiff.py), 16-bit colour PNG by libpng (png.py), everything else by Pillow; what the colours mean is
decided in colour.py. Writing is in write.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import PIL
from PIL import Image

from hcflow_tf.images import colour, png, tiff
from hcflow_tf.images.formats import FORMATS, KINDS, ImageError, format_of
from hcflow_tf.images.metadata import Metadata, orientation, upright
from hcflow_tf.images.write import check_writable, png_bytes, quantize, write_image
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import check_regular

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ImageError",
    "ImageHeader",
    "LoadedImage",
    "check_writable",
    "png_bytes",
    "quantize",
    "read_header",
    "read_image",
    "write_image",
]

MAX_PIXELS = 2**27
"""Default cap on the pixels of one image (134 megapixels), checked in the header before anything is decoded."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_SCAN_MARKER, _MAX_SCANS = b"\xff\xda", 200
"""A progressive JPEG has about ten scans; each costs the time of the whole image, however few bytes it has."""
_PILLOW_LIMIT = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What a file's header says, before decoding; width and height as seen, after the EXIF orientation."""

    width: int
    height: int
    mode: str
    """Pillow's name of the pixel format."""
    text: Mapping[str, str]
    """PNG text entries before the pixels, where `write_image` puts them; empty for other formats."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """A decoded image, upright."""

    rgb: np.ndarray
    """[height, width, 3], uint8 or, from a 16-bit file, uint16; gray is repeated."""
    alpha: np.ndarray | None
    """[height, width] of the same dtype, or None in a file without transparency; the colours are not multiplied by it."""
    icc_profile: bytes | None
    """RGB colour profile; None if there is none or the colours were converted to sRGB (gray, CMYK)."""
    mode: str
    """Pillow's name of the pixel format in the file."""
    text: Mapping[str, str]
    """PNG text entries; empty for other formats."""
    notes: tuple[str, ...] = ()
    """What the file holds and is not read, or is not read as it says; to be told to the user."""
    metadata: Metadata = dataclasses.field(default_factory=Metadata)
    """EXIF, XMP, IPTC and resolution, as in the file."""

    @property
    def bit_depth(self) -> int:
        """8 or 16."""
        return self.rgb.dtype.itemsize * 8

    @property
    def rgb_uint8(self) -> np.ndarray:
        """The colours as uint8 [height, width, 3], 16 bit rounded to nearest."""
        return self.rgb if self.bit_depth == 8 else ((self.rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)

    @property
    def is_gray(self) -> bool:
        """Whether red, green and blue are equal wherever one sees them, however the file stores them."""
        red, green, blue = self.rgb[..., 0], self.rgb[..., 1], self.rgb[..., 2]
        if np.array_equal(red, green) and np.array_equal(green, blue):
            return True
        if self.alpha is None:
            return False
        return not (((red != green) | (green != blue)) & (self.alpha > 0)).any()


def read_header(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Size and pixel format of an image file, without decoding it.

    Raises:
      ImageError: missing, empty, not one of the formats, zero-size, or more than `max_pixels` pixels.
    """
    with _named_errors(path):
        image_format = _check_file(path)
        if image_format == "TIFF":
            header = tiff.read_header(path)
            _check_size(path, header.width, header.height, max_pixels)
            return ImageHeader(header.width, header.height, header.mode, {})
        with _opened(path, image_format, max_pixels) as image:
            width, height = image.size
            exif = png.read_chunks(path).get(b"eXIf") if image_format == "PNG" else None
            if orientation(exif or Metadata.of_image(image).exif) >= 5:
                width, height = height, width
            text = _texts(image)
            return ImageHeader(width, height, image.mode, text)


def read_image(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """Reads the first picture of an image file, told apart by content, not by suffix.

    PNG, JPEG, WebP, BMP, TIFF, GIF and AVIF; HEIC and JPEG XL with their extras. The orientation of EXIF or the TIFF tag is
    applied. RGB keeps its values and profile; gray and CMYK are converted to sRGB by their profile if they have one. A
    16-bit colour PNG is decoded by a TensorFlow operation: devices must be configured (logical devices, visible GPUs)
    before reading one.

    Args:
      path: the file.
      max_pixels: cap on width * height, checked before decoding.

    Raises:
      ImageError: as `read_header`; truncated, damaged, or a pixel format that is neither 8 nor 16 bit.
    """
    with _named_errors(path):
        image_format = _check_file(path)
        if image_format == "TIFF":
            return _read_tiff(path, max_pixels)
        if image_format == "JPEG" and pathlib.Path(path).read_bytes().count(_SCAN_MARKER) > _MAX_SCANS:
            raise ImageError(f"{path}: more than {_MAX_SCANS} scans, which would take for ever to decode")
        with _opened(path, image_format, max_pixels) as image:
            return _read_with_pillow(path, image_format, image)


def _read_tiff(path: str | os.PathLike, max_pixels: int) -> LoadedImage:
    header = tiff.read_header(path)
    _check_size(path, header.width, header.height, max_pixels)
    picture = tiff.read(path)
    return _loaded(picture.pixels, picture.icc_profile, picture.mode, {}, picture.notes, picture.metadata)


def _read_with_pillow(path: str | os.PathLike, image_format: str, image: Image.Image) -> LoadedImage:
    mode, notes = image.mode, _other_pictures(image)
    chunks = png.read_chunks(path) if image_format == "PNG" else {}
    if chunks and png.bits(chunks) == 16:
        pixels = _decode_16_bit(path, image)
        image.load()  # what stands behind the pixels
    elif mode in _MODES:
        image.load()  # a PNG's transparency entry and EXIF data may follow later in the file
        if mode == "L" and chunks and png.bits(chunks) < 8 and "transparency" in image.info:
            image.info["transparency"] *= 255 // (2 ** png.bits(chunks) - 1)  # Pillow has stretched the pixels, not the key
        pixels = np.asarray(image if mode == "CMYK" else image.convert("RGBA" if image.has_transparency_data else "RGB"))
    else:
        raise ImageError(f"{path}: pixel format {mode} is not supported; save it as 8- or 16-bit RGB or gray")
    if pixels.size == 0:
        raise ImageError(f"{path}: has no pixels")
    is_gray = png.is_gray(chunks) if chunks else mode in ("1", "L", "LA")
    space = "CMYK" if mode == "CMYK" else "GRAY" if is_gray else "RGB"
    pixels, profile, more = _convert(pixels, space, image.info.get("icc_profile"), chunks)
    metadata = Metadata.of_image(image)
    if metadata.has_gain_map:  # which is the other picture, where there are several
        notes, more = (), (*more, "its HDR gain map is dropped: an ordinary picture is made")
    pixels = upright(pixels, orientation(metadata.exif))
    return _loaded(pixels, profile, mode, _texts(image), notes + more, metadata)


def _convert(
    pixels: np.ndarray, space: str, profile: bytes | None, chunks: Mapping[bytes, bytes]
) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Pixels of gray, RGB or CMYK by the rule of colours; the RGB profile; what is to be said.

    Args:
      space: GRAY, RGB or CMYK.
      chunks: of a PNG file, else empty.
    """
    profile, notes = colour.check_profile(profile, space)
    said = colour.PngColours(chunks)
    if chunks and (said.overrides_profile or not profile):
        if space == "GRAY":
            return _with_colours(pixels, said.convert_gray), None, notes + said.notes
        return pixels, said.profile(), notes + said.notes
    if space == "CMYK":
        return colour.cmyk_to_srgb(pixels, profile), None, notes
    if space == "GRAY" and profile:
        return _with_colours(pixels, lambda gray: colour.gray_to_srgb(gray, profile)), None, notes
    return pixels, profile, notes


def _with_colours(pixels: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """[height, width, 1 to 4] with the gray converted, alpha kept."""
    has_alpha = pixels.shape[2] in (2, 4)
    gray = convert(pixels[..., :1])
    return np.concatenate([gray, pixels[..., -1:]], axis=2) if has_alpha else gray


def _loaded(
    pixels: np.ndarray, profile: bytes | None, mode: str, text: dict, notes: tuple[str, ...], metadata: Metadata
) -> LoadedImage:
    """Args: pixels, [height, width, 1 to 4]."""
    gray = pixels.shape[2] < 3
    rgb = np.repeat(pixels[..., :1], 3, axis=2) if gray else np.ascontiguousarray(pixels[..., :3])
    alpha = np.ascontiguousarray(pixels[..., -1]) if pixels.shape[2] in (2, 4) else None
    return LoadedImage(rgb, alpha, profile, mode, text, notes, metadata)


@contextlib.contextmanager
def _named_errors(path: str | os.PathLike) -> Iterator[None]:
    """Whatever goes wrong inside becomes an ImageError that names the file."""
    try:
        yield
    except HCFlowError:
        raise
    except MemoryError as error:
        raise ImageError(f"{path}: not enough memory to decode it") from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a {KINDS} image, or its header is damaged") from error
    # Decoders meet damaged files with every kind of exception (OSError, SyntaxError, struct.error, IndexError, ...).
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"truncated or damaged ({' '.join(str(error).split())[:200]})"
        raise ImageError(f"{path}: {reason}") from error


def _check_file(path: str | os.PathLike) -> str:
    """The format of a file that is there, is one, and is not empty."""
    check_regular(path)  # a pipe would be waited for, a device read without end
    if pathlib.Path(path).stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty")
    return format_of(path)


def _check_size(path: str | os.PathLike, width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < 1:
        raise ImageError(f"{path}: the header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError(f"{path}: {width} x {height} pixels are more than the cap of {max_pixels:,} pixels")


@contextlib.contextmanager
def _opened(path: str | os.PathLike, image_format: str, max_pixels: int) -> Iterator[Image.Image]:
    """The file, opened by Pillow, its header checked.

    Pillow's own pixel limit, which is global and would undercut or contradict `max_pixels`, is put aside.
    """
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path, formats=[image_format])
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        _check_size(path, *image.size, max_pixels)
        yield image


def _texts(image: Image.Image) -> dict[str, str]:
    """The text entries of a PNG file, those before the pixels if these are not loaded."""
    if image.format != "PNG":
        return {}
    return {key: str(value) for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}


def _other_pictures(image: Image.Image) -> tuple[str, ...]:
    """What is to be said of further pictures in the file."""
    if not getattr(image, "is_animated", False):
        return ()
    if image.format in ("MPO", "HEIF"):
        return ("holds several pictures: only the first is read",)
    return ("is animated: only the first frame is read",)


def _decode_16_bit(path: str | os.PathLike, image: Image.Image) -> np.ndarray:
    """A 16-bit PNG as [height, width, 1 to 4] uint16."""
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)[..., None]
    else:
        pixels = png.decode_16_bit(path, channels=len(image.mode))
    colour_key = image.info.get("transparency")  # the colour that a PNG declares transparent
    if colour_key is None:
        return pixels
    opaque = (pixels != np.asarray(colour_key, np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([pixels, opaque * np.uint16(65535)], axis=2)
