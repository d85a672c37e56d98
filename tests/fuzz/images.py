"""Image files that lie: each named kind of lie on its own, then random damage to files of every format."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile

import numpy as np
from PIL import Image

from fuzz.bases import chunk, encode, exif, picture, png, valid
from fuzz.formats import format_lies
from fuzz.mutations import mutants

SUFFIXES = (".png", ".jpg", ".webp", ".bmp", ".tif")
DEEP = 100_000


def lying_images(seed: int, mutated: int) -> dict[str, bytes]:
    """File name -> content: all structured lies, all valid files, and `mutated` damaged ones.

    GIF stands for the formats that are not read: it bears the suffix of one that is.
    """
    files = {**valid(), **_nothing(), **_tiny(), **_wrong_suffixes(), **_foreign(), **format_lies()}
    files |= {**_broken_exif(), **_originals(), **_numbers_in_headers()}
    files |= mutants(valid(), mutated, random.Random(seed))
    return {name.replace(".gif", ".gif.png"): content for name, content in files.items()}


def _nothing() -> dict[str, bytes]:
    contents = {"empty": b"", "zero": b"\0", "zeros": bytes(5000), "newline": b"\n", "text": b"not an image\n" * 9}
    return {f"{kind}{suffix}": content for kind, content in contents.items() for suffix in SUFFIXES}


def _tiny() -> dict[str, bytes]:
    """1 x 1, lines and small odd sizes, in every format and mode."""
    files = {}
    formats = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}
    modes = {"RGB": SUFFIXES, "L": SUFFIXES, "1": (".png", ".bmp", ".tif"), "RGBA": (".png", ".webp", ".tif")}
    modes |= {"LA": (".png",), "P": (".png", ".bmp", ".tif"), "CMYK": (".jpg", ".tif"), "I;16": (".png", ".tif")}
    for mode, suffixes in modes.items():
        for size in ((1, 1), (1, 9), (9, 1), (3, 2)):
            source = Image.fromarray(picture(size[1], size[0]))
            gray16 = Image.fromarray(picture(size[1], size[0], 1, np.uint16)[..., 0])
            image = gray16 if mode == "I;16" else source.convert(mode)
            for suffix in suffixes:
                files[f"tiny_{mode.replace(';', '')}_{size[0]}x{size[1]}{suffix}"] = encode(image, formats[suffix])
    files["long.png"] = encode(Image.new("L", (20_000, 1)), "PNG")
    files["high.bmp"] = encode(Image.new("L", (1, 20_000)), "BMP")
    return files


def _wrong_suffixes() -> dict[str, bytes]:
    return {
        f"{name.replace('.', '_')}_as{suffix}": content
        for name, content in valid().items()
        for suffix in SUFFIXES
        if not name.endswith(suffix)
    }


def _foreign() -> dict[str, bytes]:
    """Files of other kinds under an image's suffix."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", valid()["rgb.png"])
    contents = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="/etc/passwd"/></svg>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(marker) (w) file closefile\nshowpage\n",
        "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n",
        "zip": archive.getvalue(),
        "ppm": b"P6 4 4 255\n" + bytes(48),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(57),
        "python": b"import os; os.system('touch marker')\n",
        "ico": encode(Image.new("RGB", (16, 16)), "ICO"),
        "tga": encode(Image.new("RGB", (16, 16)), "TGA"),
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(64),
        "fli": struct.pack("<IHHHHHH", 128, 0xAF11, 1, 9, 9, 8, 3) + bytes(112),
    }
    return {f"{kind}.png": content for kind, content in contents.items()}


def _broken_exif() -> dict[str, bytes]:
    rgb, files = Image.fromarray(picture()), {}
    whole = exif()
    blocks = {
        "noise": b"Exif\0\0" + bytes(range(256)),
        "cut": whole[:13],
        "header only": whole[:6],
        "empty": b"",
        "loop": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8),
        "far offset": b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(20),
        "many entries": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40),
        "huge count": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 12, 2**31, 8, 0),
        "orientation 0": exif(0),
        "orientation 99": exif(99),
        "orientation text": _orientation(2, 4, b"six\0"),
        "orientation list": _orientation(3, 2, b"\6\0\6\0"),
        "orientation fraction": _orientation(5, 1, b"\x1a\0\0\0") + struct.pack("<II", 6, 0),
        "orientation of no type": _orientation(77, 1, b"\6\0\0\0"),
        "big endian": b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0),
    }
    for kind, block in blocks.items():
        stem = f"exif_{kind.replace(' ', '_')}"
        files[f"{stem}.jpg"] = encode(rgb, "JPEG", exif=block)
        files[f"{stem}.png"] = encode(rgb, "PNG", exif=block)
        files[f"{stem}.webp"] = encode(rgb, "WEBP", exif=block)
    return files


def _orientation(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block whose orientation has this type."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI", 1, 0x0112, kind, count) + value + bytes(4)


def _originals() -> dict[str, bytes]:
    """What a PNG may claim of the image it was made from."""
    row, files = b"\0" + bytes(90), {}
    honest = {"width": 120, "height": 84, "scale": 4, "gray": False}
    texts = {
        "float": json.dumps(honest | {"width": 119.5, "height": 83.5}),
        "integral float": json.dumps(honest | {"width": 119.0}),
        "text": json.dumps(honest | {"width": "120"}),
        "huge": json.dumps(honest | {"width": 10**30}),
        "negative": json.dumps(honest | {"width": -120}),
        "true": json.dumps(honest | {"scale": True}),
        "not a number": json.dumps(honest | {"width": float("nan")}),
        "infinite": json.dumps(honest | {"height": float("inf")}),
        "list": "[120, 84, 4, false]",
        "null": "null",
        "more keys": json.dumps(honest | {"path": "/etc/passwd"}),
        "gray is a list": json.dumps(honest | {"gray": [1]}),
        "deep": "[" * DEEP,
        "digits": json.dumps(honest).replace("120", "1" * 5000),
        "no json": "120 x 84",
    }
    for kind, text in texts.items():
        entry = chunk(b"tEXt", b"hcflow_original\0" + text.encode())
        files[f"original_{kind.replace(' ', '_')}.png"] = png(30, 21, 8, 2, row * 21, entry)
    return files


def _numbers_in_headers() -> dict[str, bytes]:
    """Each of the first words of a header replaced by what an integer overflow would like."""
    files = {}
    for name in ("rgb.bmp", "lossy.webp", "plain.tif", "rgb16.tif"):
        stem, _, suffix = name.partition(".")
        for position in range(0, 60, 4):
            for label, word in (("ones", b"\xff" * 4), ("half", b"\0\0\0\x80"), ("zero", bytes(4))):
                content = valid()[name]
                files[f"{stem}_word_{position}_{label}.{suffix}"] = content[:position] + word + content[position + 4 :]
    return files
