"""The affine injector: all channels, mapped as the condition says."""

from __future__ import annotations

import tensorflow as tf

from hcflow_tf.bijectors.base import (
    FlowBijector,
    ValueAndLogDet,
    check_condition,
    check_image,
    check_network_output,
    initialise_network,
    run_network,
    sum_per_image,
)
from hcflow_tf.bijectors.coupling import Network
from hcflow_tf.bijectors.log_scales import LogScale


class AffineInjector(FlowBijector):
    """y = (x + shift) exp(s), shift and s from the condition alone; log|det| = sum(s).

    h = network(condition); shift = first half of h's channels; s = log_scale(second half).

    References:
      [1] Lugmayr et al., SRFlow, ECCV 2020, section 3.3.
    """

    takes_condition = True

    def __init__(self, network: Network, *, log_scale: LogScale, name: str | None = None):
        """Creates the layer.

        Args:
          network: condition -> [batch, h, w, 2 c]; has `initialise` if it starts from data.
          log_scale: from the network's second half to s; see `hcflow_tf.bijectors.log_scales`.
        """
        super().__init__(name=name)
        self._network, self._log_scale = network, log_scale

    def _check_forward(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        check_image(self.name, x)
        check_condition(self.name, x, condition)

    def _forward_and_log_det(self, x: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        shift, log_scale = self._shift_and_log_scale(condition, x.shape[-1])
        return (x + shift) * tf.exp(log_scale), sum_per_image(log_scale)

    def _inverse_and_log_det(self, y: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        shift, log_scale = self._shift_and_log_scale(condition, y.shape[-1])
        return y * tf.exp(-log_scale) - shift, -sum_per_image(log_scale)

    def initialise(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        """Lets the network start from the condition."""
        initialise_network(self._network, condition)

    def _shift_and_log_scale(self, condition: tf.Tensor, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
        h = run_network(self._network, condition)
        check_network_output(self.name, h, 2 * channels)
        shift, raw = tf.split(h, 2, axis=-1)
        return shift, self._log_scale(raw)
