"""The inference form of a model: constants only, and as few operations as the same function needs.

Every operation in it exists in TensorFlow, LiteRT (built in, CPU and GPU) and ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.config import ModelConfig
from hcflow_tf.models import folding
from hcflow_tf.models.folded_layers import (
    ATAN_FACTOR,
    CONDITION_SCOPE,
    FCN,
    Atan,
    Conv,
    Coupling,
    DenseBlock,
    Extractor,
    Gaussian,
    Step,
)
from hcflow_tf.models.hcflow import LR_LOG_STD, HCFlow, gaussian_log_prob, latent_log_prob
from hcflow_tf.models.latents import draw_latents, latent_shapes

_ATAN_COEFFICIENTS = (
    0.9999998978,
    -0.3333195972,
    0.1996923539,
    -0.1401658504,
    0.0990609690,
    -0.0593671008,
    0.0241661895,
    -0.0046687733,
)
"""Of the polynomial p with atan(w) = w p(w^2) to 1.2e-7 on [-1, 1], lowest first."""


def portable_atan(x: tf.Tensor) -> tf.Tensor:
    """atan(x) to 5e-7, of operations that LiteRT's CPU and GPU kernels are fast at; it has no Atan, and a slow Atan2.

    atan(x) = 2 atan(w) with w = x / (1 + sqrt(1 + x^2)) in [-1, 1]; large x are scaled so that no square overflows, in
    float16 either.
    """
    scale = 1.0 / tf.maximum(tf.abs(x), 1.0)
    scaled = x * scale
    w = scaled / (scale + tf.sqrt(scale * scale + scaled * scaled))
    square = w * w
    value = square * _ATAN_COEFFICIENTS[-1] + _ATAN_COEFFICIENTS[-2]
    for coefficient in _ATAN_COEFFICIENTS[-3::-1]:
        value = value * square + coefficient
    return 2.0 * w * value


class InferenceModel(tf.Module):
    """The same functions as an `HCFlow` model's, folded into constants; equal to 1e-5 of the largest value.

    - The inverses of the 1x1 convolutions are computed ahead, merged with the ActNorms, and at the ends of a level with
      the squeeze or the Haar transform.
    - The coupling networks' ActNorms and factors exp(3 g) are part of their convolutions; shift and scale are contiguous.
    - The upsampling of lower conditions is part of the first convolution, done at the lower resolution.
    - What the P conditional steps of a level compute from the condition alone is one wide convolution.

    Attributes:
      task: super_resolution or rescaling.
      scale: width of hr over width of lr.
      latent_channels: channels of z_1, ..., z_L.
    """

    def __init__(self, model: HCFlow, *, atan: Atan = tf.math.atan):
        """Folds the model's present weights; later changes of the model do not show here.

        Args:
          model: the model.
          atan: the arcus tangent to use; `portable_atan` where the runtime has none.
        """
        super().__init__(name="inference_model")
        self.task, self.scale, self.latent_channels = model.config.task, model.scale, model.flow.latent_channels
        self._dtype = tf.as_dtype(model.variable_dtype)
        self._levels, channels = [], 3
        for index, weights in enumerate(model.levels):
            self._levels.append(_Level(weights, index + 1, channels, model.config, atan, self._dtype))
            channels = weights.image_channels
        self._compiled_decode = tf.function(self._decode, autograph=False, reduce_retracing=True)
        self._compiled_encode = tf.function(self._encode, autograph=False, reduce_retracing=True)

    def decode(self, lr: tf.Tensor, latents: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
        """Returns hr [batch, scale h, scale w, 3], not clipped, of lr [batch, h, w, 3] and [z_1, ..., z_L].

        Without latents they are 0 (temperature 0), and what they would scale is not computed.
        """
        return self._compiled_decode(self._tensor(lr), latents and [self._tensor(latent) for latent in latents])

    def encode(self, hr: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns lr, neither clipped nor rounded, and [z_1, ..., z_L] of hr [batch, h, w, 3], divisible by the scale."""
        lr, latents, _ = self._compiled_encode(self._tensor(hr))
        return lr, latents

    def log_prob(self, hr: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
        """log p(hr | lr), [batch], nats; see `HCFlow.log_prob`."""
        encoded, latents, log_det = self._compiled_encode(self._tensor(hr))
        return gaussian_log_prob(encoded, self._tensor(lr), LR_LOG_STD) + latent_log_prob(latents) + log_det

    def sample(self, lr: tf.Tensor, temperatures: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Returns hr in [0, 1]; image b depends on lr[b], temperatures[b] and seeds[b] alone.

        Args:
          lr: [batch, h, w, 3] in [0, 1].
          temperatures: [batch] or scalar, tau.
          seeds: [batch], integers.
        """
        shape = tf.shape(lr)
        latents = draw_latents(seeds, temperatures, latent_shapes(shape[1], shape[2], self.latent_channels), self._dtype)
        return tf.clip_by_value(self.decode(lr, latents), 0.0, 1.0)

    def _tensor(self, value: object) -> tf.Tensor:
        return tf.convert_to_tensor(value, self._dtype)

    def _decode(self, lr: tf.Tensor, latents: list[tf.Tensor] | None) -> tf.Tensor:
        image, conditions = lr, []
        for level, latent in reversed(list(zip(self._levels, latents or [None] * len(self._levels), strict=True))):
            with tf.name_scope(level.name):
                condition, shared = level.condition(image, conditions)
                image = level.decode(image, latent, condition, shared)
            conditions.append(condition)
        return image

    def _encode(self, hr: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        image, images, details, log_det = hr, [], [], 0.0
        for level in self._levels:
            with tf.name_scope(level.name):
                image, detail, level_log_det = level.encode_image(image)
            images.append(image)
            details.append(detail)
            log_det += level_log_det
        latents, conditions = [], []
        for level, image, detail in reversed(list(zip(self._levels, images, details, strict=True))):
            with tf.name_scope(level.name):
                condition, shared = level.condition(image, conditions)
                latent, level_log_det = level.encode_detail(detail, condition, shared)
            conditions.append(condition)
            latents.append(latent)
            log_det += level_log_det
        return images[-1], latents[::-1], log_det


class _Level(tf.Module):
    """One level: its image path, its condition and its latent path."""

    def __init__(self, weights: keras.layers.Layer, number: int, channels: int, config: ModelConfig, atan: Atan, dtype: tf.DType):
        """Args: number, l; channels, of the image before this level's squeeze."""
        rescaling = config.task == "rescaling"
        super().__init__(name=f"level_{number}")
        self._image_channels = weights.image_channels
        linears = [folding.linear(step) for step in weights.main_steps]
        linears[0] = folding.then(folding.squeeze(channels, haar=rescaling), linears[0])
        self._main_steps = [
            Step(linear, _main_coupling(step.network, index, rescaling, 4 * channels, atan, dtype), dtype)
            for index, (linear, step) in enumerate(zip(linears, weights.main_steps, strict=True))
        ]
        self._extractor = Extractor(weights.extractor, weights.image_channels, dtype)
        latent = 4 * channels - weights.image_channels
        networks = [FCN(step.network, latent // 2, dtype) for step in weights.conditional_steps]
        self._conditional_steps = [
            Step(folding.linear(step), Coupling(network, latent // 2, atan), dtype)
            for step, network in zip(weights.conditional_steps, networks, strict=True)
        ]
        self._shared = None
        if networks:
            parts = zip(*(network.condition_affine for network in networks), strict=True)
            self._shared = Conv(tuple(np.concatenate(part, axis=-1) for part in parts), dtype)
        self._gaussian = Gaussian(weights.gaussian, atan if rescaling else None, config.log_std_bound, dtype)

    def condition(self, image: tf.Tensor, conditions: Sequence[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The condition c_l and what it adds to the first layer of each conditional step.

        Args:
          image: y_l.
          conditions: c_L, ..., c_{l+1}, at their own resolutions.
        """
        with tf.name_scope(CONDITION_SCOPE):
            condition = self._extractor(image, conditions)
            steps = len(self._conditional_steps)
            return condition, tf.split(self._shared(condition), steps, axis=-1) if steps else []

    def decode(self, image: tf.Tensor, latent: tf.Tensor | None, condition: tf.Tensor, shared: Sequence[tf.Tensor]) -> tf.Tensor:
        """y_l and z_l (None: 0) to y_{l-1}."""
        detail = self._gaussian.inverse(latent, condition)
        for step, of_condition in reversed(list(zip(self._conditional_steps, shared, strict=True))):
            detail = step.inverse(detail, of_condition)
        x = tf.concat([image, detail], axis=-1)
        for step in reversed(self._main_steps):
            x = step.inverse(x)
        return tf.nn.depth_to_space(x, 2)

    def encode_image(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """y_{l-1} to y_l, a_l and their log-determinant, [batch]."""
        x, total = tf.nn.space_to_depth(image, 2), 0.0
        for step in self._main_steps:
            x, log_det = step.forward(x)
            total += log_det
        return x[..., : self._image_channels], x[..., self._image_channels :], total

    def encode_detail(self, detail: tf.Tensor, condition: tf.Tensor, shared: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """a_l to z_l and its log-determinant, [batch]."""
        total = 0.0
        for step, of_condition in zip(self._conditional_steps, shared, strict=True):
            detail, log_det = step.forward(detail, of_condition)
            total += log_det
        latent, log_det = self._gaussian.forward(detail, condition)
        return latent, total + log_det


def _main_coupling(
    network: keras.layers.Layer, index: int, rescaling: bool, channels: int, atan: Atan, dtype: tf.DType
) -> Coupling:
    """The coupling of main step `index` (from 0); rescaling alternates between affine and shift (see `HCFlow`)."""
    if not rescaling:
        return Coupling(FCN(network, channels // 2, dtype), channels // 2, atan)
    affines, changes_low = [folding.plain(conv) for conv in network.convs], index % 2 == 1
    if not changes_low:
        affines[-1] = folding.halves(affines[-1], ATAN_FACTOR)
    return Coupling(DenseBlock(affines, dtype), 3, atan, low_changes=changes_low)
