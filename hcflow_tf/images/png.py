"""PNG where Pillow does not do: 16-bit colour, by imagecodecs, and the chunks that say what colours mean."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import Image, PngImagePlugin

from hcflow_tf.images.metadata import Metadata

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURE_AND_HEADER = len(_SIGNATURE) + 25
"""Bytes of a PNG before the place where further chunks may be put: the signature and IHDR."""
_LONGEST_CHUNK = 2**16
_XMP = "XML:com.adobe.xmp"


def read_chunks(path: str | os.PathLike) -> dict[bytes, bytes]:
    """The chunks of a file by name, undecoded; empty where they are the pixels, or longer than 64 KiB. Of two, the first."""
    found: dict[bytes, bytes] = {}
    with pathlib.Path(path).open("rb") as file:
        file.seek(len(_SIGNATURE))
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length, name = int.from_bytes(head[:4], "big"), head[4:]
            is_read = length <= _LONGEST_CHUNK and name != b"IDAT"
            found.setdefault(name, file.read(length) if is_read else b"")
            file.seek(4 if is_read else length + 4, os.SEEK_CUR)
    return found


def is_gray(chunks: Mapping[bytes, bytes]) -> bool:
    """Whether the header says that there is one channel, or one and alpha."""
    return chunks[b"IHDR"][9] in (0, 4)


def bits(chunks: Mapping[bytes, bytes]) -> int:
    """Bits per channel, 1 to 16."""
    return chunks[b"IHDR"][8]


def decode_16_bit(path: str | os.PathLike, channels: int) -> np.ndarray:
    """A 16-bit PNG as [height, width, channels] uint16; 4 channels for gray with alpha, too.

    Raises:
      ValueError: the file is damaged.
    """
    import imagecodecs

    try:
        pixels = imagecodecs.png_decode(pathlib.Path(path).read_bytes())
    except imagecodecs.PngError as error:
        raise ValueError("the pixels cannot be unpacked") from error
    pixels = np.atleast_3d(pixels)
    if pixels.shape[2] == 2 and channels == 4:
        pixels = pixels[..., [0, 0, 0, 1]]
    return pixels[..., :channels]


def write(path: pathlib.Path, pixels: np.ndarray, icc_profile: bytes | None, text: Mapping[str, str], metadata: Metadata) -> None:
    """Writes [height, width, 3 or 4] uint8 or uint16 as PNG."""
    entries = PngImagePlugin.PngInfo()
    for key, value in text.items():
        entries.add_text(key, value)
    if metadata.xmp:
        entries.add_itxt(_XMP, metadata.xmp.decode("utf-8", "replace"))
    options: dict = {"dpi": metadata.dpi} if metadata.dpi else {}
    if metadata.exif:
        options["exif"] = metadata.exif
    if icc_profile:
        options["icc_profile"] = icc_profile
    if pixels.dtype == np.uint8:
        Image.fromarray(pixels).save(path, "PNG", pnginfo=entries, **options)
        return
    import imagecodecs

    # imagecodecs writes the pixels; all else is that of a picture of one pixel that Pillow writes.
    one, encoded = io.BytesIO(), imagecodecs.png_encode(pixels)
    Image.new("RGB", (1, 1)).save(one, "PNG", pnginfo=entries, **options)
    chunks = b"".join(_chunk(kind, content) for kind, content in _ancillary(one.getvalue()))
    path.write_bytes(encoded[:_SIGNATURE_AND_HEADER] + chunks + encoded[_SIGNATURE_AND_HEADER:])


def _ancillary(file: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of the chunks that are neither header nor pixels."""
    chunks, at = [], 8
    while at < len(file):
        length, kind = int.from_bytes(file[at : at + 4], "big"), file[at + 4 : at + 8]
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            chunks.append((kind, file[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
