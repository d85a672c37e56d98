"""Affine couplings: one part of the channels drives an affine map of the others."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from hcflow_tf.bijectors.base import (
    FlowBijector,
    ValueAndLogDet,
    check_condition,
    check_image,
    check_network_output,
    per_image,
    sum_per_image,
)

Network = Callable[[tf.Tensor], tf.Tensor]

BOUND = 0.318
"""About 1/pi: log scales lie in (-0.5, 0.5), so no layer shrinks or stretches by more than exp(0.5)."""


LOW_CHANNELS = 3
"""Channels of the low-frequency part of the rescaling models, the averaged image."""


def bounded_log_scale(raw: tf.Tensor) -> tf.Tensor:
    """0.318 atan(2 raw)."""
    return BOUND * tf.math.atan(2.0 * raw)


class AffineCoupling(FlowBijector):
    """Passes the first c // 2 channels and maps the others with a shift and scale computed from them.

    z_a, z_b = split(x); h = network(z_a); shift = even channels of h; s = 0.318 atan(2 odd channels of h);
    y = concat(z_a, (z_b + shift) exp(s)); log|det| = sum(s).

    References:
      [1] Dinh et al., Density estimation using Real NVP, 2017, section 3.2.
      [2] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    def __init__(self, network: Network, *, name: str | None = None):
        """Args: network, [batch, h, w, c // 2] -> [batch, h, w, 2 (c - c // 2)]."""
        super().__init__(name=name)
        self._network = network

    def _check_forward(self, x: tf.Tensor) -> None:
        _check_two_channels(self.name, x)

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return _affine(self.name, self._network, *_split(x))

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        return _affine_inverse(self.name, self._network, *_split(y))


class ConditionalAffineCoupling(FlowBijector):
    """`AffineCoupling` whose network also sees a condition of the same height and width: h = network([z_a, condition]).

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    def __init__(self, network: Network, *, name: str | None = None):
        """Args: network, [batch, h, w, c // 2 + condition channels] -> [batch, h, w, 2 (c - c // 2)]."""
        super().__init__(name=name)
        self._network = network

    def _check_forward(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        _check_two_channels(self.name, x)
        check_condition(self.name, x, condition)

    def _forward_and_log_det(self, x: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        return AffineCoupling(self._conditioned(condition), name=self.name)._forward_and_log_det(x)

    def _inverse_and_log_det(self, y: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        return AffineCoupling(self._conditioned(condition), name=self.name)._inverse_and_log_det(y)

    def _conditioned(self, condition: tf.Tensor) -> Network:
        return lambda passed: self._network(tf.concat([passed, condition], axis=-1))


class LowFrequencyAffineCoupling(FlowBijector):
    """Passes the low-frequency part, the first 3 channels, which drives an affine map of the others.

    The even steps of the rescaling model. h = network(low); as `AffineCoupling` otherwise.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    def __init__(self, network: Network, *, name: str | None = None):
        """Args: network, [batch, h, w, 3] -> [batch, h, w, 2 (c - 3)]."""
        super().__init__(name=name)
        self._network = network

    def _check_forward(self, x: tf.Tensor) -> None:
        _check_high_channels(self.name, x)

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return _affine(self.name, self._network, *_split_low(x))

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        return _affine_inverse(self.name, self._network, *_split_low(y))


class LowFrequencyShiftCoupling(FlowBijector):
    """Passes the high-frequency part, all but the first 3 channels, which shifts the low-frequency part; log|det| = 0.

    The odd steps of the rescaling model. y = concat(low + network(high), high).

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    def __init__(self, network: Network, *, name: str | None = None):
        """Args: network, [batch, h, w, c - 3] -> [batch, h, w, 3]."""
        super().__init__(name=name)
        self._network = network

    def _check_forward(self, x: tf.Tensor) -> None:
        _check_high_channels(self.name, x)

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        low, high = _split_low(x)
        return tf.concat([low + self._shift(high), high], axis=-1), per_image(x, tf.zeros([], x.dtype))

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        low, high = _split_low(y)
        return tf.concat([low - self._shift(high), high], axis=-1), per_image(y, tf.zeros([], y.dtype))

    def _shift(self, high: tf.Tensor) -> tf.Tensor:
        shift = self._network(high)
        check_network_output(self.name, shift, LOW_CHANNELS)
        return shift


def _split(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    passed = x.shape[-1] // 2
    return x[..., :passed], x[..., passed:]


def _split_low(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return x[..., :LOW_CHANNELS], x[..., LOW_CHANNELS:]


def _affine(name: str, network: Network, passed: tf.Tensor, changed: tf.Tensor) -> ValueAndLogDet:
    shift, log_scale = _shift_and_log_scale(name, network(passed), changed)
    return tf.concat([passed, (changed + shift) * tf.exp(log_scale)], axis=-1), sum_per_image(log_scale)


def _affine_inverse(name: str, network: Network, passed: tf.Tensor, changed: tf.Tensor) -> ValueAndLogDet:
    shift, log_scale = _shift_and_log_scale(name, network(passed), changed)
    return tf.concat([passed, changed * tf.exp(-log_scale) - shift], axis=-1), -sum_per_image(log_scale)


def _shift_and_log_scale(name: str, h: tf.Tensor, changed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    check_network_output(name, h, 2 * changed.shape[-1])
    return h[..., 0::2], bounded_log_scale(h[..., 1::2])


def _check_two_channels(name: str, x: tf.Tensor) -> None:
    check_image(name, x)
    if x.shape[-1] < 2:
        raise ValueError(f"{name}: expected at least 2 channels to split, got shape {x.shape}")


def _check_high_channels(name: str, x: tf.Tensor) -> None:
    check_image(name, x)
    if x.shape[-1] <= LOW_CHANNELS:
        raise ValueError(f"{name}: expected more than {LOW_CHANNELS} channels, got shape {x.shape}")
