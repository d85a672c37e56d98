"""Muon over all weights of a network as one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

RMS_OF_A_STEP = 0.2
"""Root mean square of a step over the learning rate, about that of Adam's: so Adam's learning rates serve (Liu et al., 2025,
section 2.2, arXiv 2502.16982)."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that moves every singular value towards 1 (Jordan et al., 2024)."""
NEWTON_SCHULZ_STEPS = 5


class Muon(keras.optimizers.Adam):
    """Keras's Adam on one vector, whose convolution kernels take steps of orthogonalised momentum instead.

    A kernel of [height, width, in, out] is a matrix of height * width * in rows and `out` columns, and its step that matrix's
    momentum with all singular values moved to about 1: no direction of a layer waits for the larger ones. Biases, ActNorms and
    the flow's 1x1 matrices take Adam's steps. Keras's own Muon knows matrices alone.
    """

    def __init__(self, *args: Any, shapes: Sequence[tuple[int, ...]], **options: Any):
        """Creates the optimiser.

        Args:
          args: Adam's.
          shapes: of the network's variables, in the vector's order.
          options: Adam's; beta_1 is Muon's momentum, too.
        """
        super().__init__(*args, **options)
        self._sizes = [math.prod(shape) for shape in shapes]
        self._kernels: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(shapes):
            if len(shape) == 4:
                self._kernels.setdefault((math.prod(shape[:3]), shape[3]), []).append(index)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Takes a step; Keras calls it on every replica."""
        before = tf.split(tf.convert_to_tensor(variable), self._sizes)
        super().update_step(gradient, variable, learning_rate)
        after = tf.split(tf.convert_to_tensor(variable), self._sizes)
        momentum = tf.convert_to_tensor(self._momentums[self._get_variable_index(variable)])
        ahead = tf.split(self.beta_1 * momentum + (1 - self.beta_1) * gradient, self._sizes)  # Nesterov's
        for (rows, columns), indices in self._kernels.items():
            directions = orthogonalised(tf.stack([tf.reshape(ahead[index], [rows, columns]) for index in indices]))
            rate = tf.cast(learning_rate, directions.dtype) * RMS_OF_A_STEP * math.sqrt(max(rows, columns))
            for index, direction in zip(indices, tf.unstack(directions), strict=True):
                after[index] = before[index] - rate * tf.reshape(direction, [-1])
        self.assign(variable, tf.concat(after, axis=0))


def orthogonalised(matrices: tf.Tensor) -> tf.Tensor:
    """Matrices of the same singular vectors, with singular values of 0.68 to 1.2, by Newton and Schulz's iteration.

    Five iterations leave those below about two thousandths of the matrix's norm smaller.

    Args:
      matrices: [n, rows, columns]; one of zeros stays so.
    """
    wide = matrices.shape[1] < matrices.shape[2]
    result = tf.linalg.matrix_transpose(matrices) if wide else matrices
    result /= tf.norm(result, axis=(1, 2), keepdims=True) + 1e-12
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = tf.matmul(result, result, transpose_a=True)
        result = a * result + tf.matmul(result, b * gram + c * tf.matmul(gram, gram))
    return tf.linalg.matrix_transpose(result) if wide else result
