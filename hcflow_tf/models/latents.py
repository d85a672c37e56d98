"""Drawing latents: the same seed gives the same latents on every device and in every runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def draw_latents(
    seeds: tf.Tensor, temperatures: tf.Tensor, shapes: Sequence[Sequence[int | tf.Tensor]], dtype: tf.DType = tf.float32
) -> list[tf.Tensor]:
    """Returns [z_1, z_2, ...] with z_i[b] ~ N(0, temperatures[b]^2), drawn from (seeds[b], i) alone.

    So an image's latents depend neither on the others in its batch nor on the device (Philox, stateless).

    Args:
      seeds: [batch], integers.
      temperatures: [batch] or scalar, tau.
      shapes: [height, width, channels] of each latent; see `hcflow_tf.support.latents.latent_shapes`.
    """
    seeds = tf.cast(seeds, tf.int64)
    temperatures = tf.broadcast_to(tf.cast(temperatures, dtype), tf.shape(seeds))[:, None, None, None]
    latents = []
    for number, shape in enumerate(shapes, start=1):

        def draw(seed: tf.Tensor, number: int = number, shape: Sequence = shape) -> tf.Tensor:
            return tf.random.stateless_normal(tf.stack(shape), [seed, number], dtype=dtype, alg="philox")

        z = tf.map_fn(draw, seeds, fn_output_signature=tf.TensorSpec([None, None, shape[2]], dtype))
        latents.append(temperatures * z)
    return latents


def check_temperature(temperature: object) -> None:
    """Raises ValueError unless this is a finite number of at least 0, or [batch] of them; a symbolic tensor passes."""
    if tf.is_tensor(temperature) and not hasattr(temperature, "numpy"):
        return
    values = np.asarray(temperature)
    if values.dtype.kind not in "fiu" or values.ndim > 1 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"expected a finite temperature of at least 0, one or [batch] of them, got {temperature!r:.100}")
