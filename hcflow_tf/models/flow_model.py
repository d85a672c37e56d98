"""What every model can do over its flow: encode, decode, draw, sample, and say how likely an image is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from hcflow_tf.bijectors import HierarchicalFlow
from hcflow_tf.config import SystemConfig
from hcflow_tf.models.latents import check_temperature, draw_latents
from hcflow_tf.models.one_way import OneWay
from hcflow_tf.support.latents import Latent, latent_shapes

tfd = tfp.distributions
Distribution: TypeAlias = Any
"""A `tfd.Distribution`; TFP has no types."""

Flow: TypeAlias = HierarchicalFlow | OneWay

LR_LOG_STD = -6.0
"""log standard deviation of the Gaussian around the LR image, as in the released training code."""


class FlowModel:
    """The functions of a model over its `flow`; a subclass sets it by `_set_flow`.

    Images are NHWC RGB in [0, 1]; the shapes of the latents z_1, z_2, ... are those of `latents`. A model whose flow goes
    one way alone (`can_encode`, `has_likelihood`) refuses what it cannot do.

    Attributes:
      config: hyperparameters, the section of its system.
      assemble: (config, parts, **options) -> the flow over parts, live or computed: the one place that says what the system
        is. Options: recompute (see `HierarchicalFlow`); atan, the arcus tangent to use; log_std_caps, see `models.guard`. A
        system takes all of them and follows those that it has a use for.
    """

    name: str
    config: SystemConfig
    flow: Flow
    assemble: Callable[..., Flow]
    _dtype: tf.DType

    log_std_caps: Sequence[Sequence[float]] | None = None
    """Of each level the largest log standard deviation of each latent channel in samples; None: no guard. See `models.guard`."""

    def set_guard(self, caps: Sequence[Sequence[float]] | None) -> None:
        """Sets `log_std_caps`, which `sample`, and `decode` where asked, keep to; the flow itself stays as it is."""
        self.log_std_caps = caps
        flow = self.flow if caps is None else self.guarded_flow(caps)
        self._compiled_guarded_decode = tf.function(flow.decode, autograph=False, reduce_retracing=True)

    def guarded_flow(self, caps: Sequence[Sequence[float]]) -> Flow:
        """A new flow over the same weights whose log standard deviations keep to these caps; see `log_std_caps`."""
        raise NotImplementedError

    def _set_flow(self, flow: Flow, dtype: tf.DType) -> None:
        self.flow, self._dtype = flow, tf.as_dtype(dtype)
        self._compiled_encode = tf.function(flow.forward_and_log_det, autograph=False, reduce_retracing=True)
        self._compiled_downscale = tf.function(flow.downscale, autograph=False, reduce_retracing=True)
        self._compiled_decode = tf.function(flow.decode, autograph=False, reduce_retracing=True)
        self._compiled_guarded_decode = self._compiled_decode

    @property
    def scale(self) -> int:
        """Width of hr over width of lr."""
        return self.flow.scale

    @property
    def latents(self) -> tuple[Latent, ...]:
        """Channels and resolution of z_1, z_2, ...; none where a model gives one image for each lr."""
        return self.flow.latents

    @property
    def latent_channels(self) -> tuple[int, ...]:
        """Channels of z_1, z_2, ..."""
        return tuple(latent.channels for latent in self.latents)

    @property
    def needs_guard(self) -> bool:
        """Whether its samples are to keep to what photographs need (`models.guard`)."""
        return False

    @property
    def can_encode(self) -> bool:
        """Whether `encode` works from hr alone."""
        return self.flow.invertible and not self.flow.needs_lr

    @property
    def has_likelihood(self) -> bool:
        """Whether `log_prob` works."""
        return self.flow.invertible

    def encode(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> tuple[tf.Tensor | None, list[tf.Tensor]]:
        """Returns lr, neither clipped nor rounded, and the standardised latents [z_1, z_2, ...].

        Args:
          hr: [batch, height, width, 3] in [0, 1], height and width divisible by the scale (`config.hr_multiple`).
          lr: its LR image, for a model that is conditioned on it (`flow.needs_lr`). Where it is no output of the flow, it comes
            back as it is.

        Raises:
          ValueError: the shape does not fit, or hr is of integers; names what was expected and what came. Or the model has
            no encoder.
        """
        parts, _ = self.encode_and_log_det(hr, lr)
        if self.flow.has_lr:
            return parts[0], parts[1:]
        return None if lr is None else self._image("lr", lr), parts

    def encode_and_log_det(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns [lr, z_1, ..., z_L] and log|det d[lr, z]/d hr|, [batch], nats; see `encode`."""
        hr = self._image("hr", hr)
        given = {"lr": self._image("lr", lr)} if lr is not None and self.flow.needs_lr else {}
        self.flow.check_forward(hr, **given)
        return self._compiled_encode(hr, **given)

    def downscale(self, hr: tf.Tensor) -> tf.Tensor:
        """The lr of `encode` alone, which needs no condition and a fraction of the time.

        Args:
          hr: [batch, height, width, 3] in [0, 1], height and width divisible by the scale.

        Raises:
          ValueError: the shape does not fit, or the LR image is no output of this model (`flow.has_lr`).
        """
        return self._compiled_downscale(self._image("hr", hr))

    def decode(self, lr: tf.Tensor, latents: Sequence[tf.Tensor] | None = None, *, guard: bool = False) -> tf.Tensor:
        """Returns hr, not clipped: the exact inverse of `encode`.

        Args:
          lr: [batch, height, width, 3], height and width divisible by `flow.lr_multiple`.
          latents: [z_1, z_2, ...] as `encode` or `draw_latents` gives them; None: all 0 (temperature 0), and what they
            would scale is not computed.
          guard: keep the standard deviations below `log_std_caps`, if the model has them: for latents that were drawn.

        Raises:
          ValueError: a shape does not fit; names what was expected and what came.
        """
        lr = self._image("lr", lr)
        decode = self._compiled_guarded_decode if guard else self._compiled_decode
        self.flow.check_lr(lr)  # as what follows, before anything is traced
        if latents is None:
            return decode(lr)
        latents = [tf.convert_to_tensor(latent, self._dtype) for latent in latents]
        self.flow.check_latents(lr, latents)
        return decode(lr, latents)

    def draw_latents(
        self, lr_shape: Sequence[int], temperature: float | tf.Tensor = 0.8, seed: int | tf.Tensor | None = None
    ) -> list[tf.Tensor]:
        """Returns [z_1, z_2, ...] ~ N(0, temperature^2) for LR images of shape [batch, height, width, 3].

        Args:
          lr_shape: of the LR images.
          temperature: tau, or one for each image, [batch]; finite, at least 0.
          seed: image b of the batch is drawn from seed + b, or from seed[b] if there are [batch] of them; None draws one.

        Raises:
          ValueError: the temperature is negative, not finite, or of another shape.
        """
        check_temperature(temperature)
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        seeds = tf.cast(seed, tf.int64)
        count, given = tf.get_static_value(lr_shape[0]), np.shape(temperature) if not tf.is_symbolic_tensor(temperature) else ()
        if given and count is not None and given[0] not in (1, count):
            raise ValueError(f"{self.name}: expected one temperature or {count} of them, one for each image, got {given[0]}")
        if seeds.shape.rank == 0:
            seeds += tf.range(tf.cast(lr_shape[0], tf.int64))
        shapes = latent_shapes(lr_shape[1], lr_shape[2], self.scale, self.latents)
        return draw_latents(seeds, temperature, shapes, self._dtype)

    def sample(
        self,
        lr: tf.Tensor,
        temperature: float | tf.Tensor = 0.8,
        seed: int | tf.Tensor | None = None,
        *,
        guard: bool = True,
    ) -> tf.Tensor:
        """Returns one hr in [0, 1] for each lr [batch, height, width, 3]; same seed, same image.

        Args:
          lr: [batch, height, width, 3] in [0, 1].
          temperature: tau, standard deviation of the latents; 0 is the most probable image. A scalar or [batch].
          seed: any integer of 64 bits, [batch] of them, or None for a new one each time.
          guard: keep to `log_std_caps`, if the model has them.
        """
        lr = self._image("lr", lr)
        latents = self.draw_latents(tf.shape(lr), temperature, seed)
        return tf.clip_by_value(self.decode(lr, latents, guard=guard), 0.0, 1.0)

    def log_prob(self, hr: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
        """log p(hr | lr), [batch], nats: log N(y | lr, e^-12) + sum_l log N(z_l | 0, I) + log|det| (paper eq. 5).

        Args:
          hr: [batch, height, width, 3] in [0, 1]; add noise u / q to 8-bit images first for the likelihood of bytes.
          lr: [batch, height / scale, width / scale, 3] in [0, 1].

        Raises:
          ValueError: a shape does not fit; names what was expected and what came.
        """
        lr = self._image("lr", lr)
        parts, log_det = self.encode_and_log_det(hr, lr)
        if not self.flow.has_lr:
            return latent_log_prob(parts) + log_det
        if not lr.shape.is_compatible_with(parts[0].shape):
            raise ValueError(f"{self.name}: expected lr of shape {parts[0].shape} for this hr, got {lr.shape}")
        return gaussian_log_prob(parts[0], lr, LR_LOG_STD) + latent_log_prob(parts[1:]) + log_det

    def distribution(self, lr: tf.Tensor) -> Distribution:
        """p(hr | lr) as a TFP distribution, batch shape [batch], for lr [batch, height, width, 3].

        Raises:
          ValueError: the model is conditioned on the given LR image itself; use `log_prob` and `sample`. Or it has no
            likelihood.
        """
        if isinstance(self.flow, OneWay):
            raise self.flow.no_way_back()
        if self.flow.needs_lr:
            raise ValueError(
                f"{self.name}: conditioned on the given LR image, it has no TFP distribution; use log_prob and sample"
            )
        lr = self._image("lr", lr)
        batch, height, width = (tf.shape(lr)[axis] if size is None else size for axis, size in enumerate(lr.shape.as_list()[:3]))
        parts = [tfd.Normal(lr, tf.exp(tf.constant(LR_LOG_STD, lr.dtype)))]
        for shape in latent_shapes(height, width, self.scale, self.latents):
            parts.append(tfd.Normal(tf.zeros([batch, *shape], lr.dtype), tf.ones([], lr.dtype)))
        base = tfd.JointDistributionSequential([tfd.Independent(part, 3) for part in parts])
        return tfd.TransformedDistribution(base, tfp.bijectors.Invert(self.flow))

    def _image(self, name: str, image: tf.Tensor) -> tf.Tensor:
        """The image as a tensor of the model's type; refuses integers, which would be taken for values far outside [0, 1]."""
        dtype = tf.as_dtype(getattr(image, "dtype", tf.float32))
        if not dtype.is_floating:
            raise ValueError(f"{self.name}: expected {name} of floats in [0, 1], got {dtype.name}; divide 8-bit images by 255")
        tensor = tf.convert_to_tensor(image, self._dtype)
        if tensor.shape.rank is not None and 0 in tensor.shape:
            raise ValueError(f"{self.name}: expected {name} with at least one image and one pixel, got shape {tensor.shape}")
        return tensor


def gaussian_log_prob(x: tf.Tensor, mean: tf.Tensor, log_std: float) -> tf.Tensor:
    """log N(x | mean, exp(2 log_std)) summed over each image, [batch], nats."""
    normal = tfd.Normal(mean, tf.exp(tf.constant(log_std, x.dtype)))
    return tf.reduce_sum(normal.log_prob(x), axis=[1, 2, 3])


def latent_log_prob(latents: Sequence[tf.Tensor]) -> tf.Tensor:
    """sum_l log N(z_l | 0, I) over each image, [batch], nats."""
    return tf.add_n([gaussian_log_prob(z, tf.zeros([], z.dtype), 0.0) for z in latents])
