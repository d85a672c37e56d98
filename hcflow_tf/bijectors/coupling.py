"""Couplings: one part of the channels drives a map of the others."""

from __future__ import annotations

from collections.abc import Callable

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
from hcflow_tf.bijectors.log_scales import LogScale, arctangent, sigmoid

Network = Callable[..., tf.Tensor]

LOW_CHANNELS = 3
"""Channels of the low-frequency part of the rescaling models, the averaged image."""


class AffineCoupling(FlowBijector):
    """Passes the first channels and maps the others with a shift and scale computed from them.

    z_a, z_b = split(x); h = network(z_a); shift = first half of h's channels; s = log_scale(second half);
    y = concat(z_a, (z_b + shift) exp(s)); log|det| = sum(s).

    References:
      [1] Dinh et al., Density estimation using Real NVP, 2017, section 3.2.
      [2] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    def __init__(
        self, network: Network, *, passed: int | None = None, log_scale: LogScale | None = None, name: str | None = None
    ):
        """Creates the coupling.

        Args:
          network: [batch, h, w, passed] -> [batch, h, w, 2 (c - passed)]; has `initialise` if it starts from data.
          passed: channels that pass; c // 2 by default.
          log_scale: from the network's second half to s; by default 0.318 atan.
        """
        super().__init__(name=name)
        self._network, self._passed, self._log_scale = network, passed, log_scale or arctangent()

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x)
        if x.shape[-1] <= (self._passed or 1):
            raise ValueError(f"{self.name}: expected more than {self._passed or 1} channels to split, got shape {x.shape}")

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return self._encode(x)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        return self._decode(y)

    def _encode(self, x: tf.Tensor, *condition: tf.Tensor) -> ValueAndLogDet:
        passed, changed = self._split(x)
        shift, log_scale = self._shift_and_log_scale(passed, changed, *condition)
        return tf.concat([passed, (changed + shift) * tf.exp(log_scale)], axis=-1), sum_per_image(log_scale)

    def _decode(self, y: tf.Tensor, *condition: tf.Tensor) -> ValueAndLogDet:
        passed, changed = self._split(y)
        shift, log_scale = self._shift_and_log_scale(passed, changed, *condition)
        return tf.concat([passed, changed * tf.exp(-log_scale) - shift], axis=-1), -sum_per_image(log_scale)

    def initialise(self, x: tf.Tensor, **conditions: tf.Tensor) -> None:
        """Lets the network start from the data x."""
        initialise_network(self._network, self._split(x)[0], *conditions.values())

    def _split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        passed = self._passed or x.shape[-1] // 2
        return tf.split(x, [passed, x.shape[-1] - passed], axis=-1)

    def _shift_and_log_scale(self, passed: tf.Tensor, changed: tf.Tensor, *condition: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        h = run_network(self._network, passed, *condition)
        check_network_output(self.name, h, 2 * changed.shape[-1])
        shift, raw = tf.split(h, 2, axis=-1)
        return shift, self._log_scale(raw)


class ConditionalAffineCoupling(AffineCoupling):
    """`AffineCoupling` whose network also sees a condition of the same height and width: h = network(z_a, condition).

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    takes_condition = True

    # `condition` is required: a tfb.Chain drops conditions whose name it does not know without a word.

    def _check_forward(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        super()._check_forward(x)
        check_condition(self.name, x, condition)

    def _forward_and_log_det(self, x: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        return self._encode(x, condition)

    def _inverse_and_log_det(self, y: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        return self._decode(y, condition)


class ShiftCoupling(FlowBijector):
    """Passes all but the first channels, which they shift; log|det| = 0: y = concat(low + network(high), high).

    The odd steps of the rescaling model, whose first 3 channels are the low-frequency part.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    def __init__(self, network: Network, *, changed: int = LOW_CHANNELS, name: str | None = None):
        """Args: network, [batch, h, w, c - changed] -> [batch, h, w, changed]; changed, channels that are shifted."""
        super().__init__(name=name)
        self._network, self._changed = network, changed

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x)
        if x.shape[-1] <= self._changed:
            raise ValueError(f"{self.name}: expected more than {self._changed} channels, got shape {x.shape}")

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        low, high = self._split(x)
        return tf.concat([low + self._shift(high), high], axis=-1), 0.0

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        low, high = self._split(y)
        return tf.concat([low - self._shift(high), high], axis=-1), 0.0

    def initialise(self, x: tf.Tensor) -> None:
        """Lets the network start from the data x."""
        initialise_network(self._network, self._split(x)[1])

    def _split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.split(x, [self._changed, x.shape[-1] - self._changed], axis=-1)

    def _shift(self, high: tf.Tensor) -> tf.Tensor:
        shift = run_network(self._network, high)
        check_network_output(self.name, shift, self._changed)
        return shift


class InvertibleBlock(FlowBijector):
    """All channels change: the first ones by the others, then the others by the new first ones.

    x_1, x_2 = split(x); y_1 = x_1 + F(x_2); s = log_scale(H(y_1)); y_2 = x_2 exp(s) + G(y_1); log|det| = sum(s).

    References:
      [1] Xiao et al., Invertible Image Rescaling, ECCV 2020, section 3.2.
    """

    def __init__(
        self,
        low_shift: Network,
        high_shift: Network,
        high_scale: Network,
        *,
        low: int = LOW_CHANNELS,
        log_scale: LogScale | None = None,
        name: str | None = None,
    ):
        """Creates the block.

        Args:
          low_shift: F, [batch, h, w, c - low] -> [batch, h, w, low].
          high_shift: G, [batch, h, w, low] -> [batch, h, w, c - low].
          high_scale: H, of the same shapes.
          low: channels of the first part.
          log_scale: from H's output to s; by default `log_scales.sigmoid(1.0)`.
        """
        super().__init__(name=name)
        self._low_shift, self._high_shift, self._high_scale = low_shift, high_shift, high_scale
        self._low, self._log_scale = low, log_scale or sigmoid(1.0)

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x)
        if x.shape[-1] <= self._low:
            raise ValueError(f"{self.name}: expected more than {self._low} channels, got shape {x.shape}")

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        low, high = self._split(x)
        low += self._run(self._low_shift, high, self._low)
        log_scale = self._log_scale(self._run(self._high_scale, low, high.shape[-1]))
        high = high * tf.exp(log_scale) + self._run(self._high_shift, low, high.shape[-1])
        return tf.concat([low, high], axis=-1), sum_per_image(log_scale)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        low, high = self._split(y)
        log_scale = self._log_scale(self._run(self._high_scale, low, high.shape[-1]))
        high = (high - self._run(self._high_shift, low, high.shape[-1])) * tf.exp(-log_scale)
        low -= self._run(self._low_shift, high, self._low)
        return tf.concat([low, high], axis=-1), -sum_per_image(log_scale)

    def _split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.split(x, [self._low, x.shape[-1] - self._low], axis=-1)

    def _run(self, network: Network, x: tf.Tensor, channels: int) -> tf.Tensor:
        h = run_network(network, x)
        check_network_output(self.name, h, channels)
        return h
