"""One training iteration: the optimiser steps of a recipe, on every replica alike."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hcflow_tf import losses
from hcflow_tf.config import Config, LossConfig, OptimizerConfig
from hcflow_tf.metrics.bits_per_dim import released_nll
from hcflow_tf.metrics.lpips import loss_layer
from hcflow_tf.models.flow_model import Flow
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.networks import winograd
from hcflow_tf.networks.discriminator import discriminator
from hcflow_tf.networks.efficientnet import EfficientNetFeatures
from hcflow_tf.networks.part import read_together
from hcflow_tf.networks.vgg import VGGFeatures
from hcflow_tf.support.latents import latent_shapes
from hcflow_tf.training.flat_optimizer import FlatOptimizer

Losses = dict[str, tf.Tensor]


def update_terms(config: LossConfig) -> list[tuple[str, ...]]:
    """The losses of each optimiser step of one iteration, in order; those of weight 0 are left out."""
    groups = [("nll",), ("pixel", "lr", "latent"), ("perceptual", "lpips", "adversarial")]
    if not config.separate_updates:
        groups = [tuple(term for group in groups for term in group)]
    active = [tuple(term for term in group if getattr(config, term)) for group in groups]
    return [terms for terms in active if terms]


def decay(config: OptimizerConfig, step: int, steps: int) -> float:
    """The factor of the learning rates in iteration `step` of `steps`, from 0: linear warm-up, then halvings or a cosine."""
    factor = 0.5 ** sum(step >= halving for halving in config.halve_at)
    if config.cosine:
        factor = 0.5 + 0.5 * math.cos(math.pi * step / steps)
    return factor * min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else factor


class TrainingStep:
    """The optimisers of a run and the iteration they make.

    Losses are divided by the global batch and gradients are summed over the replicas before they are clipped, so one
    replica and several take the same step; noise is drawn for the global batch, each replica takes its part. A step
    whose gradients are not finite is skipped on all replicas.
    """

    def __init__(self, config: Config, model: TrainedModel, strategy: tf.distribute.Strategy):
        """Creates optimisers (and, where the recipe has them, discriminator, VGG and LPIPS) inside the strategy's scope."""
        self.config, self.model, self.strategy = config, model, strategy
        # TensorFlow's remapper cannot fuse what a function also gives back for its gradient, and says so as an error.
        tf.config.optimizer.set_experimental_options({"remapping": False})
        rates = config.optimizer
        self.features: Any = None
        self.lpips: Any = None
        self.discriminator: Any = None
        self.discriminator_optimizer: FlatOptimizer | None = None
        with strategy.scope():
            self.optimizer = FlatOptimizer(
                model,
                rates,
                kind=rates.kind,
                learning_rate=rates.learning_rate,
                strategy=strategy,
                ema=config.training.ema,
                weight_decay=rates.weight_decay,
                groups=None if model.reads_variables else read_together(model.parts()),
                frozen=model.frozen_variables,
            )
            if config.losses.perceptual:
                self.features = _perceptual_features(config.losses)
            if config.losses.lpips:
                self.lpips = loss_layer(config.losses.lpips_weights)
            if config.losses.adversarial:
                self.discriminator = discriminator(
                    model.variable_dtype, crop_size=config.data.crop_size, width=config.losses.discriminator_width
                )
                self.discriminator_optimizer = FlatOptimizer(
                    self.discriminator,
                    rates,
                    kind="adam",
                    learning_rate=rates.discriminator_learning_rate,
                    strategy=strategy,
                )
        terms_of_updates = update_terms(config.losses)
        self._updates = [self._compile(terms, self._generator_losses, self.optimizer) for terms in terms_of_updates]
        self._frozen_updates = [
            self._compile(terms, functools.partial(self._generator_losses, frozen=True), self.optimizer, frozen=True)
            for terms in terms_of_updates
        ]
        self._discriminator_update = None
        if self.discriminator_optimizer is not None:
            self._discriminator_update = self._compile(
                ("discriminator",), self._discriminator_losses, self.discriminator_optimizer
            )

    @property
    def optimizers(self) -> dict[str, FlatOptimizer]:
        """The optimisers by the name of what they train."""
        both = {"model": self.optimizer, "discriminator": self.discriminator_optimizer}
        return {name: optimizer for name, optimizer in both.items() if optimizer is not None}

    def __call__(
        self, hr: tf.Tensor, lr: tf.Tensor, step: int, *, given: tf.Tensor | None = None, rate_factor: float = 1.0
    ) -> tuple[dict[str, float], list[str]]:
        """Runs iteration `step` on a global batch.

        Args:
          hr: [batch, crop, crop, 3] in [0, 1], distributed over the replicas.
          lr: its LR images.
          step: from 0; decides the learning rate and the noise.
          given: the LR images that are enlarged, if they are others: degraded ones.
          rate_factor: of all learning rates, below 1 after a run went back to a checkpoint.

        Returns:
          The losses, unweighted means over the global batch, and the names of those that were not finite, or whose
          gradient was not; their updates were skipped.
        """
        rates = self.config.optimizer
        factor = rate_factor * decay(rates, step, self.config.training.steps)
        of_model = self._frozen_updates if step < self.config.training.frozen_steps else self._updates
        updates = [(update, rates.learning_rate) for update in of_model]
        if self._discriminator_update is not None:
            if step < rates.discriminator_warmup_steps:
                updates = []
            updates.append((self._discriminator_update, rates.discriminator_learning_rate))
        values: dict[str, float] = {}
        skipped: list[str] = []
        for index, (update, rate) in enumerate(updates):
            seed = tf.constant([self.config.training.seed, step * 4 + index], tf.int64)
            update_values, bad = update(hr, lr, lr if given is None else given, seed, rate * factor)
            values |= update_values
            skipped += bad
        return values, skipped

    def _compile(
        self, terms: tuple[str, ...], compute_losses: Callable[..., Losses], optimizer: FlatOptimizer, *, frozen: bool = False
    ) -> Callable[..., tuple[dict[str, float], list[str]]]:
        """The optimiser step for some losses: (hr, lr, given, seed, learning rate) -> (losses, those that were not finite).

        Args:
          terms: the losses.
          compute_losses: of the terms.
          optimizer: of what they train.
          frozen: leave the model's `frozen_variables` as they are.
        """
        global_batch = self.config.training.batch_size

        def gradient(hr: tf.Tensor, lr: tf.Tensor, given: tf.Tensor, noise: dict) -> tuple[tf.Tensor, Losses]:
            with tf.GradientTape() as tape:
                per_image = compute_losses(terms, hr, lr, given, noise)
                means = {name: tf.reduce_sum(value) / global_batch for name, value in per_image.items()}
                total = tf.add_n([self._weight(name) * value for name, value in means.items()])
            return optimizer.gradient(tape, total, frozen=frozen), means

        if not self.model.reads_variables:  # with recomputation each RRDB is a graph of its own: minutes to build so
            gradient = winograd.in_training()(gradient)
        if self.config.training.xla:
            gradient = tf.function(gradient, jit_compile=True, autograph=False)

        def on_replica(hr: tf.Tensor, lr: tf.Tensor, given: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, Losses, tf.Tensor]:
            context = tf.distribute.get_replica_context()
            local = gradient(hr, lr, given, self._draw_noise(terms, hr, seed, context))
            summed, values = context.all_reduce(tf.distribute.ReduceOp.SUM, local)
            return optimizer.clip(summed), values, tf.reduce_all(tf.math.is_finite(summed))

        @tf.function(autograph=False)
        def total_gradient(*batch_and_seed: tf.Tensor) -> tuple[tf.Tensor, Losses, tf.Tensor]:
            summed, values, finite = self.strategy.run(on_replica, batch_and_seed)
            return summed, *tf.nest.map_structure(self._first_replica, (values, finite))

        def update(
            hr: tf.Tensor, lr: tf.Tensor, given: tf.Tensor, seed: tf.Tensor, rate: float
        ) -> tuple[dict[str, float], list[str]]:
            summed, means, finite_gradient = total_gradient(hr, lr, given, seed)
            values = {name: float(value) for name, value in means.items()}
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if not bad and not finite_gradient:
                bad = [f"gradient of {' + '.join(values)}"]
            if not bad:
                optimizer.apply(summed, rate)
            return values, bad

        return update

    def _first_replica(self, value: tf.Tensor) -> tf.Tensor:
        """A value that is the same on all replicas."""
        return self.strategy.experimental_local_results(value)[0]

    def _weight(self, term: str) -> float:
        return 1.0 if term == "discriminator" else getattr(self.config.losses, term)

    def _draw_noise(
        self, terms: Sequence[str], hr: tf.Tensor, seed: tf.Tensor, context: tf.distribute.ReplicaContext
    ) -> dict[str, tf.Tensor | list[tf.Tensor]]:
        """Dequantisation noise in [0, 1) and standard normal latents for this replica's part of the global batch."""
        batch, replicas = hr.shape[0], context.num_replicas_in_sync
        first = batch * tf.cast(context.replica_id_in_sync_group, tf.int32)

        def part(draw: Callable[..., tf.Tensor], shape: list[int], stream: int) -> tf.Tensor:
            stream_seed = seed + tf.constant([0, stream * 2**40], tf.int64)
            drawn = draw([batch * replicas, *shape], seed=stream_seed, dtype=hr.dtype, alg="philox")
            return tf.slice(drawn, [first, 0, 0, 0], [batch, *shape])

        noise: dict = {}
        if "nll" in terms:
            noise["uniform"] = part(tf.random.stateless_uniform, list(hr.shape[1:]), 0)
        if set(terms) - {"nll"}:
            scale = self.model.scale
            shapes = latent_shapes(hr.shape[1] // scale, hr.shape[2] // scale, scale, self.model.latents)
            noise["normal"] = [part(tf.random.stateless_normal, shape, number) for number, shape in enumerate(shapes, 1)]
        return noise

    def _generator_losses(
        self, terms: Sequence[str], hr: tf.Tensor, lr: tf.Tensor, given: tf.Tensor, noise: dict, *, frozen: bool = False
    ) -> Losses:
        """The named losses of the model, each [batch]; `given` are the LR images that are enlarged."""
        config, flow, result = self.config.losses, self.model.computed_flow(self.optimizer.values(frozen=frozen)), {}
        if "nll" in terms:
            uniform = noise["uniform"] - 0.5 if config.centered_noise else noise["uniform"]
            dequantised = hr + uniform / config.quantization_levels
            log_prob, _ = losses.training_log_prob(flow, dequantised, lr)
            result["nll"] = released_nll(log_prob, hr.shape[1], hr.shape[2], quantization_levels=config.quantization_levels)
        source = given
        if self.model.config.makes_lr and set(terms) - {"nll"}:
            encoded, latents = self._encode(flow, hr)
            source = losses.round_straight_through(encoded)
            if "lr" in terms:
                result["lr"] = self._reduced(losses.lr_l2(encoded, lr, config.lr_chroma), lr)
            if "latent" in terms:
                result["latent"] = self._reduced(losses.latent_l2(latents), *latents)
        if "pixel" in terms:
            decoded = self._decode(flow, source, noise, config.pixel_temperature)
            result["pixel"] = self._reduced(losses.l1(hr, decoded, config.pixel_epsilon), hr)
        if {"perceptual", "lpips", "adversarial"} & set(terms):
            sample = self._decode(flow, source, noise, config.sample_temperature)
            if "perceptual" in terms:
                depths = zip(self.features(sample), self.features(hr), strict=True)
                means = [losses.l1(of_sample, of_hr) for of_sample, of_hr in depths]
                result["perceptual"] = tf.add_n(means) / len(means)
            if "lpips" in terms:
                result["lpips"] = tf.cast(self.lpips((sample, hr)), hr.dtype)
            if "adversarial" in terms:
                result["adversarial"] = self._adversarial(sample, hr)
        return result

    def _discriminator_losses(self, terms: Sequence[str], hr: tf.Tensor, lr: tf.Tensor, given: tf.Tensor, noise: dict) -> Losses:
        """How well the discriminator tells hr from a sample, [batch]."""
        source, flow = given, self.model.computed_flow(self.optimizer.values())
        if self.model.config.makes_lr:
            source = losses.round_straight_through(self._encode(flow, hr)[0])
        sample = tf.stop_gradient(self._decode(flow, source, noise, self.config.losses.sample_temperature))
        real, fake = (self.discriminator(images, training=True) for images in (hr, sample))
        if self.config.losses.adversarial_kind == "relativistic":
            return {"discriminator": losses.relativistic(real, fake, real=True, mean=_global_mean)}
        return {"discriminator": losses.adversarial(real, real=True) + losses.adversarial(fake, real=False)}

    def _adversarial(self, sample: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
        """How well the discriminator tells a sample from hr, for the generator, [batch]."""
        fake = self.discriminator(sample, training=True)
        if self.config.losses.adversarial_kind == "vanilla":
            return losses.adversarial(fake, real=True)
        real = tf.stop_gradient(self.discriminator(hr, training=True))
        return losses.relativistic(fake, real, real=True, mean=_global_mean)

    def _reduced(self, mean: tf.Tensor, *images: tf.Tensor) -> tf.Tensor:
        """A mean over the values of each of these images, [batch], or what the recipe takes for it."""
        return mean * losses.values_per_image(*images) if self.config.losses.reduction == "sum" else mean

    def _encode(self, flow: Flow, hr: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """LR images, not rounded, and latents."""
        (lr, *latents), _ = flow.forward_and_log_det(hr)
        return self._clip(lr), latents

    def _decode(self, flow: Flow, lr: tf.Tensor, noise: dict, temperature: float) -> tf.Tensor:
        hr = flow.decode(lr, [temperature * z for z in noise["normal"]])
        return self._clip(hr)

    def _clip(self, image: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(image, 0.0, 1.0) if self.config.losses.clip else image


def _perceptual_features(config: LossConfig) -> keras.layers.Layer:
    """Image [batch, h, w, 3] in [0, 1] -> features, of one or several depths."""
    return VGGFeatures(config.vgg_weights) if config.perceptual_features == "vgg19" else EfficientNetFeatures()


def _global_mean(logits: tf.Tensor) -> tf.Tensor:
    """Mean over the images of all replicas, which have equally many."""
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(logits))
