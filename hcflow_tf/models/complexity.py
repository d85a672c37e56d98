"""What a model costs: parameters, multiply-adds, memory, receptive field, from its weights' names and shapes."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hcflow_tf.config import ModelConfig

PARTS = {
    "main_step": "main flow steps",
    "feature_extractor": "feature extractors",
    "conditional_step": "conditional flow steps",
    "gaussian": "conditional Gaussians",
}
"""Beginning of a weight's name within its level -> the part's name."""

MIN_OVERLAP, MAX_OVERLAP = 16, 32
"""Bounds of `Complexity.overlap`, LR pixels."""

_MEMORY_MARGIN = 1.5
"""Buffers of the convolutions and memory that the allocator holds back, over the activations counted here. Measured on a
CPU: 30.5 kB per LR pixel for sr_x4 (estimated 30.0), 16.6 kB for rescale_x4 (17.8)."""


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
    """

    parameters: Mapping[str, int]
    multiply_adds: Mapping[str, float]
    downscale_multiply_adds: float
    decode_radius: int
    downscale_radius: int
    decode_bytes: int

    @property
    def overlap(self) -> int:
        """LR pixels by which tiles should overlap on each side: what reaches further is faint (docs/usage.md)."""
        return min(max(self.decode_radius // 4, MIN_OVERLAP), MAX_OVERLAP)


def measure(config: ModelConfig, shapes: Mapping[str, Sequence[int]]) -> Complexity:
    """Counts.

    Args:
      config: hyperparameters.
      shapes: weight name -> shape, as `HCFlow.named_weights` names them.
    """
    parameters: dict[str, int] = defaultdict(int)
    multiply_adds: dict[str, float] = defaultdict(float)
    decode_radius, downscale_radius = 0.0, 0
    for name, shape in shapes.items():
        level_name, rest = name.split("/", 1)
        level, part = int(level_name.removeprefix("level_")), next(part for part in PARTS if rest.startswith(part))
        parameters[PARTS[part]] += math.prod(shape)
        if name.endswith(("/kernel", "/matrix")):
            multiply_adds[PARTS[part]] += math.prod(shape) / 4**level
        # The Haar transform of rescaling is computed with the first step's linear map, as a 1x1 matrix.
        if rest == "main_step_1/actnorm/bias" and f"{level_name}/main_step_1/rotation/matrix" not in shapes:
            multiply_adds[PARTS[part]] += shape[0] ** 2 / 4**level
        # All 3x3 convolutions of a level lie on one path from its input to its output.
        if name.endswith("/kernel") and shape[0] == 3:
            decode_radius += 2.0 ** (level - config.levels)
            downscale_radius += 2**level if part == "main_step" else 0
    return Complexity(
        parameters={part: parameters[part] for part in PARTS.values()},
        multiply_adds={part: multiply_adds[part] for part in PARTS.values()},
        downscale_multiply_adds=multiply_adds[PARTS["main_step"]],
        # Nearest-neighbour upsampling may take one pixel more.
        decode_radius=math.ceil(decode_radius) + 1,
        downscale_radius=downscale_radius,
        decode_bytes=decode_bytes_per_lr_pixel(config),
    )


def decode_bytes_per_lr_pixel(config: ModelConfig) -> int:
    """Estimated peak memory of decoding in the folded form, bytes per LR pixel, all in float32.

    The peak lies at the finest level: in a dense block (input, output, and their concatenation, beside the block's and
    the trunk's residual), or in the conditional steps (the condition and its part of all P steps at once).
    """
    features, growth = config.rrdb_features, config.rrdb_growth
    condition = config.condition_channels
    dense_block = 2 * (features + 4 * growth) + 4 * features
    conditional = condition + config.conditional_steps * config.conditional_width + 4 * config.conditional_width
    finest = max(dense_block, conditional) + 3 * 12
    return round(_MEMORY_MARGIN * 4 * finest * (config.scale // 2) ** 2)
