"""Reading and writing image files: 8 and 16 bit, gray, palette, alpha, CMYK, EXIF orientation, colour profiles.

Pillow does the work, except for 16-bit colour, which it silently cuts down to 8 bit: see sixteen_bit.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import os
import pathlib
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, TiffImagePlugin

from hcflow_tf.images import sixteen_bit
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import atomic_path, check_regular

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Suffix -> format of the files that are found, read and written."""

MAX_PIXELS = 2**27
"""Default cap on the pixels of one image (134 megapixels), checked in the header before anything is decoded."""

_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_ORIENTATION_TAG, _BITS_PER_SAMPLE_TAG = 0x0112, 0x0102
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
"""Pixels, where a format (or the library that writes it) has such a limit below that of memory."""
_PILLOW_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}
_SCAN_MARKER, _MAX_SCANS = b"\xff\xda", 200
"""A progressive JPEG has about ten scans; each costs the time of the whole image, however few bytes it has."""
_PILLOW_LIMIT = threading.Lock()

# libtiff writes what it dislikes about a damaged file straight to the process's stderr, beside the error that Pillow raises.
with contextlib.suppress(AttributeError, OSError):  # there is no libtiff of its own to be told
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


class ImageError(HCFlowError):
    """One image file cannot be read; a batch goes on with the next."""


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
    """[height, width] of the same dtype, or None in a file without transparency."""
    icc_profile: bytes | None
    """RGB colour profile; None if there is none or the colours were converted (gray, CMYK)."""
    mode: str
    """Pillow's name of the pixel format in the file."""
    text: Mapping[str, str]
    """PNG text entries; empty for other formats."""

    @property
    def bit_depth(self) -> int:
        """8 or 16."""
        return self.rgb.dtype.itemsize * 8

    @property
    def rgb_uint8(self) -> np.ndarray:
        """The colours as uint8 [height, width, 3], 16 bit rounded to nearest."""
        return self.rgb if self.bit_depth == 8 else ((self.rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)


def read_header(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Size and pixel format of an image file, without decoding it.

    Raises:
      ImageError: missing, empty, not one of the formats, zero-size, or more than `max_pixels` pixels.
    """
    with _opened(path, max_pixels) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        entries = image.info.items() if image.format == "PNG" else ()
        text = {str(key): value for key, value in entries if isinstance(value, str)}
        return ImageHeader(width, height, image.mode, text)


def read_image(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """Reads the first picture of a PNG, JPEG, WebP, BMP or TIFF file, told apart by content, not by suffix.

    The EXIF orientation is applied. CMYK is converted to sRGB by its colour profile if it has one. A 16-bit colour PNG
    is decoded by a TensorFlow operation: devices must be configured (logical devices, visible GPUs) before reading one.

    Args:
      path: the file.
      max_pixels: cap on width * height, checked before decoding.

    Raises:
      ImageError: as `read_header`; truncated, damaged, or a pixel format that is neither 8 nor 16 bit.
    """
    with _opened(path, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and pathlib.Path(path).read_bytes().count(_SCAN_MARKER) > _MAX_SCANS:
            raise ImageError(f"{path}: more than {_MAX_SCANS} scans, which would take for ever to decode")
        mode, icc_profile = image.mode, image.info.get("icc_profile")
        if _is_16_bit(image):
            pixels = _decode_16_bit(path, image)
        elif mode in _EIGHT_BIT_MODES:
            pixels = _decode_8_bit(image, icc_profile)
        else:
            raise ImageError(f"{path}: pixel format {mode} is not supported; save it as 8- or 16-bit RGB or gray")
        orientation = _orientation(image)
        text = dict(image.text) if isinstance(image, PngImagePlugin.PngImageFile) else {}
        if pixels.size == 0:
            raise ImageError(f"{path}: has no pixels")
    pixels = sixteen_bit.upright(pixels, orientation)
    gray = pixels.shape[2] < 3
    rgb = np.repeat(pixels[..., :1], 3, axis=2) if gray else np.ascontiguousarray(pixels[..., :3])
    alpha = np.ascontiguousarray(pixels[..., -1]) if pixels.shape[2] in (2, 4) else None
    is_rgb_profile = icc_profile is not None and icc_profile[16:20] == b"RGB " and mode != "CMYK"
    return LoadedImage(rgb, alpha, icc_profile if is_rgb_profile else None, mode, text)


def quantize(image: np.ndarray, bit_depth: int = 8) -> np.ndarray:
    """Floating point values in [0, 1] as uint8 or uint16: clipped and rounded to nearest.

    Raises:
      HCFlowError: the image holds NaN.
    """
    top, dtype = {8: (255, np.uint8), 16: (65535, np.uint16)}[bit_depth]
    image = np.asarray(image, np.float32)
    if np.isnan(image).any():
        raise HCFlowError("the computed image holds values that are not numbers (NaN): the model's weights are damaged")
    return np.floor(image.clip(0.0, 1.0) * np.float32(top) + np.float32(0.5)).astype(dtype)


def write_image(
    path: str | os.PathLike,
    rgb: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    icc_profile: bytes | None = None,
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes an image in the format of its suffix, completely or not at all.

    PNG, TIFF, WebP (lossless) and BMP keep every value; JPEG is written at quality 95 without chroma subsampling.

    Args:
      path: .png, .jpg, .jpeg, .webp, .bmp, .tif or .tiff.
      rgb: [height, width, 3], uint8, or uint16 for PNG and TIFF.
      alpha: [height, width] of the same dtype; PNG, TIFF and WebP only.
      icc_profile: RGB colour profile; BMP has no place for one and drops it.
      text: PNG only: entries that `read_image` gives back.

    Raises:
      HCFlowError: the format cannot hold what it is given, or the file cannot be written; `path` is as it was.
    """
    path = pathlib.Path(path)
    bit_depth, side = rgb.dtype.itemsize * 8, max(rgb.shape[:2], default=0)
    image_format = check_writable(path, bit_depth=bit_depth, alpha=alpha is not None, text=bool(text), side=side)
    if rgb.dtype not in (np.uint8, np.uint16) or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise HCFlowError(f"cannot write {path}: expected [height, width, 3] uint8 or uint16, got {rgb.shape} {rgb.dtype}")
    if alpha is not None and (alpha.dtype != rgb.dtype or alpha.shape != rgb.shape[:2]):
        raise HCFlowError(f"cannot write {path}: alpha is {alpha.shape} {alpha.dtype}, the image {rgb.shape} {rgb.dtype}")
    pixels = np.ascontiguousarray(rgb if alpha is None else np.concatenate([rgb, alpha[..., None]], axis=2))
    with atomic_path(path) as temporary:
        try:
            if image_format == "TIFF":
                sixteen_bit.write_tiff(temporary, pixels, icc_profile)
            elif image_format == "PNG" and pixels.dtype == np.uint16:
                sixteen_bit.write_png(temporary, pixels, icc_profile, text or {})
            else:
                _write_with_pillow(temporary, pixels, image_format, icc_profile, text or {})
        except (ValueError, struct.error) as error:  # a side longer than the format can say, for example
            raise HCFlowError(f"cannot write {path}: {error}") from error


def png_bytes(rgb: np.ndarray) -> int:
    """Bytes of an image [height, width, 3] uint8 as a PNG file without metadata."""
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, "PNG")
    return content.tell()


def check_writable(path: str | os.PathLike, *, bit_depth: int = 8, alpha: bool = False, text: bool = False, side: int = 1) -> str:
    """The format of a file name's suffix, if that format can hold such an image; for failing before the work.

    Args:
      path: the file.
      bit_depth: 8 or 16.
      alpha: whether there is transparency.
      text: whether there are text entries.
      side: pixels of the longer side.

    Raises:
      HCFlowError: it cannot; the message says which suffix can.
    """
    image_format = FORMATS.get(pathlib.Path(path).suffix.lower())
    if image_format is None:
        raise HCFlowError(f"cannot write {path}: unknown image suffix; use one of {', '.join(FORMATS)}")
    for wanted, what, able in (
        (bit_depth == 16, "16 bit", ("PNG", "TIFF")),
        (alpha, "transparency", ("PNG", "TIFF", "WEBP")),
        (text, "text entries", ("PNG",)),
        (side > _LONGEST_SIDE.get(image_format, side), f"a side of {side:,} pixels", ("PNG", "TIFF")),
    ):
        if wanted and image_format not in able:
            suffixes = ", ".join(suffix for suffix, name in FORMATS.items() if name in able)
            raise HCFlowError(f"cannot write {path}: {image_format} cannot hold {what}; use {suffixes}")
    return image_format


@contextlib.contextmanager
def _opened(path: str | os.PathLike, max_pixels: int) -> Iterator[Image.Image]:
    """The file, opened by Pillow, its header checked; whatever goes wrong inside becomes an ImageError naming it."""
    try:
        check_regular(path)  # a pipe would be waited for, a device read without end
        if pathlib.Path(path).stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        with _open_unlimited(path) as image:
            width, height = image.size
            if min(width, height) < 1:
                raise ImageError(f"{path}: the header says {width} x {height} pixels")
            if width * height > max_pixels:
                raise ImageError(f"{path}: {width} x {height} pixels are more than the cap of {max_pixels:,} pixels")
            yield image
    except HCFlowError:
        raise
    except MemoryError as error:
        raise ImageError(f"{path}: not enough memory to decode it") from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a PNG, JPEG, WebP, BMP or TIFF image, or its header is damaged") from error
    # Decoders meet damaged files with every kind of exception (OSError, SyntaxError, struct.error, IndexError, ...).
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"truncated or damaged ({' '.join(str(error).split())[:200]})"
        raise ImageError(f"{path}: {reason}") from error


def _open_unlimited(path: str | os.PathLike) -> Image.Image:
    """`Image.open` without Pillow's own pixel limit, which is global and would undercut or contradict `max_pixels`."""
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_READABLE)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be undone, 1 to 8."""
    if image.format == "TIFF":  # Pillow swaps the sides on opening and turns the pixels on loading
        return 1
    try:
        # Not image.getexif(), which decodes a whole PNG in search of EXIF data behind the pixels.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to refuse the picture
        return 1
    return value if value in range(1, 9) else 1


def _is_16_bit(image: Image.Image) -> bool:
    """Whether the file holds 16 bits per channel, whatever Pillow would reduce them to; before loading."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16 in image.tag_v2.get(_BITS_PER_SAMPLE_TAG, ())
    raw_mode = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None  # such as RGB;16B
    return image.format == "PNG" and "16" in str(raw_mode)


def _decode_8_bit(image: Image.Image, icc_profile: bytes | None) -> np.ndarray:
    """[height, width, 3 or 4] uint8."""
    image.load()  # a PNG's transparency entry may follow later in the file
    if image.mode == "CMYK" and icc_profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # the profile is damaged, or of another kind of colours
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)), ImageCms.createProfile("sRGB")
            return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _decode_16_bit(path: str | os.PathLike, image: Image.Image) -> np.ndarray:
    """[height, width, 1 to 4] uint16."""
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)[..., None]
    elif image.format == "PNG":
        pixels = sixteen_bit.decode_png(path, channels=len(image.mode))
    else:
        pixels = sixteen_bit.decode_tiff(path)
    colour_key = image.info.get("transparency")  # the colour that a PNG declares transparent
    if colour_key is None:
        return pixels
    opaque = (pixels != np.asarray(colour_key, np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([pixels, opaque * np.uint16(65535)], axis=2)


def _write_with_pillow(
    path: pathlib.Path, pixels: np.ndarray, image_format: str, icc_profile: bytes | None, text: Mapping[str, str]
) -> None:
    options = dict(_PILLOW_OPTIONS.get(image_format, {}))
    if icc_profile and image_format != "BMP":
        options["icc_profile"] = icc_profile
    if text:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for key, value in text.items():
            options["pnginfo"].add_text(key, value)
    Image.fromarray(pixels).save(path, image_format, **options)
