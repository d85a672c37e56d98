"""The inference form of a model: the same flow over constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hcflow_tf.bijectors.log_scales import portable_atan
from hcflow_tf.models.flow_model import Flow, FlowModel
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.networks.layers import repeated_border_of_slices
from hcflow_tf.networks.part import Computed, compute


class InferenceModel(FlowModel, tf.Module):
    """The same functions as a `TrainedModel`'s, of its flow over constants; equal to 1e-5 of the largest value.

    The inverses of the 1x1 convolutions are computed ahead, and what the networks compute from weights alone; every
    operation that is left exists in TensorFlow, LiteRT (built in, CPU and GPU) and ONNX.

    Attributes:
      config: hyperparameters.
    """

    def __init__(self, model: TrainedModel, *, lite: bool = False):
        """Freezes the model's present weights; later changes of the model do not show here.

        Args:
          model: the model.
          lite: of operations that LiteRT has built in and its delegates take, for the arcus tangent and for borders.
        """
        super().__init__(name="inference_model")
        self.config, self.assemble = model.config, model.assemble
        dtype = tf.as_dtype(model.variable_dtype)

        def float64(variable: keras.Variable) -> tf.Tensor:
            return tf.cast(tf.convert_to_tensor(variable), tf.float64)

        parts = compute(model.parts(), float64, lambda weight: tf.constant(weight.numpy(), dtype))
        if lite and model.config.repeats_border:
            parts = tf.nest.map_structure(_with_border_of_slices, parts)
        self._parts, self._atan = parts, portable_atan if lite else tf.math.atan
        self._set_flow(self.assemble(model.config, parts, atan=self._atan), dtype)
        self.set_guard(model.log_std_caps)

    def guarded_flow(self, caps: Sequence[Sequence[float]]) -> Flow:
        """See `FlowModel.guarded_flow`."""
        return self.assemble(self.config, self._parts, atan=self._atan, log_std_caps=caps)


def _with_border_of_slices(part: Any) -> Any:
    return part.with_options(border=repeated_border_of_slices) if isinstance(part, Computed) else part
