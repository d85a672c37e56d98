"""HCFlow: a Keras model that owns the networks and shows the bijectors."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from hcflow_tf import bijectors
from hcflow_tf.config import ModelConfig
from hcflow_tf.models.latents import draw_latents, latent_shapes
from hcflow_tf.models.level import LevelWeights
from hcflow_tf.networks.flow_step import FlowStepWeights

tfd = tfp.distributions

LR_LOG_STD = -6.0
"""log standard deviation of the Gaussian around the LR image, as in the released training code."""


def _main_coupling(config: ModelConfig, index: int, network: keras.layers.Layer) -> bijectors.FlowBijector:
    if config.task == "super_resolution":
        return bijectors.AffineCoupling(network)
    if index % 2 == 0:
        return bijectors.LowFrequencyAffineCoupling(network)
    return bijectors.LowFrequencyShiftCoupling(network)


def _linear_layers(step: FlowStepWeights) -> list[bijectors.FlowBijector]:
    layers: list[bijectors.FlowBijector] = [bijectors.ActNorm(step.actnorm.bias, step.actnorm.log_scale)]
    if step.rotation is not None:
        layers.append(bijectors.InvertibleConv1x1(step.rotation.matrix))
    return layers


def _flow_level(config: ModelConfig, weights: LevelWeights) -> bijectors.FlowLevel:
    """The bijectors over one level's weights."""
    rescaling = config.task == "rescaling"
    return bijectors.FlowLevel(
        squeeze=bijectors.Haar() if rescaling else bijectors.Squeeze(),
        steps=[
            bijectors.FlowStep([*_linear_layers(step), _main_coupling(config, index, step.network)])
            for index, step in enumerate(weights.main_steps)
        ],
        extractor=weights.extractor,
        conditional_steps=[
            bijectors.ConditionalFlowStep(_linear_layers(step), bijectors.ConditionalAffineCoupling(step.network))
            for step in weights.conditional_steps
        ],
        gaussian=bijectors.ConditionalGaussian(weights.gaussian, bounded=rescaling, log_std_bound=config.log_std_bound),
    )


class HCFlow(keras.Model):
    """The bijection hr <-> [lr, z_1, ..., z_L] and the distributions that it defines.

    Images are NHWC RGB in [0, 1]; latents z_l are [batch, h_lr 2^(L-l), w_lr 2^(L-l), channels_l].

    References:
      [1] Liang et al., Hierarchical Conditional Flow: A Unified Framework for Image Super-Resolution and Image
          Rescaling, ICCV 2021, https://arxiv.org/abs/2108.05301
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        mixed_precision: bool = False,
        recompute: bool = False,
        dtype: str = "float32",
        name: str = "hcflow",
    ):
        """Creates the model with all its weights.

        Args:
          config: hyperparameters.
          mixed_precision: run the feature extractors in bfloat16; the flow stays exact.
          recompute: compute activations again in the backward pass instead of keeping them; see docs/training.md.
          dtype: float32, or float64 for tests of the mathematics.
        """
        super().__init__(name=name, dtype=dtype)
        self.config = config
        extractor_dtype = "mixed_bfloat16" if mixed_precision else dtype
        self.levels, channels = [], 3
        for level in range(1, config.levels + 1):
            weights = LevelWeights(
                config, level, channels, extractor_dtype, recompute, name=f"level_{level}", dtype=self.dtype_policy
            )
            self.levels.append(weights)
            channels = weights.image_channels
        self.build()
        self.flow = bijectors.HierarchicalFlow([_flow_level(config, weights) for weights in self.levels], recompute=recompute)
        self._compiled_encode = tf.function(self.flow.forward_and_log_det, autograph=False, reduce_retracing=True)
        self._compiled_decode = tf.function(self.flow.inverse_and_log_det, autograph=False, reduce_retracing=True)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for level in self.levels:
            level.build(None)
        self.built = True

    @property
    def scale(self) -> int:
        """Width of hr over width of lr."""
        return self.config.scale

    def call(self, hr: tf.Tensor) -> list[tf.Tensor]:
        """[lr, z_1, ..., z_L], as the flow's forward direction."""
        return self.flow.forward_and_log_det(hr)[0]

    def encode(self, hr: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns lr, neither clipped nor rounded, and the standardised latents [z_1, ..., z_L].

        Args:
          hr: [batch, height, width, 3] in [0, 1], height and width divisible by the scale.

        Raises:
          ValueError: the shape does not fit, or hr is of integers; names what was expected and what came.
        """
        parts, _ = self.encode_and_log_det(hr)
        return parts[0], parts[1:]

    def encode_and_log_det(self, hr: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns [lr, z_1, ..., z_L] and log|det d[lr, z]/d hr|, [batch], nats."""
        hr = self._image("hr", hr)
        self.flow._check_forward(hr)
        return self._compiled_encode(hr)

    def decode(self, lr: tf.Tensor, latents: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns hr, not clipped: the exact inverse of `encode`.

        Args:
          lr: [batch, height, width, 3].
          latents: [z_1, ..., z_L] as `encode` or `draw_latents` gives them.

        Raises:
          ValueError: a shape does not fit; names what was expected and what came.
        """
        parts = [self._image("lr", lr), *(tf.convert_to_tensor(latent, self.variable_dtype) for latent in latents)]
        self.flow._check_inverse(parts)
        return self._compiled_decode(parts)[0]

    def draw_latents(self, lr_shape: Sequence[int], temperature: float = 0.8, seed: int | None = None) -> list[tf.Tensor]:
        """Returns [z_1, ..., z_L] ~ N(0, temperature^2) for LR images of shape [batch, height, width, 3].

        Image b of the batch is drawn from seed + b; None draws a new seed.
        """
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        shapes = latent_shapes(lr_shape[1], lr_shape[2], self.flow.latent_channels)
        seeds = tf.cast(seed, tf.int64) + tf.range(tf.cast(lr_shape[0], tf.int64))
        return draw_latents(seeds, temperature, shapes, self.variable_dtype)

    def sample(self, lr: tf.Tensor, temperature: float = 0.8, seed: int | None = None) -> tf.Tensor:
        """Returns one hr in [0, 1] for each lr [batch, height, width, 3]; same seed, same image.

        Args:
          lr: [batch, height, width, 3] in [0, 1].
          temperature: tau, standard deviation of the latents; 0 is the most probable image.
          seed: any integer of 64 bits, or None for a new one each time.
        """
        lr = self._image("lr", lr)
        latents = self.draw_latents(tf.shape(lr), temperature, seed)
        return tf.clip_by_value(self.decode(lr, latents), 0.0, 1.0)

    def log_prob(self, hr: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
        """log p(hr | lr), [batch], nats: log N(y | lr, e^-12) + sum_l log N(z_l | 0, I) + log|det| (paper eq. 5).

        Args:
          hr: [batch, height, width, 3] in [0, 1]; add noise u / q to 8-bit images first for the likelihood of bytes.
          lr: [batch, height / scale, width / scale, 3] in [0, 1].

        Raises:
          ValueError: a shape does not fit; names what was expected and what came.
        """
        parts, log_det = self.encode_and_log_det(hr)
        lr = self._image("lr", lr)
        if not lr.shape.is_compatible_with(parts[0].shape):
            raise ValueError(f"{self.name}: expected lr of shape {parts[0].shape} for this hr, got {lr.shape}")
        return gaussian_log_prob(parts[0], lr, LR_LOG_STD) + latent_log_prob(parts[1:]) + log_det

    def distribution(self, lr: tf.Tensor) -> tfd.TransformedDistribution:
        """p(hr | lr) as a TFP distribution, batch shape [batch], for lr [batch, height, width, 3]."""
        lr = self._image("lr", lr)
        batch, height, width = (tf.shape(lr)[axis] if size is None else size for axis, size in enumerate(lr.shape.as_list()[:3]))
        parts = [tfd.Normal(lr, tf.exp(tf.constant(LR_LOG_STD, lr.dtype)))]
        for shape in latent_shapes(height, width, self.flow.latent_channels):
            parts.append(tfd.Normal(tf.zeros([batch, *shape], lr.dtype), tf.ones([], lr.dtype)))
        base = tfd.JointDistributionSequential([tfd.Independent(part, 3) for part in parts])
        return tfd.TransformedDistribution(base, tfp.bijectors.Invert(self.flow))

    def initialise_actnorm(self, hr: tf.Tensor) -> None:
        """Sets every ActNorm from a batch of images [batch, height, width, 3], in the order of encoding.

        The low-frequency channels of the image path are left alone, so that training starts from the averaged image as
        LR image; see `LevelWeights` for the matrices of super-resolution, which start so that there are such channels.

        Call it once, before training, outside of any strategy's replicas: all replicas then hold the same values.
        """
        low = bijectors.coupling.LOW_CHANNELS
        x, images, details = tf.convert_to_tensor(hr, self.variable_dtype), [], []
        for weights, level in zip(self.levels, self.flow.levels, strict=True):
            x = level.squeeze.forward_and_log_det(x)[0]
            for index, (step_weights, step) in enumerate(zip(weights.main_steps, level.steps, strict=True)):
                # Before the first matrix of super-resolution has averaged them, all channels hold parts of the image.
                keep = x.shape[-1] if index == 0 and step_weights.rotation is not None else low
                x = _initialise_step(step_weights, step, x, lambda z, index=index: self._main_network_input(z, index), keep)
            x, detail = x[..., : weights.image_channels], x[..., weights.image_channels :]
            images.append(x)
            details.append(detail)
        conditions: list[tf.Tensor] = []
        for weights, level in reversed(list(zip(self.levels, self.flow.levels, strict=True))):
            image, detail = images.pop(), details.pop()
            condition = level.extractor(bijectors.hierarchical_flow.conditioning_input(image, conditions))
            conditions.append(condition)
            for step_weights, step in zip(weights.conditional_steps, level.conditional_steps, strict=True):
                detail = _initialise_step(
                    step_weights,
                    step,
                    detail,
                    lambda z, condition=condition: tf.concat([z[..., : z.shape[-1] // 2], condition], -1),
                    condition=condition,
                )

    def _image(self, name: str, image: tf.Tensor) -> tf.Tensor:
        """The image as a tensor of the model's type; refuses integers, which would be taken for values far outside [0, 1]."""
        if not tf.as_dtype(getattr(image, "dtype", tf.float32)).is_floating:
            raise ValueError(f"{self.name}: expected {name} of floats in [0, 1], got {image.dtype}; divide 8-bit images by 255")
        return tf.convert_to_tensor(image, self.variable_dtype)

    def _main_network_input(self, z: tf.Tensor, index: int) -> tf.Tensor:
        """What the coupling network of main step `index` sees of its input."""
        if self.config.task == "super_resolution":
            return z[..., : z.shape[-1] // 2]
        return z[..., :3] if index % 2 == 0 else z[..., 3:]

    def named_weights(self) -> dict[str, keras.Variable]:
        """Every weight by its path, such as level_1/main_step_1/actnorm/bias, in a fixed order."""
        return {variable.path.split("/", 1)[1]: variable for variable in self.weights}


def _initialise_step(
    weights: FlowStepWeights, step: bijectors.FlowBijector, x: tf.Tensor, network_input, keep: int = 0, **conditions
) -> tf.Tensor:
    weights.actnorm.initialise(x, keep=keep)
    z = x
    for layer in step.layers[:-1]:
        z = layer.forward_and_log_det(z)[0]
    weights.network.initialise(network_input(z))
    return step.forward_and_log_det(x, **conditions)[0]


def gaussian_log_prob(x: tf.Tensor, mean: tf.Tensor, log_std: float) -> tf.Tensor:
    """log N(x | mean, exp(2 log_std)) summed over each image, [batch], nats."""
    normal = tfd.Normal(mean, tf.exp(tf.constant(log_std, x.dtype)))
    return tf.reduce_sum(normal.log_prob(x), axis=[1, 2, 3])


def latent_log_prob(latents: Sequence[tf.Tensor]) -> tf.Tensor:
    """sum_l log N(z_l | 0, I) over each image, [batch], nats."""
    return tf.add_n([gaussian_log_prob(z, tf.zeros([], z.dtype), 0.0) for z in latents])
