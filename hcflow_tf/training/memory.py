"""The model of a run, made so that a training step fits the memory and the processor."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from hcflow_tf.config import Config
from hcflow_tf.inference.memory import available_memory
from hcflow_tf.models.complexity import measure
from hcflow_tf.models.systems import make_model
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.support.devices import bfloat16_slowdown, gpu_memory
from hcflow_tf.training.step import update_terms
from hcflow_tf.training.strategy import worker_count

_PER_WEIGHT = 40
"""Bytes: weights, gradient, moments and graph. Measured: 20 to 39 for sr_x4, 53 for rescale_x4."""
_EMULATED = 2.0
"""Slowdown that only a processor that emulates bfloat16 has, 14 times; on a busy one that has it, the measurement varies."""
_USABLE_SHARE = 0.8
"""Of the memory: the rest is for the data, the validation and other programs."""


def training_model(config: Config, strategy: tf.distribute.Strategy, say: Callable[[str], object]) -> TrainedModel:
    """The model of a run, in the scope of its strategy.

    Args:
      config: of the run. With training.recompute "auto" activations are computed again in the backward pass where a step that
        kept them would take more than four fifths of the memory; training.mixed_precision has no effect on a processor that
        would only be slower for it.
      strategy: its replicas share the CPU's memory, or have a GPU each.
      say: is told so.
    """
    training = config.training
    mixed_precision = training.mixed_precision and _bfloat16_pays(strategy, say)
    with strategy.scope():
        model = make_model(config.model, mixed_precision=mixed_precision, recompute=training.recompute is True)
        if training.recompute != "auto":
            return model
        needed, there = step_bytes(config, model, strategy.num_replicas_in_sync), _memory(strategy)
        if needed <= _USABLE_SHARE * there:
            return model
        say(
            f"a step would take about {needed / 2**30:.0f} GiB of {there / 2**30:.0f}: activations are computed again in the "
            "backward pass (training.recompute)"
        )
        return make_model(config.model, mixed_precision=mixed_precision, recompute=True)


def _bfloat16_pays(strategy: tf.distribute.Strategy, say: Callable[[str], object]) -> bool:
    """Whether networks in bfloat16 make a step faster: on GPUs, as asked for; on a CPU that does not emulate it."""
    if "GPU" in strategy.extended.worker_devices[0] or bfloat16_slowdown() <= _EMULATED:
        return True
    say(
        f"training.mixed_precision: this processor takes {bfloat16_slowdown():.0f} times as long in bfloat16 as in float32; "
        "training in float32"
    )
    return False


def step_bytes(config: Config, model: TrainedModel, replicas: int = 1) -> float:
    """Estimated memory of a training step that keeps its activations, bytes on each replica, all in float32."""
    cost = measure(config.model, {name: tuple(weight.shape) for name, weight in model.named_weights().items()})
    pixels = config.training.batch_size / replicas * config.data.crop_size**2
    passes = max(_passes(terms, makes_lr=config.model.makes_lr) for terms in update_terms(config.losses))
    return _PER_WEIGHT * sum(cost.parameters.values()) + pixels * passes * cost.kept_bytes


def _passes(terms: tuple[str, ...], *, makes_lr: bool) -> int:
    """How often the losses of one optimiser step run the model, in either direction."""
    encodes_lr = makes_lr and any(term != "nll" for term in terms)
    return ("nll" in terms) + encodes_lr + ("pixel" in terms) + any(t in terms for t in ("perceptual", "lpips", "adversarial"))


def _memory(strategy: tf.distribute.Strategy) -> float:
    """Bytes that a replica may take: its GPU's, or its share of this machine's."""
    on_gpu = gpu_memory() if "GPU" in strategy.extended.worker_devices[0] else None
    replicas_here = strategy.num_replicas_in_sync // worker_count(strategy)
    return available_memory() / replicas_here if on_gpu is None else on_gpu
