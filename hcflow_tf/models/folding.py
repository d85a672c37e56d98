"""Folding a model's weights, in float64: every function here returns arrays that replace several layers by one."""

from __future__ import annotations

import numpy as np

from hcflow_tf.networks.flow_step import FlowStepWeights
from hcflow_tf.networks.layers import ActNorm, Conv, ScaledConv

Affine = tuple[np.ndarray, np.ndarray]
"""Kernel [height, width, in, out] and bias [out] of a convolution, or matrix [out, in] and bias [out] of a map per pixel."""


def array(variable: object) -> np.ndarray:
    """The value of a Keras variable."""
    return np.asarray(variable, np.float64)


def plain(conv: Conv) -> Affine:
    """Kernel and bias of a convolution."""
    return array(conv.kernel), array(conv.bias)


def normalised(conv: Conv, actnorm: ActNorm) -> Affine:
    """A convolution without bias and the ActNorm after it."""
    scale = np.exp(array(actnorm.log_scale))
    return array(conv.kernel) * scale, array(actnorm.bias) * scale


def scaled(conv: ScaledConv) -> Affine:
    """A convolution and its factor exp(3 g)."""
    scale = np.exp(3 * array(conv.log_scale))
    return array(conv.kernel) * scale, array(conv.bias) * scale


def halves(affine: Affine, factor: float) -> Affine:
    """Interleaved (shift, raw) outputs as contiguous halves shift | factor * raw."""
    return tuple(np.concatenate([values[..., 0::2], factor * values[..., 1::2]], axis=-1) for values in affine)


def linear(step: FlowStepWeights) -> Affine:
    """ActNorm and the 1x1 matrix after it, as y = A x + b."""
    scale = np.exp(array(step.actnorm.log_scale))
    matrix = np.eye(len(scale)) if step.rotation is None else array(step.rotation.matrix)
    return matrix * scale, matrix @ (scale * array(step.actnorm.bias))


def inverse(affine: Affine) -> Affine:
    """x = A^-1 y - A^-1 b."""
    matrix = np.linalg.inv(affine[0])
    return matrix, -matrix @ affine[1]


def then(first: Affine, second: Affine) -> Affine:
    """`second` after `first`."""
    return second[0] @ first[0], second[0] @ first[1] + second[1]


def log_abs_det(affine: Affine) -> float:
    """log|det A|."""
    return float(np.linalg.slogdet(affine[0])[1])


def squeeze(channels: int, *, haar: bool) -> Affine:
    """What follows `tf.nn.space_to_depth` (channels ordered dy, dx, c) in the model's squeeze or Haar transform.

    Args:
      channels: of the image before.
      haar: the Haar transform, channels ordered (band, c); else the plain squeeze, ordered (c, dy, dx).
    """
    identity = np.eye(channels)
    if haar:
        signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
        matrix = np.kron(signs, identity) / 4
    else:
        matrix = np.eye(4 * channels).reshape(4, channels, -1).transpose(1, 0, 2).reshape(4 * channels, -1)
    return matrix, np.zeros(4 * channels)


def before_upsampling(kernel: np.ndarray, factor: int) -> np.ndarray:
    """The kernel K' with depth_to_space(conv(x, K'), factor) = conv(upsample(x, factor), K), nearest neighbour.

    Exact with zero padding too: a fine pixel lies outside if and only if its coarse pixel does.

    Args:
      kernel: K, [3, 3, in, out].

    Returns:
      [3, 3, in, factor^2 out].
    """
    inputs, outputs = kernel.shape[2:]
    coarse = np.zeros((3, 3, inputs, factor, factor, outputs))
    for phase_y, phase_x, row, column in np.ndindex(factor, factor, 3, 3):
        coarse_row, coarse_column = (phase_y + row - 1) // factor + 1, (phase_x + column - 1) // factor + 1
        coarse[coarse_row, coarse_column, :, phase_y, phase_x] += kernel[row, column]
    return coarse.reshape(3, 3, inputs, -1)
