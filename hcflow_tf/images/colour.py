"""Colours: what a file says of them, and the one rule for all kinds.

RGB keeps its values, and its profile is carried to what is made of it: an ICC profile as it is, PNG's cICP, gAMA and cHRM
as a profile with the same meaning. Gray and CMYK are converted to sRGB by their profile. What is damaged, or does not fit
the pixels, is ignored and said.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping

import numpy as np
from PIL import ImageCms

_ADOBE_GAMMA, _SRGB_GAMMA = 2.2, 1 / 2.2
_PRIMARIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""x and y of red, green, blue by the number in cICP (ITU-T H.273): BT.709 (and sRGB), BT.2020, Display P3."""
_D65 = (0.3127, 0.3290)
_SRGB_TRANSFERS, _GAMMA_TRANSFERS, _HDR_TRANSFERS = (1, 6, 13, 14, 15), {4: 2.2, 5: 2.8, 8: 1.0}, {16: "PQ", 18: "HLG"}
_SAME = 0.01
"""Gamma times 2.2, and chromaticities, that differ by less are those of sRGB."""


def profile_space(profile: bytes) -> str | None:
    """Colour space of an ICC profile, such as "RGB", "GRAY" or "CMYK"; None if the profile is damaged."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, AttributeError):
        return None


def check_profile(profile: bytes | None, space: str) -> tuple[bytes | None, tuple[str, ...]]:
    """A file's profile, if it is sound and for this colour space, else None; and what is to be said about that."""
    if not profile:
        return None, ()
    found = profile_space(profile)
    if found == space:
        return profile, ()
    return None, (f"its colour profile is {'damaged' if found is None else f'for {found}, not {space}'} and ignored",)


def gray_to_srgb(gray: np.ndarray, profile: bytes) -> np.ndarray:
    """Gray values, uint8 or uint16 of any shape, as those of sRGB, by a gray ICC profile."""
    import imagecodecs

    ramp = np.arange(65536, dtype=np.uint16)[:, None]
    converted = imagecodecs.cms_transform(
        ramp[:, :, None], profile, _srgb(), colorspace="gray", outcolorspace="rgb", outdtype=np.uint16, flags=_NO_OPTIMIZE
    )
    return _look_up(gray, converted.reshape(65536, 3)[:, 1])


def cmyk_to_srgb(cmyk: np.ndarray, profile: bytes | None) -> np.ndarray:
    """[height, width, 4] uint8 or uint16, 0 for no ink, as RGB: by the profile, else R = (1 - C) (1 - K)."""
    if profile:
        import imagecodecs

        return imagecodecs.cms_transform(cmyk, profile, _srgb(), colorspace="cmyk", outcolorspace="rgb", outdtype=cmyk.dtype)
    top = np.iinfo(cmyk.dtype).max
    light = (top - cmyk[..., :3]).astype(np.uint64) * (top - cmyk[..., 3:])
    return ((light + top // 2) // top).astype(cmyk.dtype)


class PngColours:
    """What the chunks cICP, sRGB, gAMA and cHRM of a PNG file say, in this order of precedence (iCCP is after cICP)."""

    def __init__(self, chunks: Mapping[bytes, bytes]):
        """Args: chunks, content by name."""
        self.notes: tuple[str, ...] = ()
        self._primaries: tuple[float, ...] = _PRIMARIES[1]
        self._white: tuple[float, ...] = _D65
        self._gamma: float | None = None
        self.overrides_profile = False
        cicp = chunks.get(b"cICP", b"")
        if len(cicp) == 4:
            self._read_cicp(*cicp[:2])
        elif b"sRGB" not in chunks and b"iCCP" not in chunks:
            self._read_gamma(chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b""))

    @property
    def is_srgb(self) -> bool:
        """Whether values can be taken as they are."""
        differ = np.abs(np.subtract([*self._primaries, *self._white], [*_PRIMARIES[1], *_D65])).max()
        return self._gamma is None and differ < _SAME

    def profile(self) -> bytes | None:
        """An RGB profile that says the same; None for sRGB."""
        if self.is_srgb:
            return None
        import imagecodecs

        primaries = [part for i in range(0, 6, 2) for part in (*self._primaries[i : i + 2], 1.0)]
        white, curve = (*self._white, 1.0), None if self._gamma else _srgb_curve()
        return imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, transferfunction=curve, gamma=self._gamma)

    def convert_gray(self, gray: np.ndarray) -> np.ndarray:
        """Gray values as those of sRGB."""
        if self._gamma is None:
            return gray
        light = (np.arange(65536) / 65535) ** self._gamma
        encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        return _look_up(gray, (encoded * 65535 + 0.5).astype(np.uint16))

    def _read_cicp(self, primaries: int, transfer: int) -> None:
        self.overrides_profile = True
        primaries = 12 if primaries == 11 else primaries
        if transfer in _HDR_TRANSFERS:
            self.notes = (f"its colours are HDR ({_HDR_TRANSFERS[transfer]}, cICP) and taken as they are: they will look flat",)
        elif primaries not in _PRIMARIES or transfer not in (*_SRGB_TRANSFERS, *_GAMMA_TRANSFERS):
            self.notes = (f"its colours are of a kind that is not known (cICP {primaries}, {transfer}) and taken as sRGB",)
        else:
            self._primaries, self._gamma = _PRIMARIES[primaries], _GAMMA_TRANSFERS.get(transfer)

    def _read_gamma(self, gamma: bytes, chromaticities: bytes) -> None:
        sample_per_light = int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else 0
        if 0.01 < sample_per_light < 10 and abs(sample_per_light / _SRGB_GAMMA - 1) > _SAME:
            self._gamma = 1 / sample_per_light
        if len(chromaticities) == 32:
            values = [int.from_bytes(chromaticities[i : i + 4], "big") / 100_000 for i in range(0, 32, 4)]
            if all(0 < y <= 1 for y in values[1::2]) and all(0 <= x <= 1 for x in values[::2]):
                self._white, self._primaries = tuple(values[:2]), tuple(values[2:])
                if not self.is_srgb and self._gamma is None:
                    self._gamma = _ADOBE_GAMMA


_NO_OPTIMIZE = 0x0100
"""cmsFLAGS_NOOPTIMIZE: without it dark tones of steep curves are off by up to 10 levels."""


@functools.cache
def _srgb() -> bytes:
    import imagecodecs

    return imagecodecs.cms_profile("srgb")


@functools.cache
def _srgb_curve() -> np.ndarray:
    value = np.linspace(0, 1, 1024)
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return (light * 65535 + 0.5).astype(np.uint16)


def _look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Args: table, [65536] uint16; 8-bit values are looked up at 257 times themselves, and rounded."""
    if values.dtype == np.uint16:
        return table[values]
    return ((table[::257].astype(np.uint32) + 128) // 257).astype(np.uint8)[values]
