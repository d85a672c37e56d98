"""The whole model as one multipart bijector: hr <-> [lr, z_1, ..., z_L]."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

from hcflow_tf.bijectors.base import CONDITION_SCOPE, FlowBijector, ValueAndLogDet, check_image
from hcflow_tf.bijectors.conditional_gaussian import ConditionalGaussian
from hcflow_tf.bijectors.image_to_parts import ImageToParts
from hcflow_tf.support.latents import Latent, latent_shapes

ConditionSource = Literal["nothing", "lr", "own", "own_and_below"]
"""What conditions the latents of a level: nothing, the given LR image, its own image y_l, or that and all conditions of
the levels below it (coarser, l+1 to L)."""

Visit = Callable[..., None]
"""(layer, its input, **its conditions), before the layer is applied."""


@dataclasses.dataclass(frozen=True)
class FlowLevel:
    """The parts of one level, l = 1 (finest) to L.

    Attributes:
      squeeze: halves height and width.
      steps: the K flow steps of the image path; those that take a condition get e_l (`HierarchicalFlow`).
      image_channels: how many channels of their output go on as y_l; the others are the latent path's. Where these are
        all channels, the level has no latents, and what follows is not used.
      conditional_steps: the P flow steps of the latent path.
      gaussian: its last layer; None where there is no condition.
      conditioned_on: what the condition is made from.
      extractor: phi_l, the network that makes it: (the LR image, or y_l, and c_{l+1}, c_{l+2}, ...) -> c_l; None where the
        condition is the LR image, or y_l, itself.
      condition_parts: c_l -> what all conditional steps compute from it first; None: each is handed c_l.
    """

    squeeze: FlowBijector
    steps: Sequence[FlowBijector]
    image_channels: int
    conditional_steps: Sequence[FlowBijector] = ()
    gaussian: ConditionalGaussian | None = None
    conditioned_on: ConditionSource = "own_and_below"
    extractor: Callable[..., tf.Tensor] | None = None
    condition_parts: Callable[[tf.Tensor], tf.Tensor] | None = None

    def image_path(self, encoding: tf.Tensor | None) -> list[tuple[FlowBijector, dict[str, tf.Tensor]]]:
        """The layers of the image path in forward order, each with its conditions; encoding: e_l."""
        return [(layer, {"condition": encoding} if layer.takes_condition else {}) for layer in (self.squeeze, *self.steps)]

    def latent_path(self, condition: tf.Tensor | None) -> list[tuple[FlowBijector, dict[str, tf.Tensor]]]:
        """The layers of the latent path in forward order, each with its conditions."""
        if condition is None:
            return [(step, {}) for step in self.conditional_steps]
        parts = [condition] * len(self.conditional_steps)
        if self.condition_parts is not None and parts:
            with tf.name_scope(CONDITION_SCOPE):
                parts = tf.split(self.condition_parts(condition), len(parts), axis=-1)
        path = [(step, {"condition": part}) for step, part in zip(self.conditional_steps, parts, strict=True)]
        return path if self.gaussian is None else [*path, (self.gaussian, {"condition": condition})]


class HierarchicalFlow(ImageToParts):
    """hr [batch, h, w, 3] <-> [lr, z_1, ..., z_L].

    Forward: for l = 1..L, y_l, a_l = split(steps_l(squeeze(y_{l-1}))), y_0 = hr, lr = y_L; then for l = L..1,
    c_l = phi_l(u_l), z_l = gaussian_l(conditional_steps_l(a_l | c_l) | c_l), with u_L = lr and
    u_l = concat(y_l, up2(c_{l+1}), up4(c_{l+2}), ...). lr is [batch, h/2^L, w/2^L, 3] and z_l
    [batch, h/2^l, w/2^l, channels_l].

    What conditions a level is a choice (`FlowLevel.conditioned_on`): where it is the given LR image, both directions take
    `lr=`. Where the last level's `image_channels` is 0, no image is an output: hr <-> [z_1, ..., z_L] given `lr=`; the steps may
    then be conditioned on it, too, by [e_1, ..., e_L] = `lr_encoder`(lr). A level whose `image_channels` are all channels
    gives no latents: z_1, z_2, ... are then those of the levels that do (`latents`).

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.3 and figure 2.
      [2] Lugmayr et al., SRFlow, ECCV 2020, section 3: conditioned steps, and a scale of 2^(L-1).
    """

    def __init__(
        self,
        levels: Sequence[FlowLevel],
        *,
        scale: int | None = None,
        lr_encoder: Callable[[tf.Tensor], Sequence[tf.Tensor]] | None = None,
        recompute: bool = False,
        name: str | None = None,
    ):
        """Creates the flow.

        Args:
          levels: finest first.
          scale: width of hr over width of lr, where lr is no output; by default, and where it is one, 2^L.
          lr_encoder: the given LR image -> [e_1, ..., e_L], where steps of the image path take a condition.
          recompute: keep of each flow step only its inputs for the backward pass.
        """
        details, channels = [], 3
        for level in levels:
            details.append(4 * channels - level.image_channels)
            channels = level.image_channels
        latents = [Latent(count, 2**number) for number, count in enumerate(details, start=1) if count > 0]
        hr_multiple = 2 ** len(levels)
        super().__init__(hr_multiple=hr_multiple, scale=scale or hr_multiple, has_lr=channels > 0, latents=latents, name=name)
        if not levels:
            raise ValueError(f"{self.name}: expected at least one level")
        if lr_encoder is None and any(step.takes_condition for level in levels for step in level.steps):
            raise ValueError(f"{self.name}: expected an lr_encoder, the steps of the image path take a condition")
        if lr_encoder is not None and self._has_lr:
            raise ValueError(f"{self.name}: an image path that is conditioned on the LR image cannot give it, too")
        if any(count < 0 for count in details):
            raise ValueError(f"{self.name}: expected at most as many image_channels as the level has, got {details} left over")
        if self._has_lr and scale not in (None, hr_multiple):
            raise ValueError(f"{self.name}: {len(levels)} levels with an LR image are of scale {hr_multiple}, got {scale}")
        self._levels = self._no_dependency(tuple(levels))
        self._lr_encoder, self._recompute = lr_encoder, recompute
        self._has_latents = tuple(count > 0 for count in details)

    @property
    def levels(self) -> tuple[FlowLevel, ...]:
        """The levels, finest first."""
        return self._levels

    @property
    def has_gaussians(self) -> bool:
        """Whether the latents of some level are standardised by a conditional Gaussian."""
        return any(level.gaussian is not None for level in self._levels)

    @property
    def needs_lr(self) -> bool:
        """Whether both directions take the condition `lr`."""
        return super().needs_lr or any(level.conditioned_on == "lr" for level in self._levels)

    def decode(self, lr: tf.Tensor, latents: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
        """hr [batch, scale h, scale w, 3] of lr [batch, h, w, 3] and [z_1, z_2, ...].

        Without latents they are 0 (temperature 0), and what they would scale is not computed.

        Raises:
          ValueError: a shape does not fit; names what was expected and what came.
        """
        lr = tf.convert_to_tensor(lr)
        self.check_lr(lr)
        if latents is None:
            return self._walk_back(lr, [None] * len(self._latents))[0]
        latents = [tf.convert_to_tensor(latent) for latent in latents]
        self.check_latents(lr, latents)
        return self._walk_back(lr, latents)[0]

    def downscale(self, hr: tf.Tensor) -> tf.Tensor:
        """The LR image [batch, h, w, 3] of hr [batch, scale h, scale w, 3], as `forward` gives it, without the latents.

        Raises:
          ValueError: the shape does not fit, or the LR image is no output of this flow.
        """
        if not self._has_lr:
            raise ValueError(f"{self.name}: makes no LR image")
        hr = tf.convert_to_tensor(hr)
        check_image(self.name, hr, channels=3, divisor=self.scale)
        return self._image_path(hr, None, lambda layer, x: self._run(layer, "forward", x))[0][-1]

    def initialise(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> None:
        """Lets all layers start from data, in the order of encoding; hr [batch, h, w, 3]."""
        self._walk(hr, lr, lambda layer, x, **conditions: layer.initialise(x, **conditions))

    def _forward_and_log_det(self, x: tf.Tensor, lr: tf.Tensor | None = None) -> ValueAndLogDet:
        return self._walk(x, lr)

    def _walk(self, x: tf.Tensor, lr: tf.Tensor | None, visit: Visit | None = None) -> ValueAndLogDet:
        """hr to [lr, z_1, ..., z_L] and log|det|."""

        def run(layer: FlowBijector, x: tf.Tensor, **conditions: tf.Tensor) -> ValueAndLogDet:
            if visit is not None:
                visit(layer, x, **conditions)
            return self._run(layer, "forward", x, **conditions)

        images, details, total = self._image_path(x, lr, run)
        latents: list[tf.Tensor] = []
        conditions: dict[int, tf.Tensor] = {}
        for number, level in reversed(list(enumerate(self._levels, start=1))):
            detail = details[number - 1]
            if detail is None:
                continue
            with tf.name_scope(f"level_{number}"):
                condition = self._condition(number, images[number - 1], lr, conditions)
                for layer, conditioned in level.latent_path(condition):
                    detail, log_det = run(layer, detail, **conditioned)
                    total += log_det
                latents.append(detail)
        return [*images[len(images) - self._has_lr :], *reversed(latents)], total

    def _image_path(
        self, x: tf.Tensor, lr: tf.Tensor | None, run: Callable[..., ValueAndLogDet]
    ) -> tuple[list[tf.Tensor | None], list[tf.Tensor | None], tf.Tensor | float]:
        """y_1, ..., y_L; a_1, ..., a_L; and log|det| of the layers up to there."""
        images, details, total = [], [], 0.0
        for number, (level, encoding) in enumerate(zip(self._levels, self._encodings(lr), strict=True), start=1):
            with tf.name_scope(f"level_{number}"):
                for layer, conditioned in level.image_path(encoding):
                    x, log_det = run(layer, x, **conditioned)
                    total += log_det
                x, detail = self._split(x, level.image_channels)
                images.append(x)
                details.append(detail)
        return images, details, total

    def _split(self, x: tf.Tensor, image_channels: int) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """y_l and a_l; None for what has no channels."""
        if not image_channels:
            return None, x
        if image_channels == x.shape[-1]:
            return x, None
        return tf.split(x, [image_channels, x.shape[-1] - image_channels], axis=-1)

    def _inverse_and_log_det(self, y: list[tf.Tensor], lr: tf.Tensor | None = None) -> ValueAndLogDet:
        image, latents = (y[0], y[1:]) if self._has_lr else (None, y)
        return self._walk_back(image if lr is None else lr, latents, image)

    def _walk_back(self, lr: tf.Tensor, latents: Sequence[tf.Tensor | None], image: tf.Tensor | None = None) -> ValueAndLogDet:
        """lr and [z_1, z_2, ...] to hr and log|det|; image: y_L where it is not lr; a latent that is None is 0."""
        total = 0.0
        conditions: dict[int, tf.Tensor] = {}
        encodings = self._encodings(lr)
        if image is None and self._has_lr:
            image = lr
        left = list(zip(self._latents, latents, strict=True))
        for number, level in reversed(list(enumerate(self._levels, start=1))):
            with tf.name_scope(f"level_{number}"):
                x = image
                if self._has_latents[number - 1]:
                    latent, detail = left.pop()
                    path = level.latent_path(self._condition(number, image, lr, conditions))
                    if detail is None:
                        detail, path = self._most_probable(latent, lr, path)
                    for layer, conditioned in reversed(path):
                        detail, log_det = self._run(layer, "inverse", detail, **conditioned)
                        total += log_det
                    x = detail if image is None else tf.concat([image, detail], axis=-1)
                for layer, conditioned in reversed(level.image_path(encodings[number - 1])):
                    x, log_det = self._run(layer, "inverse", x, **conditioned)
                    total += log_det
                image = x
        return image, total

    def _encodings(self, lr: tf.Tensor | None) -> Sequence[tf.Tensor | None]:
        """e_1, ..., e_L, computed once for all steps; None without an encoder."""
        if self._lr_encoder is None:
            return [None] * len(self._levels)
        with tf.name_scope(CONDITION_SCOPE):
            return self._lr_encoder(lr)

    def _condition(
        self, number: int, image: tf.Tensor | None, lr: tf.Tensor | None, conditions: dict[int, tf.Tensor]
    ) -> tf.Tensor | None:
        """c_l, which is added to `conditions`, those of the levels below."""
        level = self._levels[number - 1]
        if level.conditioned_on == "nothing":
            return None
        sources = [lr if level.conditioned_on == "lr" else image]
        if level.conditioned_on == "own_and_below":
            sources += [conditions[below] for below in sorted(conditions)]
        with tf.name_scope(CONDITION_SCOPE):
            conditions[number] = level.extractor(*sources) if level.extractor else sources[0]
        return conditions[number]

    def _most_probable(self, latent: Latent, lr: tf.Tensor, path: list) -> tuple[tf.Tensor, list]:
        """What this latent = 0 becomes in the Gaussian, and the rest of the path; without a Gaussian it stays 0."""
        gaussian, conditioned = path[-1] if path else (None, {})
        if isinstance(gaussian, ConditionalGaussian):
            return gaussian.mean(**conditioned), path[:-1]
        shape = tf.shape(lr)
        return tf.zeros([shape[0], *latent_shapes(shape[1], shape[2], self._scale, [latent])[0]], lr.dtype), path

    def _run(self, layer: FlowBijector, direction: str, x: tf.Tensor, **conditions: tf.Tensor) -> ValueAndLogDet:
        """One layer in one direction; where activations are recomputed, all that is kept of it are these inputs."""
        if not self._recompute:
            method = layer.encode_and_log_det if direction == "forward" else layer.decode_and_log_det
            return method(x, **conditions)
        method = layer.forward_and_log_det if direction == "forward" else layer.inverse_and_log_det
        recomputed = tf.recompute_grad(lambda x, *values: method(x, **dict(zip(conditions, values, strict=True))))
        return recomputed(x, *conditions.values())
