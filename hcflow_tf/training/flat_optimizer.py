"""An optimiser over all weights of a network as one vector."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.config import OptimizerConfig
from hcflow_tf.training.muon import Muon

MAX_LISTED = 3
"""Entries of a kind that an error names."""


class FlatOptimizer:
    """Keras's Adam, or Muon, on one vector that holds all trainable weights of a network.

    HCFlow has more than a thousand weights, most of them tiny. One vector needs a dozen operations per step where a
    variable each needs a dozen thousand, one all-reduce, and one clipping. A network that can is computed from the vector
    itself (`values`): then its variables are set only when someone wants to see them (`write_weights`).

    Attributes:
      variables: the network's trainable variables, in the vector's order.
      vector: their values.
    """

    def __init__(
        self,
        network: keras.Model,
        config: OptimizerConfig,
        *,
        kind: Literal["adam", "muon"],
        learning_rate: float,
        strategy: tf.distribute.Strategy,
        ema: float = 0.0,
        weight_decay: float = 0.0,
        groups: Sequence[Sequence[keras.Variable]] | None = None,
        frozen: Sequence[keras.Variable] = (),
    ):
        """Creates the vector and the optimiser's state; call it inside the strategy's scope.

        Args:
          network: whose weights to train.
          config: momenta and clipping.
          kind: Adam for all weights, or Muon for the convolution kernels.
          learning_rate: of the first step; assign `learning_rate` to change it.
          strategy: where the network lives.
          ema: decay of the moving average of the weights; 0 for none.
          weight_decay: this times the weights is added to each gradient.
          groups: variables of one shape that are read together and so lie beside each other; the network is computed from
            `values`. None: from its variables, which every step sets.
          frozen: variables that are not trained while `gradient` and `values` are asked to leave them alone.
        """
        self._strategy, self._config, self._ema, self._reads_variables = strategy, config, ema, groups is None
        self._weight_decay, self._frozen = weight_decay, frozenset(id(variable) for variable in frozen)
        created = network.trainable_variables
        grouped = {id(variable) for group in groups or () for variable in group}
        self._blocks = [*(groups or ()), *([variable] for variable in created if id(variable) not in grouped)]
        self.variables = [variable for block in self._blocks for variable in block]
        self._names, self._created = ([_name(variable, network) for variable in some] for some in (self.variables, created))
        self._shapes = [tuple(variable.shape) for variable in self.variables]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.vector = keras.Variable(np.zeros(sum(self._sizes)), dtype=self.variables[0].dtype, name="all_weights")
        create = functools.partial(Muon, shapes=self._shapes) if kind == "muon" else keras.optimizers.Adam
        self.keras_optimizer = create(
            learning_rate, config.beta_1, config.beta_2, epsilon=1e-8, use_ema=ema > 0, ema_momentum=ema or 0.99
        )
        self.keras_optimizer.build([self.vector])
        self._compiled_apply = tf.function(self._apply, autograph=False)
        self.read_weights()

    @property
    def steps(self) -> int:
        """How many steps it took, in earlier parts of the run too."""
        return int(self.keras_optimizer.iterations.numpy())

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps: KIND/NAME for every weight, KIND being weights, momentum, velocity and, with a moving
        average, average; and iteration, the number of steps taken."""
        vectors, scalars = self._vectors_and_scalars()
        state = {kind: np.array(variable.numpy()) for kind, variable in scalars.items()}
        for kind, variable in vectors.items():
            named = self._named(kind, variable.numpy())
            state |= {f"{kind}/{name}": named[f"{kind}/{name}"] for name in self._created}
        return state

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes up a state that another optimiser of the same network had, or one of checkpoint format 1: a vector per kind.

        Raises:
          ValueError: it is of another network or of other options; names the entries that differ.
        """
        vectors, scalars = self._vectors_and_scalars()
        state = dict(state)
        for kind in [kind for kind in vectors if kind in state]:  # format 1
            values = state.pop(kind)
            if values.shape != (sum(self._sizes),):
                raise ValueError(f"{kind} has shape {values.shape}, this model has {sum(self._sizes):,} weights")
            state |= self._named(kind, values, self._created)
        shapes = dict.fromkeys(scalars, ())
        shapes |= {f"{kind}/{name}": shape for kind in vectors for name, shape in zip(self._names, self._shapes, strict=True)}
        if differences := _differences({name: value.shape for name, value in state.items()}, shapes):
            raise ValueError(f"it is of another model or of other options: {differences}")
        for kind, variable in scalars.items():
            variable.assign(state[kind])
        for kind, variable in vectors.items():
            variable.assign(np.concatenate([state[f"{kind}/{name}"].ravel() for name in self._names]))
        self.write_weights()

    def _named(self, kind: str, vector: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The vector's parts by name, in this order."""
        shape_of, named, start = dict(zip(self._names, self._shapes, strict=True)), {}, 0
        for name in names or self._names:
            size = math.prod(shape_of[name])
            named[f"{kind}/{name}"] = vector[start : start + size].reshape(shape_of[name])
            start += size
        return named

    def _vectors_and_scalars(self) -> tuple[dict[str, keras.Variable], dict[str, keras.Variable]]:
        """The variables that hold a value for each weight, by kind, and those that hold one."""
        own = {variable.name.removeprefix("all_weights_"): variable for variable in self.keras_optimizer.variables}
        del own["learning_rate"]  # set in every step
        scalars = {kind: variable for kind, variable in own.items() if len(variable.shape) == 0}
        return {"weights": self.vector} | {kind: own[kind] for kind in own if kind not in scalars}, scalars

    def read_weights(self) -> None:
        """Takes the network's present weights; call it after they were set from outside."""
        self.vector.assign(np.concatenate([variable.numpy().ravel() for variable in self.variables]))

    def gradient(self, tape: tf.GradientTape, loss: tf.Tensor, *, frozen: bool = False) -> tf.Tensor:
        """The gradient of a loss with respect to all weights, as a vector; frozen: 0 for those that are."""
        if not self._reads_variables:
            return tape.gradient(loss, self.vector.value, unconnected_gradients="zero")
        left = self._frozen if frozen else frozenset()
        trained = [variable for variable in self.variables if id(variable) not in left]
        parts = tape.gradient(loss, [variable.value for variable in trained], unconnected_gradients="zero")
        by_id = {id(variable): part for variable, part in zip(trained, parts, strict=True)}
        whole = (by_id.get(id(variable), tf.zeros(variable.shape, variable.dtype)) for variable in self.variables)
        return tf.concat([tf.reshape(part, [-1]) for part in whole], axis=0)

    def values(self, *, frozen: bool = False) -> VectorValues:
        """Reads the network's variables from the vector, for `networks.part.compute`; make it inside the gradient tape.

        Args:
          frozen: no gradient reaches those that are.
        """
        return VectorValues(tf.convert_to_tensor(self.vector), self._blocks, self._frozen if frozen else frozenset())

    def clip(self, gradient: tf.Tensor) -> tf.Tensor:
        """Clips by value, then by norm, as the released recipes."""
        if self._config.clip_value:
            gradient = tf.clip_by_value(gradient, -self._config.clip_value, self._config.clip_value)
        return tf.clip_by_norm(gradient, self._config.clip_norm) if self._config.clip_norm else gradient

    def apply(self, gradient: tf.Tensor, learning_rate: float) -> None:
        """Takes a step; `gradient` is the same on all replicas, as `Strategy.run` returned it."""
        self.keras_optimizer.learning_rate = learning_rate
        self._compiled_apply(gradient)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the network holds the moving average of its weights, where there is one, and else its weights."""
        if not self._ema:
            self.write_weights()
            yield
            return
        current = self.vector.numpy()
        self.keras_optimizer.finalize_variable_values([self.vector])
        self.write_weights()
        try:
            yield
        finally:
            self.vector.assign(current)
            self.write_weights()

    def _apply(self, gradient: tf.Tensor) -> None:
        # Keras sums the gradients over the replicas once more.
        replicas = self._strategy.num_replicas_in_sync

        def step(value: tf.Tensor) -> None:
            if self._weight_decay:
                value += self._weight_decay * tf.convert_to_tensor(self.vector)
            self.keras_optimizer.apply([value / replicas], [self.vector])

        self._strategy.run(step, (gradient,))
        if self._reads_variables:
            self._set_variables()

    def write_weights(self) -> None:
        """Sets the network's variables from the vector."""
        for variable, array in zip(self.variables, self._named("", self.vector.numpy()).values(), strict=True):
            variable.assign(array)

    def _set_variables(self) -> None:
        """`write_weights` in a graph, on every replica."""
        parts: Sequence = self._strategy.run(lambda: tf.split(tf.convert_to_tensor(self.vector), self._sizes))
        for variable, part in zip(self.variables, parts, strict=True):
            self._strategy.extended.update(
                variable.value, lambda target, value: target.assign(tf.reshape(value, target.shape)), args=(part,)
            )


class VectorValues:
    """Reads variables from one vector that holds them block by block."""

    def __init__(self, vector: tf.Tensor, blocks: Sequence[Sequence[keras.Variable]], constant: frozenset[int] = frozenset()):
        """Creates the reader.

        Args:
          vector: all values.
          blocks: in the vector's order; the variables of a block are of one shape.
          constant: ids of variables to which no gradient goes, all or none of a block.
        """
        pieces = tf.split(vector, [sum(math.prod(variable.shape) for variable in block) for block in blocks])
        self._blocks = [
            tf.reshape(piece, [len(block), *block[0].shape]) if len(block) > 1 else tf.reshape(piece, block[0].shape)
            for piece, block in zip(pieces, blocks, strict=True)
        ]
        for index, block in enumerate(blocks):
            if id(block[0]) in constant:
                self._blocks[index] = tf.stop_gradient(self._blocks[index])
        self._lengths = [len(block) for block in blocks]
        self._place = {id(variable): (index, at) for index, block in enumerate(blocks) for at, variable in enumerate(block)}

    def __call__(self, variable: keras.Variable) -> tf.Tensor:
        """The variable's value."""
        block, at = self._place[id(variable)]
        return self._blocks[block] if self._lengths[block] == 1 else self._blocks[block][at]

    def together(self, variables: Sequence[keras.Variable]) -> tf.Tensor:
        """The values of variables of one shape, [n, *shape]; without a copy where they are a block."""
        block, _ = self._place[id(variables[0])]
        if len(variables) > 1 and [self._place[id(variable)] for variable in variables] == [
            (block, at) for at in range(self._lengths[block])
        ]:
            return self._blocks[block]
        return tf.stack([self(variable) for variable in variables])


def _name(variable: keras.Variable, network: keras.Model) -> str:
    return variable.path.removeprefix(f"{network.name}/")


def _differences(actual: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, unexpected and of another shape, with the first few names of each; empty if nothing is."""
    kinds = {
        "missing": [name for name in expected if name not in actual],
        "unexpected": [name for name in actual if name not in expected],
        "of another shape": [
            f"{name} is {actual[name]}, expected {shape}"
            for name, shape in expected.items()
            if name in actual and actual[name] != shape
        ],
    }
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:MAX_LISTED])}" + (", ..." if len(names) > MAX_LISTED else "")
        for kind, names in kinds.items()
        if names
    )
