"""The decoder and the encoder as functions of named tensors, for every converter."""

from __future__ import annotations

from typing import Any, TypeAlias

import tensorflow as tf

from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.runtimes.exported import HR, LR, latent_names
from hcflow_tf.support.latents import latent_shapes

Function: TypeAlias = Any
"""A concrete function, as every converter takes it."""


def decoder(folded: InferenceModel, size: tuple[int, int] | None, *, latents: bool) -> Function:
    """The decoder as a function of named tensors, for LR images of this size or any."""
    names = latent_names(len(folded.latents)) if latents else []

    def decode(lr: tf.Tensor, **parts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {HR: folded.decode(lr, [parts[name] for name in names] or None, guard=True)}

    shapes = latent_shapes(*size, folded.scale, folded.latents) if size else [(None, None, c) for c in folded.latent_channels]
    specs = {name: tf.TensorSpec([size and 1, *shape], name=name) for name, shape in zip(names, shapes, strict=False)}
    return tf.function(decode, autograph=False).get_concrete_function(
        tf.TensorSpec([size and 1, *(size or (None, None)), 3], name=LR), **specs
    )


def encoder(folded: InferenceModel, size: tuple[int, int] | None) -> Function:
    """The encoder as a function of named tensors, for HR images of scale times this size, or any."""

    def encode(hr: tf.Tensor) -> dict[str, tf.Tensor]:
        lr, latents = folded.encode(hr)
        return {LR: lr, **dict(zip(latent_names(len(latents)), latents, strict=True))}

    sides = [side * folded.scale for side in size] if size else [None, None]
    return tf.function(encode, autograph=False).get_concrete_function(tf.TensorSpec([size and 1, *sides, 3], name=HR))
