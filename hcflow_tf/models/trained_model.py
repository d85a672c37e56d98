"""A model that owns its weights as Keras layers: what the files of all systems share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from hcflow_tf.config import SystemConfig
from hcflow_tf.config.models import validate_section
from hcflow_tf.models.complexity import Place
from hcflow_tf.models.flow_model import Flow, FlowModel
from hcflow_tf.networks.part import Value, compute


class TrainedModel(FlowModel, keras.Model):
    """A `FlowModel` with weights; a subclass is one system.

    It gives `assemble`, `make_layers`, `parts`, and for `models.complexity` what its weights cost: `place_of` and
    `decode_bytes`.
    """

    def __init__(
        self,
        config: SystemConfig,
        *,
        mixed_precision: bool = False,
        recompute: bool = False,
        dtype: str = "float32",
        name: str | None = None,
    ):
        """Creates the model with all its weights.

        Args:
          config: hyperparameters.
          mixed_precision: compute feature extractors and HCFlow's coupling networks in bfloat16, the flow over them in float32.
          recompute: compute activations again in the backward pass instead of keeping them; see docs/training.md.
          dtype: float32, or float64 for tests of the mathematics.
          name: by default that of its system.

        Raises:
          ValueError: mixed precision of another type than float32.
        """
        if mixed_precision and dtype != "float32":
            raise ValueError(f"mixed precision is bfloat16 beside float32, got dtype {dtype}")
        super().__init__(name=name or config.system, dtype=dtype)
        self.config = config
        self._options = {"mixed_precision": mixed_precision, "recompute": recompute}
        self.make_layers("mixed_bfloat16" if mixed_precision else dtype, recompute)
        self.build()
        self._set_flow(self.assemble(config, self.parts(wide=not recompute), recompute=recompute), self.variable_dtype)

    def make_layers(self, network_dtype: str, recompute: bool) -> None:
        """Sets the Keras layers that own the weights as attributes.

        Args:
          network_dtype: type or policy of the networks that mixed precision computes in bfloat16.
          recompute: compute activations again in the backward pass.
        """
        raise NotImplementedError

    def parts(self, *, wide: bool = True) -> Any:
        """What `assemble` makes the flow of, over the weights as they are; a tree of `networks.part.Part`s.

        Args:
          wide: compute together what can be; else each layer can start from data, and keeps less for the backward pass
            where activations are computed again.
        """
        raise NotImplementedError

    @staticmethod
    def place_of(config: Any, name: str) -> Place:
        """Where the weight of this name is used."""
        raise NotImplementedError

    @staticmethod
    def decode_bytes(config: Any) -> int:
        """Estimated peak memory of decoding in the folded form, bytes per LR pixel, all in float32."""
        raise NotImplementedError

    def guarded_flow(self, caps: Sequence[Sequence[float]]) -> Flow:
        """See `FlowModel.guarded_flow`."""
        return self.assemble(self.config, self.parts(), log_std_caps=caps)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in self.layers:
            layer.build(None)
        self.built = True

    def computed_flow(self, value: Value = tf.convert_to_tensor) -> Flow:
        """The flow over weights computed now, all at once: for a function that is traced, inside its gradient tape.

        The same values and gradients as `flow`, from much fewer operations. Where activations are computed again in the
        backward pass, so are the weights, and this is `flow`, which reads the variables themselves.

        Args:
          value: reads a variable.
        """
        if self.reads_variables:
            return self.flow
        return self.assemble(self.config, compute(self.parts(), value))

    @property
    def reads_variables(self) -> bool:
        """Whether `computed_flow` reads the variables, whatever its `value`."""
        return self._options["recompute"]

    @property
    def frozen_variables(self) -> list[keras.Variable]:
        """Those that are not trained at first (`training.frozen_steps`)."""
        return [variable for name, variable in self.named_weights().items() if self.is_frozen_at_first(name)]

    @staticmethod
    def is_frozen_at_first(name: str) -> bool:
        """Whether a weight of this name is one of `frozen_variables`."""
        return False

    def call(self, image: tf.Tensor) -> tf.Tensor | list[tf.Tensor]:
        """[lr, z_1, z_2, ...] of hr, as the flow's forward direction; of a model without an encoder, hr of lr."""
        if not self.flow.invertible:
            return self.flow.decode(self._image("lr", image))
        return self.flow.forward_and_log_det(self._image("hr", image))[0]

    def initialise_actnorm(self, hr: tf.Tensor, lr: tf.Tensor | None = None) -> None:
        """Sets what starts from data, every ActNorm, from a batch of images [batch, height, width, 3], in the order of encoding.

        The low-frequency channels of HCFlow's image path are left alone, so that training starts from the averaged image as
        LR image; see `models.hcflow.Level` for the matrices of super-resolution, which start so that there are such channels.

        Call it once, before training, outside of any strategy's replicas: all replicas then hold the same values.
        """
        given = self._image("lr", lr) if lr is not None and self.flow.needs_lr else None
        self.assemble(self.config, self.parts(wide=False)).initialise(self._image("hr", hr), given)

    def named_weights(self) -> dict[str, keras.Variable]:
        """Every weight by its path, such as level_1/main_step_1/actnorm/bias, in a fixed order."""
        return {variable.path.split("/", 1)[1]: variable for variable in self.weights}

    def get_config(self) -> dict:
        """What `from_config` makes the model again of, its guard too, without its weights."""
        own = {"config": self.config.model_dump(mode="json"), "log_std_caps": self.log_std_caps}
        return {**own, **self._options, "dtype": self.variable_dtype, "name": self.name}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Self:
        """The model of `get_config`."""
        options = dict(config)
        section, caps = options.pop("config"), options.pop("log_std_caps", None)
        model = cls(validate_section(section), **options)
        if caps is not None:
            model.set_guard(caps)
        return model
