"""Writing image files: what each format can hold, and the options of each."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from hcflow_tf.images import png, tiff
from hcflow_tf.images.formats import FORMATS
from hcflow_tf.images.metadata import Metadata
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import atomic_path

_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535}
"""Pixels, where a format (or the library that writes it) has such a limit below that of memory."""
_DEFAULT_QUALITY = {"JPEG": 95, "AVIF": 90}
_FULL_CHROMA_QUALITY = 90
"""From this quality on, chroma is not subsampled."""
_CHROMA: dict[str, tuple | None] = {"JPEG": (0, 2), "AVIF": ("4:4:4", "4:2:0"), "WEBP": None}
"""Lossy formats -> what Pillow calls chroma at full and at half resolution, where there is a choice."""


def quantize(image: np.ndarray, bit_depth: int = 8) -> np.ndarray:
    """Floating point values in [0, 1] as uint8 or uint16: clipped and rounded to nearest.

    Raises:
      HCFlowError: the image holds NaN.
    """
    top, dtype = {8: (255, np.uint8), 16: (65535, np.uint16)}[bit_depth]
    image = np.asarray(image, np.float32)
    if np.isnan(image).any():
        raise HCFlowError("the computed image holds values that are not numbers (NaN): it is too unlike those of the training")
    return np.floor(image.clip(0.0, 1.0) * np.float32(top) + np.float32(0.5)).astype(dtype)


def write_image(
    path: str | os.PathLike,
    rgb: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    icc_profile: bytes | None = None,
    text: Mapping[str, str] | None = None,
    metadata: Metadata | None = None,
    quality: int | None = None,
) -> None:
    """Writes an image in the format of its suffix, completely or not at all.

    PNG, TIFF, BMP and, without a quality, WebP keep every value. JPEG is written at quality 95 and AVIF at 90 where none
    is given; from 90 on without chroma subsampling.

    Args:
      path: .png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff or .avif.
      rgb: [height, width, 3], uint8, or uint16 for PNG and TIFF.
      alpha: [height, width] of the same dtype; PNG, TIFF, WebP and AVIF only.
      icc_profile: RGB colour profile; BMP has no place for one and drops it.
      text: PNG only: entries that `read_image` gives back.
      metadata: EXIF, XMP, IPTC, resolution, as far as the format has a place for them (`lost_metadata`).
      quality: 1 to 100, of JPEG, AVIF and WebP, which is lossless without.

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
    metadata = metadata or Metadata()
    with atomic_path(path) as temporary:
        try:
            if image_format == "TIFF":
                tiff.write(temporary, pixels, icc_profile, metadata)
            elif image_format == "PNG":
                png.write(temporary, pixels, icc_profile, text or {}, metadata)
            else:
                options = _options(image_format, icc_profile, metadata, quality)
                Image.fromarray(pixels).save(temporary, image_format, **options)
        except (ValueError, struct.error) as error:  # a side longer than the format can say, for example
            raise HCFlowError(f"cannot write {path}: {error}") from error


class BackgroundWriter(ThreadPoolExecutor):
    """Calls `write_image` in threads, so that the next image is computed meanwhile; the end of a `with` waits for them."""

    def __init__(self) -> None:
        threads = min(4, os.cpu_count() or 1)
        super().__init__(threads)
        self._free = threading.Semaphore(threads)

    def write(self, *args: Any, **options: Any) -> Future[None]:
        """Begins to write one; waits before that while as many are being written as there are threads."""
        self._free.acquire()
        written = self.submit(write_image, *args, **options)
        written.add_done_callback(lambda _: self._free.release())
        return written


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
        (alpha, "transparency", ("PNG", "TIFF", "WEBP", "AVIF")),
        (text, "text entries", ("PNG",)),
        (side > _LONGEST_SIDE.get(image_format, side), f"a side of {side:,} pixels", ("PNG", "TIFF")),
    ):
        if wanted and image_format not in able:
            suffixes = ", ".join(suffix for suffix, name in FORMATS.items() if name in able)
            raise HCFlowError(f"cannot write {path}: {image_format} cannot hold {what}; use {suffixes}")
    return image_format


def holds_16_bit(path: str | os.PathLike) -> bool:
    """Whether the format of a file name's suffix can hold 16 bits per channel."""
    return FORMATS.get(pathlib.Path(path).suffix.lower()) in ("PNG", "TIFF")


def lost_metadata(path: str | os.PathLike, metadata: Metadata, icc_profile: bytes | None) -> list[str]:
    """What a file of this name has no place for, in words."""
    image_format = FORMATS[pathlib.Path(path).suffix.lower()]
    lost = {
        "EXIF": metadata.exif and image_format in ("BMP", "TIFF"),
        "XMP": metadata.xmp and image_format == "BMP",
        "IPTC": metadata.iptc and image_format not in ("JPEG", "TIFF"),
        "colour profile": icc_profile and image_format == "BMP",
    }
    return [what for what, is_lost in lost.items() if is_lost]


def _options(image_format: str, icc_profile: bytes | None, metadata: Metadata, quality: int | None) -> dict:
    """What Pillow is to be told."""
    options: dict = {}
    quality = quality or _DEFAULT_QUALITY.get(image_format)
    if image_format == "WEBP" and quality is None:
        options |= {"lossless": True, "exact": True}
    elif image_format in _CHROMA and quality is not None:
        options |= {"quality": quality}
        if choice := _CHROMA[image_format]:
            options["subsampling"] = choice[0 if quality >= _FULL_CHROMA_QUALITY else 1]
    if image_format in _CHROMA:
        named = {"icc_profile": icc_profile, "exif": metadata.exif, "xmp": metadata.xmp}
        options |= {name: value for name, value in named.items() if value}
    if metadata.dpi and image_format in ("JPEG", "BMP"):
        options["dpi"] = tuple(round(value) for value in metadata.dpi)
    if metadata.iptc and image_format == "JPEG":
        options["extra"] = _photoshop_marker(metadata.iptc)
    return options


def _photoshop_marker(iptc: bytes) -> bytes:
    """JPEG's marker APP13 with IPTC records, as Photoshop writes it; empty if they are too long for one."""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content if len(content) < 65_534 else b""
