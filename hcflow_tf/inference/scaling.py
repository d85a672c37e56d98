"""Upscaling and downscaling one image of any size with a runtime, in tiles where the memory or the runtime asks for it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TypeVar

import numpy as np

from hcflow_tf.images.formats import ImageError
from hcflow_tf.inference.memory import available_memory, largest_tile, modest_tile
from hcflow_tf.inference.tiles import Tile, tiles
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.devices import gpu_memory
from hcflow_tf.support.errors import HCFlowError, UsageError, complain
from hcflow_tf.support.latents import latent_shapes
from hcflow_tf.support.quiet import start_tensorflow

_Result = TypeVar("_Result")

MIN_TILE = 16
"""LR pixels."""


class Scaler:
    """Runs a runtime on images of any size.

    The latents are drawn for the whole image and cut, so neighbouring tiles agree, and the tile size changes the result
    only by what a tile does not see beyond its overlap (docs/usage.md says how little that is).

    Attributes:
      runtime: the model.
      scale: width of hr over width of lr.
    """

    def __init__(self, runtime: Runtime, tile: int | None = None):
        """Args: tile, side of the tiles in LR pixels; 0 for the whole image at once; None for as large as memory allows.

        Raises:
          UsageError: a tile too small, or not that of a runtime with a fixed size.
        """
        if tile is not None and tile != 0 and tile < MIN_TILE:
            raise UsageError(f"--tile {tile}: give at least {MIN_TILE} LR pixels, 0 for the whole image, or auto")
        if tile is not None and runtime.fixed_lr_size not in (None, (tile, tile)):
            height, width = runtime.fixed_lr_size
            raise UsageError(f"--tile {tile}: {runtime.name} only takes tiles of {height} x {width}; leave --tile auto")
        self.runtime, self.scale = runtime, runtime.scale
        self._tile = tile
        self._told = False
        """Whether it was said that the tiles are small."""
        self._limit: int | None = None
        """Side at which the memory ran out, halved."""

    def upscale(self, lr: np.ndarray, temperature: float = 0.0, seed: int = 0) -> np.ndarray:
        """Returns hr [scale h, scale w, 3] float32, clipped to [0, 1]; same seed and tile size, same image.

        Args:
          lr: [h, w, 3] float32 in [0, 1], any size; mirrored at the right and bottom up to a multiple of what the model takes,
            and the result cropped.
          temperature: tau, standard deviation of the latents; 0 needs no seed.
          seed: of the latents.

        Raises:
          HCFlowError: out of memory, or the result is not finite.
        """
        shown, scale = lr.shape, self.scale
        lr = pad_to_multiple(lr, self.runtime.lr_multiple)
        latents = self._draw_latents(lr.shape[0], lr.shape[1], temperature, seed)
        factors = [Fraction(scale, latent.divisor) for latent in self.runtime.latents]

        def decode(tile: Tile, canvas: np.ndarray) -> None:
            parts = [tile.cut(z, factor, mode="constant")[None] for z, factor in zip(latents, factors, strict=True)]
            result = self.runtime.decode(tile.cut(lr, 1, mode="symmetric")[None], parts)
            tile.add(canvas, result[0], scale)

        canvas = self._run(lr.shape[:2], scale, decode)[: scale * shown[0], : scale * shown[1]]
        if not np.isfinite(canvas).all():
            gray = self._gray(1)
            zeros = [z[None] for z in self._draw_latents(gray.shape[1], gray.shape[2], 0.0, 0)]
            advice = "; take a lower --temperature, or 0, and no --no-guard" if temperature else ""
            raise self._not_finite("values that are not finite", self.runtime.decode(gray, zeros), advice)
        return np.clip(canvas, 0.0, 1.0, out=canvas)

    def downscale(self, hr: np.ndarray) -> np.ndarray:
        """Returns lr [ceil(h / scale), ceil(w / scale), 3] float32, clipped to [0, 1], not rounded.

        Args:
          hr: [h, w, 3] float32 in [0, 1], any size; mirrored at the right and bottom up to a multiple of the scale.

        Raises:
          HCFlowError: out of memory, the runtime has no encoder, or the result is not finite.
        """
        hr = pad_to_multiple(hr, self.scale)

        def encode(tile: Tile, canvas: np.ndarray) -> None:
            result = self.runtime.downscale(tile.cut(hr, self.scale, mode="symmetric")[None])
            tile.add(canvas, result[0], 1)

        canvas = self._run((hr.shape[0] // self.scale, hr.shape[1] // self.scale), 1, encode)
        if not np.isfinite(canvas).all():
            raise self._not_finite("values that are not finite", self.runtime.downscale(self._gray(self.scale)))
        return np.clip(canvas, 0.0, 1.0, out=canvas)

    def log_prob(self, hr: np.ndarray, lr: np.ndarray) -> float:
        """log p(hr | lr) in nats; of an image that needs tiles, the sum over tiles that know nothing of each other.

        Args:
          hr: [scale h, scale w, 3] float32, dequantised.
          lr: [h, w, 3] float32 in [0, 1], of a size that the model takes (`Runtime.lr_multiple`).

        Raises:
          HCFlowError: out of memory, or the result is not finite.
        """

        def log_prob_of(tile: Tile) -> float:
            rows, columns = (slice(span.start + span.head, span.stop) for span in (tile.rows, tile.columns))
            fine = (slice(span.start * self.scale, span.stop * self.scale) for span in (rows, columns))
            return float(self.runtime.log_prob(hr[tuple(fine)][None], lr[rows, columns][None])[0])

        total = self._in_tiles(lr.shape[:2], lambda pieces: sum(map(log_prob_of, pieces)))
        if not math.isfinite(total):
            of_gray = self.runtime.log_prob(self._gray(self.scale), self._gray(1))
            raise self._not_finite("no finite likelihood", of_gray, "; --no-likelihood leaves it out")
        return total

    def _gray(self, factor: int) -> np.ndarray:
        """A gray picture [1, h, w, 3] that every runtime takes, and every sound model knows."""
        height, width = self.runtime.fixed_lr_size or (MIN_TILE, MIN_TILE)
        return np.full((1, height * factor, width * factor, 3), 0.5, np.float32)

    def _not_finite(self, what: str, of_gray: np.ndarray, advice: str = "") -> HCFlowError:
        """The error with its true cause: the picture (an ImageError), or the weights, if a gray picture fares no better."""
        if np.isfinite(of_gray).all():
            return ImageError(f"{self.runtime.name} computes {what}: the picture is too unlike those of its training{advice}")
        cause = "so it does of a gray picture, its weights are damaged or come from a training that diverged"
        return HCFlowError(f"{self.runtime.name} computes {what}: {cause}")

    def _draw_latents(self, height: int, width: int, temperature: float, seed: int) -> list[np.ndarray]:
        """[z_1, z_2, ...] of the whole image, without a batch dimension; zeros take no memory."""
        if not self.runtime.latents:
            return []
        shapes = latent_shapes(height, width, self.scale, self.runtime.latents)
        if temperature == 0:
            return [np.broadcast_to(np.float32(0), shape) for shape in shapes]
        start_tensorflow()
        import tensorflow as tf

        from hcflow_tf.models.latents import draw_latents

        # On the CPU whatever runs the model: the same latents everywhere, and none of the accelerator's memory.
        with tf.device("CPU"):
            return [z.numpy()[0] for z in draw_latents(tf.constant([seed], tf.int64), temperature, shapes)]

    def _run(self, lr_size: tuple[int, int], factor: int, work: Callable[[Tile, np.ndarray], None]) -> np.ndarray:
        """Calls work(tile, canvas) for all tiles and returns the canvas.

        Raises:
          MemoryError: the image as a whole is too large, whatever the tiles.
          HCFlowError: out of memory for a small tile.
        """
        canvas = np.zeros((lr_size[0] * factor, lr_size[1] * factor, 3), np.float32)

        def fill(pieces: Iterable[Tile]) -> None:
            canvas.fill(0)
            for tile in pieces:
                work(tile, canvas)

        self._in_tiles(lr_size, fill)
        return canvas

    def _in_tiles(self, lr_size: tuple[int, int], attempt: Callable[[Iterable[Tile]], _Result]) -> _Result:
        """What `attempt` makes of all tiles; where memory runs out, it starts again from nothing with half the side.

        Raises:
          HCFlowError: out of memory for a small tile.
        """
        while True:
            size = self._tile_size(*lr_size)
            exact = self.runtime.fixed_lr_size is not None
            try:
                return attempt(tiles(*lr_size, size, self.runtime.overlap, self.runtime.lr_multiple, exact=exact))
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(size, error)

    def _tile_size(self, height: int, width: int) -> tuple[int, int]:
        if self.runtime.fixed_lr_size:
            return self.runtime.fixed_lr_size
        side = max(height, width) if self._tile == 0 else self._tile or self._automatic()
        enough = 4 * self.runtime.overlap  # of a smaller one less than the overlap is shared: `tiles.spans`
        if self._tile and side < min(enough, max(height, width)) and not self._told:
            complain(
                "hcflow: note",
                f"--tile {side}: seams may show, {self.runtime.name} needs tiles of {enough} LR pixels to hide them",
            )
            self._told = True
        return min(side, height), min(side, width)

    def _automatic(self) -> int:
        if self._limit:
            return self._limit
        memory = gpu_memory() if self.runtime.on_gpu else None
        if memory is not None:
            return largest_tile(self.runtime.decode_bytes, memory)
        return modest_tile(self.runtime.decode_bytes, available_memory(), self.runtime.overlap)

    def _shrink(self, size: tuple[int, int], error: Exception) -> None:
        half = max(size) // 2
        if self._tile is not None or self.runtime.fixed_lr_size or half < MIN_TILE:
            advice = f"; try --tile {half}" if half >= MIN_TILE and not self.runtime.fixed_lr_size else ""
            raise HCFlowError(
                f"{self.runtime.name}: out of memory for a tile of {size[0]} x {size[1]} LR pixels{advice}"
            ) from error
        self._limit = half
        print(f"out of memory: going on with tiles of {half} LR pixels", file=sys.stderr)


def pad_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Mirrors image [h, w, ...] at the right and bottom until both sides are divisible by `multiple`."""
    missing = [(0, -size % multiple) for size in image.shape[:2]]
    return np.pad(image, [*missing, *[(0, 0)] * (image.ndim - 2)], mode="symmetric")


def _is_out_of_memory(error: Exception) -> bool:
    # TensorFlow's own exception, by name: other runtimes need no TensorFlow.
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
