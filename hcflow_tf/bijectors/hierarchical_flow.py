"""The whole model as one multipart bijector: hr <-> [lr, z_1, ..., z_L]."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet, check_image
from hcflow_tf.bijectors.conditional_gaussian import ConditionalGaussian


@dataclasses.dataclass(frozen=True)
class FlowLevel:
    """The parts of one level, l = 1 (finest) to L.

    Attributes:
      squeeze: halves height and width.
      steps: the K flow steps of the image path.
      extractor: phi_l, the network u_l -> c_l that makes the condition.
      conditional_steps: the P conditional flow steps of the latent path.
      gaussian: its last layer.
    """

    squeeze: FlowBijector
    steps: Sequence[FlowBijector]
    extractor: Callable[[tf.Tensor], tf.Tensor]
    conditional_steps: Sequence[FlowBijector]
    gaussian: ConditionalGaussian

    @property
    def latent_layers(self) -> tuple[FlowBijector, ...]:
        """The layers of the latent path in forward order; each takes the condition."""
        return (*self.conditional_steps, self.gaussian)


class HierarchicalFlow(FlowBijector):
    """hr [batch, h, w, 3] <-> [lr, z_1, ..., z_L]; the scale is 2^L.

    Forward: for l = 1..L, y_l, a_l = split(steps_l(squeeze(y_{l-1}))), y_0 = hr, lr = y_L; then for l = L..1,
    c_l = phi_l(u_l), z_l = gaussian_l(conditional_steps_l(a_l | c_l) | c_l), with u_L = lr and
    u_l = concat(y_l, up2(c_{l+1}), up4(c_{l+2}), ...). lr is [batch, h/2^L, w/2^L, 3] and z_l
    [batch, h/2^l, w/2^l, channels_l].

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.3 and figure 2.
    """

    def __init__(self, levels: Sequence[FlowLevel], *, recompute: bool = False, name: str | None = None):
        """Args: levels, finest first; recompute, keep of each flow step only its inputs for the backward pass."""
        parts = [3] * (len(levels) + 1)
        super().__init__(forward_min_event_ndims=3, inverse_min_event_ndims=parts, name=name)
        if not levels:
            raise ValueError(f"{self.name}: expected at least one level")
        self._levels = self._no_dependency(tuple(levels))
        self._recompute = recompute
        self._latent_channels = []
        channels = 3
        for index in range(len(levels)):
            squeezed = channels * 4
            channels = 3 if index == len(levels) - 1 else squeezed // 2
            self._latent_channels.append(squeezed - channels)

    @property
    def levels(self) -> tuple[FlowLevel, ...]:
        """The levels, finest first."""
        return self._levels

    @property
    def scale(self) -> int:
        """2^L."""
        return 2 ** len(self._levels)

    @property
    def latent_channels(self) -> tuple[int, ...]:
        """Channels of z_1, ..., z_L."""
        return tuple(self._latent_channels)

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x, channels=3, divisor=self.scale)

    def _check_inverse(self, y: list[tf.Tensor]) -> None:
        if len(y) != len(self._levels) + 1:
            raise ValueError(f"{self.name}: expected [lr, z_1, ..., z_{len(self._levels)}], got {len(y)} tensors")
        check_image(f"{self.name}: lr", y[0], channels=3)
        for level, (latent, channels) in enumerate(zip(y[1:], self._latent_channels, strict=True), start=1):
            factor = 2 ** (len(self._levels) - level)
            batch, *sizes = y[0].shape[:3]
            expected = [batch, *(None if size is None else size * factor for size in sizes), channels]
            if not latent.shape.is_compatible_with(expected):
                raise ValueError(f"{self.name}: expected z_{level} of shape {expected} for lr {y[0].shape}, got {latent.shape}")

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        images, details, total = [], [], 0.0
        for level, latent_channels in zip(self._levels, self._latent_channels, strict=True):
            x, log_det = level.squeeze.forward_and_log_det(x)
            total += log_det
            for step in level.steps:
                x, log_det = self._run(step.forward_and_log_det, x)
                total += log_det
            image_channels = x.shape[-1] - latent_channels
            x, detail = x[..., :image_channels], x[..., image_channels:]
            images.append(x)
            details.append(detail)
        latents, conditions = [], []
        for level, image, detail in reversed(list(zip(self._levels, images, details, strict=True))):
            conditions.append(level.extractor(conditioning_input(image, conditions)))
            for layer in level.latent_layers:
                detail, log_det = self._run(layer.forward_and_log_det, detail, condition=conditions[-1])
                total += log_det
            latents.append(detail)
        return [images[-1], *reversed(latents)], total

    def _inverse_and_log_det(self, y: list[tf.Tensor]) -> ValueAndLogDet:
        image, *latents = y
        total, conditions = 0.0, []
        for level, detail in reversed(list(zip(self._levels, latents, strict=True))):
            conditions.append(level.extractor(conditioning_input(image, conditions)))
            for layer in reversed(level.latent_layers):
                detail, log_det = self._run(layer.inverse_and_log_det, detail, condition=conditions[-1])
                total += log_det
            x = tf.concat([image, detail], axis=-1)
            for step in reversed(level.steps):
                x, log_det = self._run(step.inverse_and_log_det, x)
                total += log_det
            image, log_det = level.squeeze.inverse_and_log_det(x)
            total += log_det
        return image, total

    def _run(self, method: Callable[..., ValueAndLogDet], x: tf.Tensor, **conditions: tf.Tensor) -> ValueAndLogDet:
        """One layer in one direction; where activations are recomputed, all that is kept of it are these inputs."""
        if not self._recompute:
            return method(x, **conditions)
        layer = tf.recompute_grad(lambda x, *values: method(x, **dict(zip(conditions, values, strict=True))))
        return layer(x, *conditions.values())

    # Structures of types and event shapes, which TransformedDistribution asks for.

    def _forward_dtype(self, dtype: tf.DType) -> list[tf.DType]:
        return [dtype] * (len(self._levels) + 1)

    def _inverse_dtype(self, dtypes: list[tf.DType]) -> tf.DType:
        return dtypes[0]

    def _forward_event_shape(self, shape: tf.TensorShape) -> list[tf.TensorShape]:
        height, width = shape[-3:-1]
        parts = []
        for part, channels in enumerate([3, *self._latent_channels]):
            factor = self.scale if part == 0 else 2**part
            sizes = [None if size is None else size // factor for size in (height, width)]
            parts.append(shape[:-3].concatenate([*sizes, channels]))
        return parts

    def _inverse_event_shape(self, shapes: list[tf.TensorShape]) -> tf.TensorShape:
        sizes = [None if size is None else size * self.scale for size in shapes[0][-3:-1]]
        return shapes[0][:-3].concatenate([*sizes, 3])

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> list[tf.Tensor]:
        factors = [self.scale, *(2**level for level in range(1, len(self._levels) + 1))]
        return [
            tf.concat([shape[:-3], shape[-3:-1] // factor, [channels]], axis=0)
            for factor, channels in zip(factors, [3, *self._latent_channels], strict=True)
        ]

    def _inverse_event_shape_tensor(self, shapes: list[tf.Tensor]) -> tf.Tensor:
        return tf.concat([shapes[0][:-3], shapes[0][-3:-1] * self.scale, [3]], axis=0)


def conditioning_input(image: tf.Tensor, conditions: Sequence[tf.Tensor]) -> tf.Tensor:
    """u_l = concat(y_l, up2(c_{l+1}), up4(c_{l+2}), ...); `conditions` are c_L, ..., c_{l+1}, in that order."""
    return tf.concat([image, *(upsample(c, 2**power) for power, c in enumerate(reversed(conditions), start=1))], axis=-1)


def upsample(x: tf.Tensor, factor: int) -> tf.Tensor:
    """Nearest-neighbour upsampling by an integer factor."""
    return tf.repeat(tf.repeat(x, factor, axis=1), factor, axis=2)
