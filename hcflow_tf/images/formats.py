"""Which kinds of picture there are, told apart by their first bytes: those that are read, written, or named and refused."""

from __future__ import annotations

import importlib
import os
import pathlib
import re

from hcflow_tf.support.errors import HCFlowError

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
"""Suffix -> format of the files that are written."""

READ_SUFFIXES = (*FORMATS, ".jpe", ".jfif", ".gif", ".heic", ".heif", ".jxl")
"""Suffixes of the files in a folder that are read."""

REFUSED_SUFFIXES = (
    *(".jp2", ".j2k", ".jpx", ".ico", ".pnm", ".ppm", ".pgm", ".pbm", ".tga", ".psd", ".hdr", ".exr", ".svg", ".apng"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
)
"""Suffixes of pictures that are not read: named where they are met in a folder, not passed over."""

KINDS = "PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF, HEIC or JPEG XL"

_EXTRAS = {"HEIF": ("pillow_heif", "HEIC", "heic"), "JXL": ("pillow_jxl", "JPEG XL", "jxl")}
"""Format -> module that teaches it to Pillow, its name in words, the extra that installs the module."""

_SIGNATURES = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"GIF8[79]a", "GIF"),
    (rb"....ftyp(avif|avis|.{4,40}avif)", "AVIF"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIF"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (rb"BM", "BMP"),
)
_REFUSED = (
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\0\0\x01\0", "an icon (ICO)"),
    (rb"P[1-7]\s", "PNM (PBM, PGM, PPM)"),
    (rb"8BPS", "PSD"),
    (rb"#\?(RADIANCE|RGBE)", "Radiance HDR"),
    (rb"\x76\x2f\x31\x01", "OpenEXR (EXR)"),
    (rb"%PDF", "PDF"),
    (rb"\s*(<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg", "SVG, a vector drawing"),
    (rb"....ftypcrx ", "camera raw (CR3)"),
    (rb"....ftyp", "a film, or a picture of a kind that is not supported"),
)


class ImageError(HCFlowError):
    """One image file cannot be read; a batch goes on with the next."""


def format_of(path: str | os.PathLike) -> str:
    """The format of a file, by its first bytes: PNG, JPEG, WEBP, BMP, TIFF, GIF, AVIF, HEIF or JXL.

    Raises:
      ImageError: it is none of them (the message names the kinds that are known, but not read), or reading it needs an
        extra that is not installed.
    """
    with pathlib.Path(path).open("rb") as file:
        head = file.read(1024)
    for pattern, name in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            _load_plugin(path, name)
            return name
    for pattern, name in _REFUSED:
        if re.match(pattern, head, re.DOTALL):
            raise ImageError(f"{path}: is {name}, not a {KINDS} image; save it as one of these")
    raise ImageError(f"{path}: not a {KINDS} image, or its header is damaged")


def _load_plugin(path: str | os.PathLike, image_format: str) -> None:
    """Teaches Pillow a format that needs an extra."""
    if image_format not in _EXTRAS:
        return
    module, words, extra = _EXTRAS[image_format]
    try:
        plugin = importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-") + ("-plugin" if extra == "jxl" else "")
        raise ImageError(f"{path}: is {words}, which needs {package}: pip install 'hcflow_tf[{extra}]'") from error
    if image_format == "HEIF":
        plugin.register_heif_opener()
