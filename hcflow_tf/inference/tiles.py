"""Overlapping tiles: where they lie, and how their results are joined."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one axis, in LR pixels.

    Attributes:
      start: first pixel.
      stop: end; beyond the image's length where a tile of fixed size is longer than the image.
      head: pixels shared with the tile before, 0 for the first.
      tail: pixels shared with the tile after, 0 for the last.
      blend: pixels, in the middle of what two tiles share, over which one goes over into the other.
    """

    start: int
    stop: int
    head: int
    tail: int
    blend: int

    def weights(self, factor: int) -> np.ndarray:
        """[factor * (stop - start)] float32 in [0, 1]; all tiles sum to 1 everywhere.

        The pixels next to a tile's inner border, which see the zero padding there, have weight 0.
        """
        weights = np.ones(factor * (self.stop - self.start), np.float32)
        if self.head:
            weights[: factor * self.head] = _ramp(factor * self.head, factor * self.blend)
        if self.tail:
            weights[-factor * self.tail :] *= 1 - _ramp(factor * self.tail, factor * self.blend)
        return weights


def _ramp(length: int, blend: int) -> np.ndarray:
    """0, rising over the `blend` values in the middle, 1."""
    position = np.arange(length, dtype=np.float32) + 0.5
    return np.clip((position - length / 2) / max(blend, 1) + 0.5, 0, 1)


def spans(length: int, tile: int, overlap: int, multiple: int = 1, *, exact: bool = False) -> list[Span]:
    """As few tiles of equal size as cover `length` pixels, evenly spread, neighbours sharing at least 2 * overlap pixels.

    Args:
      length: pixels of the image along this axis; divisible by `multiple`.
      tile: most pixels of a tile; one covers everything if it is not shorter than the image.
      overlap: pixels by which a tile reaches into each neighbour's part, the outer half of them unused; at most a
        quarter of a tile is taken.
      multiple: where tiles start and end is divisible by this.
      exact: no tile is smaller than `tile` either, though more than is needed is computed twice.
    """
    if multiple > 1:
        units = spans(length // multiple, tile // multiple, math.ceil(overlap / multiple), exact=exact)
        return [Span(*(multiple * pixels for pixels in dataclasses.astuple(span))) for span in units]
    overlap = min(overlap, tile // 4)
    if tile >= length:
        return [Span(0, tile, 0, 0, overlap)]
    count = math.ceil((length - 2 * overlap) / (tile - 2 * overlap))
    if not exact:
        tile = math.ceil((length + (count - 1) * 2 * overlap) / count)
    starts = [round(index * (length - tile) / (count - 1)) for index in range(count)]
    shared = [0, *(before + tile - after for before, after in itertools.pairwise(starts)), 0]
    return [Span(start, start + tile, shared[index], shared[index + 1], overlap) for index, start in enumerate(starts)]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A rectangle of the LR image's grid; the methods give it on a grid that is `factor` times finer (or coarser: 1/2)."""

    rows: Span
    columns: Span

    def cut(self, image: np.ndarray, factor: int | Fraction, *, mode: Literal["constant", "symmetric"]) -> np.ndarray:
        """This part of image [height, width, channels]; beyond its end padded as `numpy.pad` does in this mode."""
        slices, missing = [], []
        for span, size in ((self.rows, image.shape[0]), (self.columns, image.shape[1])):
            start, stop = int(span.start * factor), int(span.stop * factor)
            slices.append(slice(start, stop))
            missing.append((0, max(0, stop - size)))
        part = image[tuple(slices)]
        return np.pad(part, [*missing, (0, 0)], mode=mode) if any(end for _, end in missing) else part

    def add(self, canvas: np.ndarray, result: np.ndarray, factor: int) -> None:
        """Adds result, weighted, to its place on the canvas [height, width, channels]; what lies beyond is dropped."""
        weights = self.rows.weights(factor)[:, None, None] * self.columns.weights(factor)[:, None]
        top, left = self.rows.start * factor, self.columns.start * factor
        place = canvas[top : top + result.shape[0], left : left + result.shape[1]]
        place += (result * weights)[: place.shape[0], : place.shape[1]]


def tiles(
    height: int, width: int, tile: tuple[int, int], overlap: int, multiple: int = 1, *, exact: bool = False
) -> Iterator[Tile]:
    """The tiles of an LR image, row by row.

    Args:
      height: of the LR image.
      width: of the LR image.
      tile: height and width of each, in LR pixels, at most.
      overlap, multiple, exact: see `spans`.
    """
    for rows in spans(height, tile[0], overlap, multiple, exact=exact):
        for columns in spans(width, tile[1], overlap, multiple, exact=exact):
            yield Tile(rows, columns)
