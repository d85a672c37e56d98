"""How large a tile the memory allows."""

from __future__ import annotations

import math
import pathlib

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_FALLBACK = 4 * 2**30
_USABLE_SHARE = 0.5
_MODEST = 2**30
"""Bytes of a tile on the CPU, where a network that takes few bytes per pixel is faster in tiles: its layers stay in the cache."""
_WORTH_OVERLAPPING = 11
"""Sides of so many overlaps: of a smaller tile too much is computed twice."""
SIDES = (64, 96, 128, 192, 256, 320, 384, 512, 768, 1024)
"""The sides that --tile auto chooses from: few, so that the same machine chooses the same one again."""


def available_memory() -> int:
    """Bytes that may be taken without swapping, a container's limit respected; 4 GiB where the system does not say."""
    amounts = []
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        amounts += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, usage in _CGROUPS:
        try:
            amounts.append(int(pathlib.Path(limit).read_text()) - int(pathlib.Path(usage).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0, min(amounts, default=_FALLBACK))


def largest_tile(bytes_per_pixel: float, available: int) -> int:
    """The side, in LR pixels, of the largest square of `SIDES` whose decoding takes at most half of the memory."""
    side = math.sqrt(available * _USABLE_SHARE / bytes_per_pixel)
    return max((candidate for candidate in SIDES if candidate <= side), default=SIDES[0])


def modest_tile(bytes_per_pixel: float, available: int, overlap: int) -> int:
    """As `largest_tile`, but no more than a gigabyte where a tile of that size is not mostly overlap."""
    modest = largest_tile(bytes_per_pixel, int(min(available, _MODEST / _USABLE_SHARE)))
    return modest if modest >= _WORTH_OVERLAPPING * overlap else largest_tile(bytes_per_pixel, available)
