"""The last layer of the latent path: standardise with a mean and deviation given the condition."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from hcflow_tf.bijectors.base import (
    FlowBijector,
    ValueAndLogDet,
    check_condition,
    check_image,
    check_network_output,
    sum_per_image,
)
from hcflow_tf.bijectors.coupling import bounded_log_scale


class ConditionalGaussian(FlowBijector):
    """z = (a - mean) exp(-log_std), mean and log_std from the condition; log|det| = -sum(log_std).

    h = network(condition); mean = even channels of h, raw = odd channels; log_std = raw, or 0.318 atan(2 raw) if
    bounded, or `bounded_above(raw, log_std_bound)`. With z ~ N(0, I), a is Gaussian given the condition.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.3.
    """

    def __init__(
        self,
        network: Callable[[tf.Tensor], tf.Tensor],
        *,
        bounded: bool,
        log_std_bound: float | None = None,
        name: str | None = None,
    ):
        """Args: network, condition -> [batch, h, w, 2 c]; bounded, True for the rescaling models; log_std_bound, of others."""
        super().__init__(name=name)
        self._log_std_bound = log_std_bound
        self._network = network
        self._bounded = bounded

    def _check_forward(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        check_image(self.name, x)
        check_condition(self.name, x, condition)

    def _forward_and_log_det(self, x: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        mean, log_std = self._mean_and_log_std(condition, x)
        return (x - mean) * tf.exp(-log_std), -sum_per_image(log_std)

    def _inverse_and_log_det(self, y: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        mean, log_std = self._mean_and_log_std(condition, y)
        return y * tf.exp(log_std) + mean, sum_per_image(log_std)

    def _mean_and_log_std(self, condition: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        h = self._network(condition)
        check_network_output(self.name, h, 2 * x.shape[-1])
        mean, raw = h[..., 0::2], h[..., 1::2]
        if self._bounded:
            return mean, bounded_log_scale(raw)
        return mean, raw if self._log_std_bound is None else bounded_above(raw, self._log_std_bound)


def bounded_above(raw: tf.Tensor, bound: float) -> tf.Tensor:
    """bound - softplus(bound - raw): raw where it is far below the bound, never above it, smooth and increasing.

    Bounded on one side only: a smooth region needs very small deviations, but no pixel in [0, 1] needs a large one.
    """
    return bound - tf.math.softplus(bound - raw)
