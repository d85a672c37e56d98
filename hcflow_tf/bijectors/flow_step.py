"""A flow step: layers one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet


class FlowStep(FlowBijector):
    """Layers applied in order, such as a linear map and a coupling; log|det| is the sum of theirs.

    `tfb.Chain` does the same in reverse order of its list; this one computes each layer's value and log-determinant
    together.
    """

    def __init__(self, layers: Sequence[FlowBijector], *, name: str | None = None):
        super().__init__(name=name)
        if not layers:
            raise ValueError(f"{self.name}: expected at least one layer")
        self._layers = tuple(layers)

    @property
    def layers(self) -> tuple[FlowBijector, ...]:
        """The layers in forward order."""
        return self._layers

    def _check_forward(self, x: tf.Tensor) -> None:
        """Each layer checks its own input."""

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return self._encode(x)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        return self._decode(y)

    def _encode(self, x: tf.Tensor, **conditions: tf.Tensor) -> ValueAndLogDet:
        total = 0.0
        for layer in self._layers:
            x, log_det = layer.encode_and_log_det(x, **self._conditions_of(layer, **conditions))
            total += log_det
        return x, total

    def _decode(self, y: tf.Tensor, **conditions: tf.Tensor) -> ValueAndLogDet:
        total = 0.0
        for layer in reversed(self._layers):
            y, log_det = layer.decode_and_log_det(y, **self._conditions_of(layer, **conditions))
            total += log_det
        return y, total

    def initialise(self, x: tf.Tensor, **conditions: tf.Tensor) -> None:
        """Lets each layer start from what it gets of the data x."""
        for layer in self._layers:
            of_layer = self._conditions_of(layer, **conditions)
            layer.initialise(x, **of_layer)
            x = layer.forward_and_log_det(x, **of_layer)[0]

    def _conditions_of(self, layer: FlowBijector, **conditions: tf.Tensor) -> dict[str, tf.Tensor]:
        return {}


class ConditionalFlowStep(FlowStep):
    """A `FlowStep` some of whose layers take a condition, all the same one: linear map, conditional coupling.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, figure 3.
    """

    takes_condition = True

    def _check_forward(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        """Each layer checks its own input."""

    def _forward_and_log_det(self, x: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        return self._encode(x, condition=condition)

    def _inverse_and_log_det(self, y: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        return self._decode(y, condition=condition)

    def _conditions_of(self, layer: FlowBijector, condition: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"condition": condition} if layer.takes_condition else {}
