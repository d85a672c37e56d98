"""16-bit colour, which Pillow cannot hold: PNG by libpng, through TensorFlow, and TIFF by tifffile (of scikit-image)."""

from __future__ import annotations

import lzma
import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import PngImagePlugin

from hcflow_tf.support.quiet import start_tensorflow

if TYPE_CHECKING:
    import tifffile

_DECOMPRESSORS: dict[int, Callable[[], Any]] = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
"""By the number of the compression in a TIFF file."""
_SIGNATURE_AND_HEADER = 8 + 25
"""Bytes of a PNG before the place where further chunks may be put: the signature and IHDR."""


def decode_png(path: str | os.PathLike, channels: int) -> np.ndarray:
    """A 16-bit PNG as [height, width, channels] uint16; 4 channels for gray with alpha, too.

    Raises:
      ValueError: the file is damaged.
    """
    start_tensorflow()
    import tensorflow as tf

    try:
        return tf.io.decode_png(pathlib.Path(path).read_bytes(), channels=channels, dtype=tf.uint16).numpy()
    except tf.errors.InvalidArgumentError as error:  # whose words are about TensorFlow
        raise ValueError("the pixels cannot be unpacked") from error


def decode_tiff(path: str | os.PathLike) -> np.ndarray:
    """The first page of a 16-bit TIFF, upright, as [height, width, channels] uint16.

    Raises:
      ValueError: the pixels are not 16-bit RGB, with or without alpha, or compressed in a way that needs imagecodecs.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        samples = page.imagewidth * page.imagelength * page.samplesperpixel
        if page.photometric != tifffile.PHOTOMETRIC.RGB or page.dtype != np.uint16 or page.ndim != 3 or page.size != samples:
            raise ValueError(f"{page.photometric!s} {page.dtype} {page.shape}: save it as RGB")
        _refuse_bomb(tiff, page)
        try:
            pixels = page.asarray()
        except (KeyError, ImportError) as error:
            raise ValueError(f"{page.compression.name} compression: save it uncompressed or pip install imagecodecs") from error
        pixels = np.moveaxis(pixels, 0, 2) if page.axes.startswith("S") else pixels
        orientation = page.tags.valueof("Orientation", 1)
    if pixels.shape[2] not in (3, 4):
        raise ValueError(f"{pixels.shape[2]} channels: save it as RGB, with or without alpha")
    return upright(pixels, orientation)


def _refuse_bomb(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    """No strip may hold more than the whole image: tifffile by itself unpacks whatever comes."""
    decompressor = _DECOMPRESSORS.get(page.compression)
    if decompressor is None:
        return
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        unpacker, packed = decompressor(), tiff.filehandle.read(count)
        if len(unpacker.decompress(packed, page.nbytes + 1)) > page.nbytes:
            raise ValueError("a strip unpacks to more than the image")


def write_png(path: pathlib.Path, pixels: np.ndarray, icc_profile: bytes | None, text: Mapping[str, str]) -> None:
    """Writes [height, width, 3 or 4] uint16 as PNG; TensorFlow encodes, the profile and the text are put in after."""
    start_tensorflow()
    import tensorflow as tf

    encoded = tf.io.encode_png(pixels).numpy()
    entries = PngImagePlugin.PngInfo()
    if icc_profile:
        entries.add(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    for key, value in text.items():
        entries.add_text(key, value)
    chunks = b"".join(_chunk(kind, content) for kind, content, *_ in entries.chunks)
    path.write_bytes(encoded[:_SIGNATURE_AND_HEADER] + chunks + encoded[_SIGNATURE_AND_HEADER:])


def write_tiff(path: pathlib.Path, pixels: np.ndarray, icc_profile: bytes | None) -> None:
    """Writes [height, width, 3 or 4] uint8 or uint16 as deflated TIFF."""
    import tifffile

    alpha = ["unassalpha"] if pixels.shape[2] == 4 else None
    tifffile.imwrite(
        path, pixels, photometric="rgb", extrasamples=alpha, compression="zlib", predictor=True, iccprofile=icc_profile
    )


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF or TIFF orientation (1 to 8; anything else counts as 1) of [height, width, channels]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
