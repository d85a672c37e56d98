"""Lies that know the formats: bombs, and headers of PNG, TIFF and JPEG files that contradict what follows."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from fuzz.bases import SIGNATURE, SRGB, chunk, encode, picture, png, tiff, valid


def format_lies() -> dict[str, bytes]:
    """File name -> content."""
    return {**_bombs(), **_png_lies(), **_tiff_lies(), **_jpeg_lies()}


def _bombs() -> dict[str, bytes]:
    """Small files that say or hold far more than they should."""
    black = zlib.compress(bytes(30_000_000), 9)
    jpeg, huge = bytearray(valid()["rgb.jpg"]), struct.pack(">HH", 65535, 65535)
    start = jpeg.find(b"\xff\xc0") + 5
    jpeg[start : start + 4] = huge
    bmp = bytearray(valid()["rgb.bmp"])
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    flat = bytearray(valid()["rgb.bmp"])
    flat[18:26] = struct.pack("<ii", 2**27, 1)
    one = png(30, 21, 8, 2, b"\0" * 91 * 21)
    text = b"a\0\0" + black
    return {
        "bomb_header.png": png(100_000, 100_000, 8, 2, b""),
        "bomb_header_16.png": png(100_000, 100_000, 16, 6, b""),
        "bomb_under_the_cap.png": png(11_000, 11_000, 8, 0, b"\0" * 1000),
        "bomb_largest.png": png(2**31 - 1, 2**31 - 1, 8, 2, b""),
        "bomb_wide.png": png(2**31 - 1, 1, 1, 0, b""),
        "bomb_rows.png": png(4, 4, 8, 2, bytes(50_000_000)),
        "bomb_text.png": one[:33] + chunk(b"zTXt", text) + one[33:],
        "bomb_texts.png": one[:33] + chunk(b"zTXt", text[:40_000]) * 50 + one[33:],
        "bomb_profile.png": one[:33] + chunk(b"iCCP", b"p\0\0" + black) + one[33:],
        "bomb_international_text.png": one[:33] + chunk(b"iTXt", b"a\0\1\0\0\0" + black) + one[33:],
        "bomb_header.jpg": bytes(jpeg),
        "bomb_header.bmp": bytes(bmp),
        "bomb_flat.bmp": bytes(flat),
        "bomb_strip.tif": tiff_with_strip(zlib.compress(bytes(400_000_000), 9), compression=8),
        "bomb_strip_8_bit.tif": tiff_with_strip(black, compression=8, bits=8),
        "bomb_depth.tif": tiff_with_strip(zlib.compress(bytes(24)), compression=8, extra={32997: 2**30}),
        "bomb_size.tif": tiff_with_strip(zlib.compress(bytes(24)), compression=8, extra={256: 2**31 - 1, 257: 2**31 - 1}),
        "bomb_samples.tif": tiff_with_strip(zlib.compress(bytes(24)), compression=8, extra={277: 65535}),
        "bomb_scans.jpg": many_scans(200_000),
    }


def tiff_with_strip(strip: bytes, *, compression: int, bits: int = 16, extra: dict[int, int] | None = None) -> bytes:
    """A 2 x 2 RGB TIFF of one strip, little-endian, some of whose tags say something else."""
    tags = {256: 2, 257: 2, 258: (bits, bits, bits), 259: compression, 262: 2, 273: 0, 277: 3, 278: 2, 279: len(strip)}
    tags |= extra or {}
    bits_at = 8 + 2 + 12 * len(tags) + 4
    tags[273] = bits_at + 6
    entries = b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, tuple):
            entries += struct.pack("<HHII", tag, 3, len(value), bits_at)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + struct.pack("<HHH", *(bits,) * 3) + strip


def many_scans(count: int) -> bytes:
    """A progressive JPEG that refines the same coefficients again and again, on more pixels than it pays for."""
    content = encode(Image.new("L", (1000, 1000), 128), "JPEG", progressive=True)
    last = content.rfind(b"\xff\xda")
    scan = content[last:-2]
    return content[:-2] + scan * count + content[-2:]


def _png_lies() -> dict[str, bytes]:
    row = b"\0" + bytes(90)
    one = png(30, 21, 8, 2, row * 21)
    header, data, end = one[8:33], one[33:-12], one[-12:]
    lies = {
        "no_data": SIGNATURE + header + end,
        "no_end": SIGNATURE + header + data,
        "no_header": SIGNATURE + data + end,
        "two_headers": SIGNATURE + header + png(9, 9, 8, 2, b"")[8:33] + data + end,
        "end_first": SIGNATURE + end + header + data,
        "late_header": SIGNATURE + data + header + end,
        "endless_chunk": SIGNATURE + header + b"\xff\xff\xff\xffIDAT" + data,
        "negative_chunk": SIGNATURE + header + b"\x80\0\0\0tEXt" + data + end,
        "wrong_checksum": one[:29] + b"\0\0\0\0" + one[33:],
        "few_rows": png(30, 21, 8, 2, row * 3),
        "bad_filter": png(30, 21, 8, 2, (b"\x09" + bytes(90)) * 21),
        "no_palette": png(30, 21, 8, 3, (b"\0" + bytes(30)) * 21),
        "short_palette": png(30, 21, 8, 3, (b"\0" + bytes(range(30))) * 21, chunk(b"PLTE", b"\1\2\3")),
        "odd_palette": png(30, 21, 8, 3, (b"\0" + bytes(30)) * 21, chunk(b"PLTE", b"\1\2\3\4")),
        "long_transparency": png(30, 21, 8, 3, (b"\0" + bytes(30)) * 21, chunk(b"PLTE", bytes(48)), chunk(b"tRNS", bytes(999))),
        "short_transparency": png(30, 21, 8, 2, row * 21, chunk(b"tRNS", b"\0")),
        "short_transparency_16": png(30, 21, 16, 2, (b"\0" + bytes(180)) * 21, chunk(b"tRNS", b"\0\1")),
        "short_profile": png(30, 21, 8, 2, row * 21, chunk(b"iCCP", b"p\0\0" + zlib.compress(b"short"))),
        "interlaced": png(30, 21, 8, 2, bytes(4000), interlace=1),
        "interlaced_short": png(30, 21, 8, 2, bytes(40), interlace=1),
        "interlaced_16": png(30, 21, 16, 2, bytes(8000), interlace=1),
        "control_text": png(30, 21, 8, 2, row * 21, chunk(b"tEXt", b"\x1b[2J\0\x07\n")),
        "animation_without_frames": png(30, 21, 8, 2, row * 21, chunk(b"acTL", struct.pack(">II", 0, 0))),
        "animation_of_many_frames": png(30, 21, 8, 2, row * 21, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    }
    for depth in (0, 1, 3, 7, 16, 32, 255):
        for colour in (0, 1, 2, 3, 4, 6, 255):
            lies[f"depth_{depth}_colour_{colour}"] = png(5, 4, depth, colour, bytes(4 * 41))
    for size in ((0, 0), (0, 5), (5, 0), (2**31, 1), (2**32 - 1, 2**32 - 1)):
        lies[f"size_{size[0]}x{size[1]}"] = png(*size, 8, 2, bytes(80))
    return {f"png_{kind}.png": content for kind, content in lies.items()}


def _tiff_lies() -> dict[str, bytes]:
    honest = zlib.compress(picture(2, 2, dtype=np.uint16).tobytes())
    values = (0, 1, 3, 255, 65535, 2**31, 2**32 - 1)
    lies = {
        f"tag_{tag}_is_{value}": tiff_with_strip(honest, compression=8, extra={tag: value})
        for tag in (256, 257, 258, 259, 262, 266, 274, 277, 278, 279, 284, 317, 322, 323, 338, 339)
        for value in values
    }
    pixels = picture(dtype=np.uint16)
    lies |= {
        "loop": tiff_with_strip(honest, compression=8)[:-4] + struct.pack("<I", 8),
        "big": tiff(pixels, bigtiff=True, photometric="rgb"),
        "no_pages": b"II*\0\0\0\0\0",
        "page_beyond": b"II*\0\xff\xff\xff\x7f",
        "palette_16": tiff(picture(channels=1)[..., 0], photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        "five_channels": tiff(np.concatenate([pixels, pixels[..., :2]], 2), photometric="rgb", extrasamples=[0, 0]),
        "planes": tiff(np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate"),
        "signed": tiff(pixels.astype(np.int16), photometric="rgb"),
        "white_is_zero": tiff(pixels[..., 0], photometric="miniswhite"),
    }
    return {f"tiff_{kind}.tif": content for kind, content in lies.items()}


def _jpeg_lies() -> dict[str, bytes]:
    whole, cmyk = valid()["rgb.jpg"], valid()["cmyk.jpg"]
    frame = whole.find(b"\xff\xc0")
    profile = b"\xff\xe2" + struct.pack(">H", 2 + 14 + 50) + b"ICC_PROFILE\0\1\1" + bytes(50)
    part = b"\xff\xe2" + struct.pack(">H", 2 + 14 + 50) + b"ICC_PROFILE\0\3\2" + SRGB[:50]
    return {
        "jpeg_marker_only.jpg": b"\xff\xd8",
        "jpeg_no_scan.jpg": whole[: whole.find(b"\xff\xda")] + b"\xff\xd9",
        "jpeg_no_tables.jpg": whole[:2] + whole[frame:],
        "jpeg_no_frame.jpg": whole[:frame] + whole[whole.find(b"\xff\xda") :],
        "jpeg_two_pictures.jpg": whole + whole,
        "jpeg_in_noise.jpg": whole + bytes(range(256)) * 9,
        "jpeg_zero_height.jpg": whole[: frame + 5] + b"\0\0" + whole[frame + 7 :],
        "jpeg_12_bit.jpg": whole[: frame + 4] + b"\x0c" + whole[frame + 5 :],
        "jpeg_two_channels.jpg": whole[: frame + 9] + b"\x02" + whole[frame + 10 :],
        "jpeg_cmyk_bad_profile.jpg": cmyk[:2] + profile + cmyk[2:],
        "jpeg_part_of_profile.jpg": whole[:2] + part + whole[2:],
    }
