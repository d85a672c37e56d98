"""What a file says beside its pixels: orientation, EXIF, XMP, IPTC, resolution."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from typing import Any

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112
_EXIF_IFD, _MAKER_NOTE = 0x8769, 0x927C
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_OF_THE_PIXELS = (0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0115, 0x0116, 0x0117, 0x011C, 0x0201, 0x0202)
_IPTC_RESOURCE = 0x0404
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>))\s*[1-8]""")
_XMP_THUMBNAILS = re.compile(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", re.DOTALL)
_XMP_SIZES = re.compile(
    rb"""\s(?:exif:Pixel[XY]Dimension|tiff:Image(?:Width|Length))=(?:"[^"]*"|'[^']*')"""
    rb"|<(exif:Pixel[XY]Dimension|tiff:Image(?:Width|Length))>[^<]*</\1>"
)
_XMP_GAIN_MAP = re.compile(rb"""\s(?:hdrgm:\w+)=(?:"[^"]*"|'[^']*')|<Container:Directory>.*?</Container:Directory>""", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Metadata of a file, undecoded."""

    exif: bytes | None = None
    """A TIFF structure, with or without "Exif\\0\\0" in front."""
    xmp: bytes | None = None
    """An XMP packet, UTF-8."""
    iptc: bytes | None = None
    """IPTC records (IIM), as they are in Photoshop's resource 0x0404."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, horizontal and vertical."""

    @classmethod
    def of_image(cls, image: Image.Image) -> Metadata:
        """Of a picture that Pillow has loaded."""
        info = image.info
        exif, xmp, photoshop = info.get("exif"), info.get("xmp") or info.get("XML:com.adobe.xmp"), info.get("photoshop")
        if not exif and isinstance(raw := info.get("Raw profile type exif"), str):  # as ImageMagick writes it into PNG
            with contextlib.suppress(ValueError):
                exif = bytes.fromhex("".join(raw.split("\n")[3:]))
        iptc = photoshop.get(_IPTC_RESOURCE) if isinstance(photoshop, dict) else None
        return cls(
            exif if isinstance(exif, bytes) else None,
            xmp.encode() if isinstance(xmp, str) else xmp if isinstance(xmp, bytes) else None,
            iptc if isinstance(iptc, bytes) else None,
            sound_dpi(info.get("dpi")),
        )

    @property
    def has_gain_map(self) -> bool:
        """Whether the file says that it holds a map by which its highlights become brighter on an HDR screen."""
        return self.xmp is not None and (b"hdrgm:" in self.xmp or b"GainMap" in self.xmp)

    def of_result(self, width: int, height: int) -> Metadata:
        """The same for a picture made of the file: upright, of another size, without the preview of the old one.

        Orientation becomes 1, pixel dimensions those of the result; embedded thumbnails and what belongs to gain maps go.
        The resolution (DPI) is kept: a picture enlarged four times is printed four times as large.
        """
        return Metadata(_result_exif(self.exif, width, height), _result_xmp(self.xmp), self.iptc, self.dpi)


def orientation(exif: bytes | None) -> int:
    """The orientation, 1 to 8, that EXIF data gives; 1 if there is none, or it is damaged. XMP has no say in it."""
    if not exif:
        return 1
    try:
        data = Image.Exif()
        data.load(exif)
        value = data.get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF is no reason to refuse the picture
        return 1
    return value if value in range(1, 9) else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF or TIFF orientation (1 to 8; anything else counts as 1) of [height, width, channels]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def sound_dpi(dpi: Any) -> tuple[float, float] | None:
    """The two numbers, if they are two and can be a resolution."""
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError, OverflowError):
        horizontal, vertical = (float(value) for value in dpi)
        if min(horizontal, vertical) >= 1 and max(horizontal, vertical) < 65_536:
            return horizontal, vertical
    return None


def _result_exif(exif: bytes | None, width: int, height: int) -> bytes | None:
    if not exif:
        return None
    with contextlib.suppress(Exception):  # damaged, or a structure that Pillow cannot write: better none than a wrong one
        data = Image.Exif()
        data.load(exif)
        for tag in _OF_THE_PIXELS:
            data.pop(tag, None)
        details = data.get_ifd(_EXIF_IFD)
        if _ORIENTATION in data:
            data[_ORIENTATION] = 1
        if details:
            details.pop(_MAKER_NOTE, None)  # holds offsets into the old file, and previews
            for tag, side in ((_PIXEL_WIDTH, width), (_PIXEL_HEIGHT, height)):
                if tag in details:
                    details[tag] = side
        data.get_ifd(1).clear()  # the thumbnail
        if not len(data) and not details:
            return None
        return data.tobytes()
    return None


def _result_xmp(xmp: bytes | None) -> bytes | None:
    if not xmp:
        return None
    for pattern, replacement in (
        (_XMP_ORIENTATION, rb"\g<1>1"), (_XMP_THUMBNAILS, b""), (_XMP_SIZES, b""), (_XMP_GAIN_MAP, b""),
    ):  # fmt: skip
        xmp = pattern.sub(replacement, xmp)
    return xmp
