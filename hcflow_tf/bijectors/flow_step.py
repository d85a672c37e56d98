"""A flow step: layers one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet


class FlowStep(FlowBijector):
    """Layers applied in order, such as ActNorm, 1x1 convolution, coupling; log|det| is the sum of theirs.

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
        total = 0.0
        for layer in self._layers:
            x, log_det = layer.forward_and_log_det(x)
            total += log_det
        return x, total

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        total = 0.0
        for layer in reversed(self._layers):
            y, log_det = layer.inverse_and_log_det(y)
            total += log_det
        return y, total


class ConditionalFlowStep(FlowBijector):
    """A `FlowStep` whose last layer takes a condition: ActNorm, 1x1 convolution, conditional coupling.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, figure 3.
    """

    def __init__(self, layers: Sequence[FlowBijector], coupling: FlowBijector, *, name: str | None = None):
        super().__init__(name=name)
        self._step = FlowStep(layers)
        self._coupling = coupling

    @property
    def layers(self) -> tuple[FlowBijector, ...]:
        """The layers in forward order, the conditional one last."""
        return (*self._step.layers, self._coupling)

    def _check_forward(self, x: tf.Tensor, condition: tf.Tensor) -> None:
        """Each layer checks its own input."""

    def _forward_and_log_det(self, x: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        x, step_log_det = self._step.forward_and_log_det(x)
        y, coupling_log_det = self._coupling.forward_and_log_det(x, condition=condition)
        return y, step_log_det + coupling_log_det

    def _inverse_and_log_det(self, y: tf.Tensor, condition: tf.Tensor) -> ValueAndLogDet:
        y, coupling_log_det = self._coupling.inverse_and_log_det(y, condition=condition)
        x, step_log_det = self._step.inverse_and_log_det(y)
        return x, coupling_log_det + step_log_det
