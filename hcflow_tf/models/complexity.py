"""What a model costs: parameters, multiply-adds, memory, receptive field, from its weights' names and shapes."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hcflow_tf.config import SystemConfig

MIN_OVERLAP, MAX_OVERLAP = 16, 32
"""Bounds of `Complexity.overlap`, LR pixels."""

MEMORY_MARGIN = 1.5
"""Buffers of the convolutions and memory that the allocator holds back, over the activations counted here. Measured on a
CPU: 30.5 kB per LR pixel for sr_x4 (estimated 30.0), 16.6 kB for rescale_x4 (17.8), 12.9 kB for irn_x4 (14.6),
12.8 kB for rrdb_x4 (18.4)."""


class Place(NamedTuple):
    """Where a weight is used.

    Attributes:
      part: the name of what it belongs to, for the table.
      divisor: it is used at each pixel of an image whose height and width are those of hr divided by this; may be below 1,
        and is infinite for a weight that nothing uses.
      encodes: whether the encoder's LR image needs it.
      on_path: whether its convolution lies on the longest path; False for one beside another of equal reach.
      fixed_adds: multiply-adds per such pixel of maps without weights that are counted with it.
    """

    part: str
    divisor: float
    encodes: bool = False
    on_path: bool = True
    fixed_adds: int = 0


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The figures of one model.

    Attributes:
      parameters: part -> number of weights.
      multiply_adds: part -> multiply-adds of convolutions and 1x1 matrices per HR pixel; encode and decode do the same ones.
      downscale_multiply_adds: the share of them that the encoder's LR image alone needs.
      decode_radius: LR pixels; an HR pixel depends on no LR pixel or latent further away than this.
      downscale_radius: HR pixels; an LR pixel depends on no HR pixel further away than this.
      decode_bytes: estimated peak memory of decoding, bytes per LR pixel.
      kept_bytes: estimated activations that the backward pass needs of one pass through the model, bytes per HR pixel in float32:
        what each convolution reads and writes. Measured on a CPU: 50 kB for sr_x4 (estimated 56), 27 kB for the two passes of
        rescale_x4 (30).
    """

    parameters: Mapping[str, int]
    multiply_adds: Mapping[str, float]
    downscale_multiply_adds: float
    decode_radius: int
    downscale_radius: int
    decode_bytes: int
    kept_bytes: float

    @property
    def overlap(self) -> int:
        """LR pixels by which tiles should overlap on each side: what reaches further is faint (docs/usage.md)."""
        return min(max(self.decode_radius // 7, MIN_OVERLAP), MAX_OVERLAP)


def measure(config: SystemConfig, shapes: Mapping[str, Sequence[int]]) -> Complexity:
    """Counts.

    Args:
      config: hyperparameters.
      shapes: weight name -> shape, as `TrainedModel.named_weights` names them.
    """
    from hcflow_tf.models.systems import model_class

    model = model_class(config)
    parameters: dict[str, int] = defaultdict(int)
    multiply_adds: dict[str, float] = defaultdict(float)
    decode_radius, downscale_radius, downscale_adds, kept_bytes = 0.0, 0.0, 0.0, 0.0
    for name, shape in shapes.items():
        place = model.place_of(config, name)
        is_map = name.endswith(("/kernel", "/matrix"))
        adds = (math.prod(shape) * is_map + place.fixed_adds) / place.divisor**2
        parameters[place.part] += math.prod(shape)
        multiply_adds[place.part] += adds
        downscale_adds += adds if place.encodes else 0
        kept_bytes += 4 * (shape[-2] + shape[-1]) / place.divisor**2 if is_map else 0
        if place.on_path and name.endswith("/kernel"):
            reach = (shape[0] // 2) * place.divisor  # HR pixels
            decode_radius += reach / config.scale
            downscale_radius += reach if place.encodes else 0
    return Complexity(
        parameters=dict(parameters),
        multiply_adds=dict(multiply_adds),
        downscale_multiply_adds=downscale_adds,
        # Nearest-neighbour upsampling may take one pixel more.
        decode_radius=math.ceil(decode_radius) + 1,
        downscale_radius=round(downscale_radius),
        decode_bytes=model.decode_bytes(config),
        kept_bytes=kept_bytes,
    )
