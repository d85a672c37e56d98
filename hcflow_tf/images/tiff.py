"""TIFF, read by its tags through tifffile and imagecodecs, and written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tifffile

from hcflow_tf.images import colour
from hcflow_tf.images.formats import ImageError
from hcflow_tf.images.metadata import Metadata, sound_dpi, upright

_GRAY = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK)
_COLOUR = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
_PALETTE, _CMYK = tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.SEPARATED
_JPEG = (6, 7, 34892, 33007)
_ASSOCIATED, _UNASSOCIATED = 1, 2
_DNG_VERSION, _SUB_IFDS, _INK_SET = 50706, 330, 332
_XMP, _IPTC, _RESOLUTION = 700, 33723, 282
_MAX_CHANNELS = 8


@dataclasses.dataclass(frozen=True)
class TiffHeader:
    """The first picture of a TIFF file, before it is decoded; width and height upright."""

    width: int
    height: int
    mode: str
    """Pillow's name of the pixel format, or the nearest."""


@dataclasses.dataclass(frozen=True)
class TiffPicture:
    """A decoded picture."""

    pixels: np.ndarray
    """[height, width, 1 to 4], uint8 or uint16, upright: gray or RGB, then alpha that the colours are not multiplied by."""
    icc_profile: bytes | None
    mode: str
    notes: tuple[str, ...]
    metadata: Metadata


def read_header(path: str | os.PathLike) -> TiffHeader:
    """Size and pixel format of a TIFF file's first picture.

    Raises:
      ImageError: the pixels are of a kind that is not read.
      Exception: of any kind, if the file is damaged.
    """
    with _first_page(path) as (_, page):
        width, height = page.imagewidth, page.imagelength
        return TiffHeader(*((height, width) if _orientation(page) >= 5 else (width, height)), _mode(page))


def read(path: str | os.PathLike) -> TiffPicture:
    """Decodes the first picture of a TIFF file by its tags.

    Min-is-white is inverted, associated alpha divided out, CMYK converted, a palette looked up; extra channels that are
    not called alpha are dropped and said.

    Raises:
      ImageError: the pixels are of a kind that is not read.
      Exception: of any kind, if the file is damaged.
    """
    with _first_page(path) as (tiff, page):
        _check_segments(page)
        pixels = page.asarray()  # which unpacks no strip to more than the picture needs
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            pixels = np.moveaxis(pixels, 0, 2)
        pixels = pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        profile = page.tags.valueof("InterColorProfile")
        profile = bytes(profile) if isinstance(profile, bytes) else None
        pixels, profile, notes = _to_gray_or_rgb(page, pixels, profile)
        with contextlib.suppress(Exception):  # what is wrong with later pages is no concern of the first
            if tiff.pages.get(1) is not None:
                notes += ("holds several pages: only the first picture is read",)
        return TiffPicture(upright(pixels, _orientation(page)), profile, _mode(page), notes, _metadata(page))


def write(path: pathlib.Path, pixels: np.ndarray, icc_profile: bytes | None, metadata: Metadata) -> None:
    """Writes [height, width, 3 or 4] uint8 or uint16 as deflated TIFF; of the metadata XMP, IPTC, resolution."""
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        compression="zlib",
        predictor=True,
        iccprofile=icc_profile,
        extratags=[
            (code, kind, len(value), value, True)
            for code, kind, value in ((_XMP, "B", metadata.xmp), (_IPTC, "B", metadata.iptc))
            if value
        ],
        metadata=None,
        software=False,
        **({"resolution": metadata.dpi, "resolutionunit": "INCH"} if metadata.dpi else {}),
    )


@contextlib.contextmanager
def _first_page(path: str | os.PathLike) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPage]]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if reason := _why_not(page):
            raise ImageError(f"{path}: {reason}; save it as 8- or 16-bit RGB or gray")
        yield tiff, page


def _why_not(page: tifffile.TiffPage) -> str | None:
    """Why a picture is not read, by its tags."""
    bits, sample_format = page.bitspersample, page.sampleformat
    name = getattr(page.photometric, "name", str(page.photometric))
    if _DNG_VERSION in page.tags or name in ("CFA", "LINEAR_RAW"):
        return "is a camera raw file (DNG), which is not supported"
    if page.is_reduced and _SUB_IFDS in page.tags:
        return "its first picture is a preview, as in a camera raw file, which is not supported"
    if not isinstance(bits, int) or not isinstance(sample_format, int):
        return "pixel format with channels of different kinds is not supported"
    if sample_format != tifffile.SAMPLEFORMAT.UINT and page.compression not in _JPEG:
        kind = {2: "signed integers (int", 3: "floating point (float"}.get(int(sample_format), "numbers of another kind (")
        return f"pixel format {'F' if sample_format == 3 else 'I'} is not supported: {kind}{bits})"
    if bits > 16:
        return f"pixel format of {bits} bits a channel is not supported"
    if page.photometric not in (*_GRAY, *_COLOUR, _PALETTE, _CMYK):
        return f"pixel format {name} ({'Lab' if 'LAB' in name else name.lower()}) is not supported"
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression not in _JPEG:
        return "pixel format YCbCr without JPEG compression is not supported"
    colours = _colours(page)
    if not colours <= page.samplesperpixel <= _MAX_CHANNELS or (
        page.photometric == _CMYK and page.tags.valueof(_INK_SET, 1) != 1
    ):
        return f"{page.samplesperpixel} channels of {name} are not supported"
    if page.imagedepth != 1 or page.size != page.imagewidth * page.imagelength * page.samplesperpixel:
        return f"pixels of shape {page.shape} are not a picture"
    if page.photometric == _PALETTE and (page.colormap is None or page.colormap.shape != (3, 2**bits)):
        return "is damaged: the palette is missing or of another size"
    return None


def _check_segments(page: tifffile.TiffPage) -> None:
    """A strip or tile that is not there would be filled with black."""
    if not page.dataoffsets or not all(page.dataoffsets) or not all(page.databytecounts):
        raise ValueError("a strip or tile of pixels is missing")


def _to_gray_or_rgb(
    page: tifffile.TiffPage, pixels: np.ndarray, profile: bytes | None
) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Pixels as `TiffPicture` has them, before turning; the RGB profile; what was dropped."""
    colours, kinds = _colours(page), [int(kind) for kind in page.extrasamples]
    index = next((i for i, kind in enumerate(kinds) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
    values = pixels[..., :colours]
    if page.photometric == _PALETTE:
        values = (page.colormap[:, values[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0)
    else:
        values = _to_full_range(values, page.bitspersample)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            values = np.iinfo(values.dtype).max - values
    alpha = None
    if index is not None:
        alpha = _to_full_range(pixels[..., colours + index], 8 if pixels.dtype == np.uint8 else page.bitspersample)
        if kinds[index] == _ASSOCIATED:
            values = _divide(values, alpha)
    space = {1: "GRAY", 4: "CMYK"}.get(values.shape[2], "RGB")
    profile, notes = colour.check_profile(profile, space)
    if space == "GRAY" and profile:
        values = colour.gray_to_srgb(values, profile)
    elif space == "CMYK":
        values = colour.cmyk_to_srgb(values, profile)
    dropped = page.samplesperpixel - colours - (alpha is not None)
    if dropped:
        notes += (f"{dropped} extra channel{'s' * (dropped > 1)}, not called transparency, dropped",)
    values = values if alpha is None else np.concatenate([values, alpha[..., None]], axis=2)
    return values, profile if space == "RGB" else None, notes


def _to_full_range(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of 1 to 16 bits as uint8 (up to 8 bits) or uint16, white at the top."""
    if bits in (8, 16):
        return values
    top, dtype = (255, np.uint8) if bits < 8 else (65535, np.uint16)
    white = 2**bits - 1
    return ((values.astype(np.uint32) * top + white // 2) // white).astype(dtype)


def _divide(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that are not multiplied by alpha, of those that are; what is invisible stays."""
    top = np.iinfo(values.dtype).max
    divisor = np.maximum(alpha, 1).astype(np.uint64)[..., None]
    divided = np.minimum((values.astype(np.uint64) * top + divisor // 2) // divisor, top).astype(values.dtype)
    return np.where(alpha[..., None] > 0, divided, values)


def _colours(page: tifffile.TiffPage) -> int:
    """Channels that are colours."""
    return 1 if page.photometric in (*_GRAY, _PALETTE) else 4 if page.photometric == _CMYK else 3


def _metadata(page: tifffile.TiffPage) -> Metadata:
    """XMP, IPTC and resolution; the EXIF directory is not read."""
    xmp, iptc = (page.tags.valueof(code) for code in (_XMP, _IPTC))
    dpi = None
    with contextlib.suppress(Exception):
        if _RESOLUTION in page.tags:
            dpi = tuple(float(value) for value in page.get_resolution("INCH"))
    return Metadata(None, _bytes(xmp), _bytes(iptc), sound_dpi(dpi))


def _bytes(value: object) -> bytes | None:
    return bytes(value) if isinstance(value, bytes | np.ndarray | tuple) and len(value) else None


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof("Orientation", 1)
    return value if value in range(1, 9) else 1


def _mode(page: tifffile.TiffPage) -> str:
    if page.photometric == _PALETTE:
        return "P"
    mode = {1: "L" if page.bitspersample <= 8 else "I;16", 4: "CMYK"}.get(_colours(page), "RGB")
    has_alpha = any(kind in (_ASSOCIATED, _UNASSOCIATED) for kind in page.extrasamples)
    return mode + "A" if has_alpha and mode in ("L", "RGB") else mode
