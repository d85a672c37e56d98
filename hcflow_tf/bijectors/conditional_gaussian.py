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
from hcflow_tf.bijectors.log_scales import LogScale


class ConditionalGaussian(FlowBijector):
    """z = (a - mean) exp(-log_std), mean and log_std from the condition; log|det| = -sum(log_std).

    h = network(condition); mean = first half of h's channels; log_std = log_std(second half). With z ~ N(0, I), a is
    Gaussian given the condition.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.3.
    """

    takes_condition = True

    def __init__(
        self,
        network: Callable[..., tf.Tensor],
        *,
        log_std: LogScale,
        mean: Callable[[tf.Tensor], tf.Tensor] | None = None,
        name: str | None = None,
    ):
        """Creates the layer.

        Args:
          network: condition -> [batch, h, w, 2 c].
          log_std: from the network's second half to the log standard deviation; see `hcflow_tf.bijectors.log_scales`.
          mean: condition -> the network's first half alone, if that is cheaper; for temperature 0.
        """
        super().__init__(name=name)
        self._network, self._log_std, self._mean = network, log_std, mean

    def _check_forward(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        check_image(self.name, x)
        check_condition(self.name, x, condition)

    def _forward_and_log_det(self, x: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        mean, log_std = self._mean_and_log_std(condition, x.shape[-1])
        return (x - mean) * tf.exp(-log_std), -sum_per_image(log_std)

    def _inverse_and_log_det(self, y: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        mean, log_std = self._mean_and_log_std(condition, y.shape[-1])
        return y * tf.exp(log_std) + mean, sum_per_image(log_std)

    def mean(self, condition: tf.Tensor) -> tf.Tensor:
        """The inverse of z = 0."""
        return self._mean(condition) if self._mean else tf.split(self._network(condition), 2, axis=-1)[0]

    def log_std(self, condition: tf.Tensor) -> tf.Tensor:
        """The log standard deviation, [batch, h, w, c]."""
        return self._log_std(tf.split(self._network(condition), 2, axis=-1)[1])

    def observe(self, see: Callable[[tf.Tensor], None]) -> None:
        """From now on hands every log standard deviation that it computes to `see`, to be measured."""
        compute = self._log_std

        def seen(raw: tf.Tensor) -> tf.Tensor:
            log_std = compute(raw)
            see(log_std)
            return log_std

        self._log_std = seen

    def _mean_and_log_std(self, condition: tf.Tensor, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
        h = self._network(condition)
        check_network_output(self.name, h, 2 * channels)
        mean, raw = tf.split(h, 2, axis=-1)
        return mean, self._log_std(raw)
