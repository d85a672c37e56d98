"""A network apart from its weights, so that the same function computes over trained weights, precomputed ones, constants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import tensorflow as tf

Weights = Any
"""Nested tuples of tensors; None where a convolution has no bias."""
Value = Callable[[keras.Variable], tf.Tensor]
"""Reads a variable; where it has a method `together`, that reads variables of one shape as one tensor [n, *shape]."""


class Part:
    """A network whose function is separate from its weights.

    A subclass gives `effective`, its weights as its function takes them (an ActNorm, a factor or an order of channels
    already inside the convolutions), and `function`, which computes from those weights and its inputs alone.

    Where `in_groups` is true, `compute` gets the effective weights of all parts of one kind in one computation: `effective`
    then sees every variable with a leading dimension, and must do with or without.
    """

    weights: Sequence[keras.Variable]
    """All variables that it reads, in a fixed order; a Keras layer has them already."""
    in_groups = False

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(weights, *inputs) -> [batch, h, w, channels]; holds no weights itself."""
        raise NotImplementedError

    @property
    def kind(self) -> Hashable:
        """Equal for parts that differ in the values of their weights alone."""
        return (type(self), *(tuple(variable.shape) for variable in self.weights))

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The weights as `function` takes them; value reads a variable."""
        raise NotImplementedError

    def typed(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The effective weights in the type that the network computes in."""
        return self.effective(value)

    def initialise(self, *inputs: tf.Tensor) -> None:
        """Lets what depends on data start from these inputs; by default nothing does."""

    def call(self, *inputs: tf.Tensor) -> tf.Tensor:
        """The function over the present weights."""
        return self.function(self.typed(), *inputs)

    def groups(self, alike: Sequence[Any]) -> list[list[keras.Variable]]:
        """The variables that are read together when `compute` computes all these parts of one kind, of which it is the first."""
        return variables_together(alike) if self.in_groups else []

    def maker(self, *, shared: bool) -> Callable[[Weights], Any]:
        """What makes of effective weights the function over them; shared: many calls of a graph are to share one tracing."""
        function = traced_once(self.function) if shared else self.function
        return lambda weights: Computed(function, weights)


def in_type_of_weights(
    function: Callable[..., Any], weights: Weights, *inputs: tf.Tensor, keep: bool = False, **options: Any
) -> Any:
    """The function of inputs in its weights' type, with these options; unless that is kept, outputs are in the inputs' own."""
    dtype = tf.nest.flatten(weights)[0].dtype
    outputs = function(weights, *(tf.cast(x, dtype) for x in inputs), **options)
    return outputs if keep else tf.nest.map_structure(lambda output: tf.cast(output, inputs[0].dtype), outputs)


class ComputesInType(Part):
    """A part that computes in its Keras layer's dtype policy: bfloat16 for mixed precision.

    What it returns is of its inputs' type (but see `keeps_type`). Weights that were computed in another type ahead (`compute`
    with a value) keep that, and so does what is computed with them.
    """

    compute_dtype: str
    variable_dtype: str
    keeps_type = False
    """Whether it returns the type that it computes in, for another part of that type alone."""

    def typed(self, value: Value = tf.convert_to_tensor) -> Weights:
        """See `Part.typed`."""
        return tf.nest.map_structure(self._cast, self.effective(value))

    def call(self, *inputs: tf.Tensor) -> tf.Tensor:
        """Returns the function's output, computed in the layer's compute type."""
        return in_type_of_weights(self.function, self.typed(), *inputs, keep=self.keeps_type)

    def maker(self, *, shared: bool) -> Callable[[Weights], Computed]:
        """See `Part.maker`."""
        function = functools.partial(in_type_of_weights, self.function, keep=self.keeps_type)
        return lambda weights: Computed(traced_once(function) if shared else function, weights)

    def _cast(self, weight: tf.Tensor | None) -> tf.Tensor | None:
        own = weight is not None and weight.dtype == self.variable_dtype
        return tf.cast(weight, self.compute_dtype) if own else weight


class Live:
    """A part over its present weights, computed at each call, as a flow calls it."""

    def __init__(self, part: Part):
        # Keras' own __call__ would only cost time: it builds, casts and names, all of which is done.
        self.part, self._compute = part, part.call

    def __call__(self, *inputs: tf.Tensor) -> tf.Tensor:
        """The network's output."""
        return self._compute(*inputs)

    def initialise(self, *inputs: tf.Tensor) -> None:
        """Lets what depends on data start from these inputs."""
        self.part.initialise(*inputs)


class Computed:
    """A part's function over effective weights that were computed before."""

    def __init__(self, function: Callable[..., tf.Tensor], weights: Weights):
        self._function, self._weights = function, weights

    def with_options(self, **options: Any) -> Computed:
        """The same, with other options of its function."""
        return Computed(functools.partial(self._function, **options), self._weights)

    def __call__(self, *inputs: tf.Tensor) -> tf.Tensor:
        """The network's output."""
        return self._function(self._weights, *inputs)


def compute(tree: Any, value: Value = tf.convert_to_tensor, finish: Callable[[tf.Tensor], tf.Tensor] | None = None) -> Any:
    """Computes the effective weights of all parts of a tree, those of one kind together.

    In a traced training step this leaves a quarter of the operations that each part by itself would need.

    Args:
      tree: nested tuples and lists of parts, `Live` or themselves; None is left.
      value: reads a variable.
      finish: what becomes of each tensor in the end.

    Returns:
      The tree with each part over its computed weights (`Part.maker`).
    """
    parts = _parts_of(tree)
    computed: list[Any] = [None] * len(parts)
    for indices in _of_one_kind(parts):
        alike = [parts[index] for index in indices]
        make = alike[0].maker(shared=len(alike) > 1 and not tf.executing_eagerly())
        all_weights = _together(alike, value) if alike[0].in_groups else [part.typed(value) for part in alike]
        for index, weights in zip(indices, all_weights, strict=True):
            if finish is not None:
                weights = tf.nest.map_structure(lambda x: None if x is None else finish(x), weights)
            computed[index] = make(weights)
    return tf.nest.pack_sequence_as(tree, computed)


def read_together(tree: Any) -> list[list[keras.Variable]]:
    """The variables that `compute` reads as one tensor each, if they have not been read so before."""
    parts, groups = _parts_of(tree), []
    known: set[int] = set()
    for indices in _of_one_kind(parts):
        for group in parts[indices[0]].groups([parts[index] for index in indices]):
            if not known & {id(variable) for variable in group}:
                groups.append(group)
                known |= {id(variable) for variable in group}
    return groups


def _parts_of(tree: Any) -> list[Any]:
    return [leaf.part if isinstance(leaf, Live) else leaf for leaf in tf.nest.flatten(tree)]


def _of_one_kind(parts: Sequence[Any]) -> list[list[int]]:
    """Indices of the parts of each kind."""
    kinds: dict[Hashable, list[int]] = {}
    for index, part in enumerate(parts):
        if part is not None:
            kinds.setdefault(part.kind, []).append(index)
    return list(kinds.values())


def traced_once(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """The function as one that a graph calls: calls with inputs of equal shapes are traced, differentiated and optimised once."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _together(parts: Sequence[Part], value: Value) -> list[Weights]:
    """The effective weights of parts of one kind, in one computation."""
    return unstacked(parts[0].typed(stacked(parts, value)), len(parts))


def unstacked(together: Weights, count: int) -> list[Weights]:
    """The weights of each of `count` parts, from those of all with a leading dimension."""
    each = [None if tensor is None else tf.unstack(tensor, count) for tensor in tf.nest.flatten(together)]
    return [
        tf.nest.pack_sequence_as(together, [None if tensors is None else tensors[index] for tensors in each])
        for index in range(count)
    ]


def values_together(value: Value, variables: Sequence[keras.Variable]) -> tf.Tensor:
    """The values of variables of one shape, [n, *shape]."""
    together = getattr(value, "together", None)
    return together(variables) if together else tf.stack([value(variable) for variable in variables])


def variables_together(parts: Sequence[Part]) -> list[list[keras.Variable]]:
    """What `stacked` reads as one tensor each."""
    return [list(variables) for variables in zip(*(part.weights for part in parts), strict=True)]


def stacked(parts: Sequence[Part], value: Value) -> Value:
    """Reads a variable of the first part as those of all parts, [parts, ...]."""
    index_of = {id(variable): index for index, variable in enumerate(parts[0].weights)}
    known: dict[int, tf.Tensor] = {}

    def read(variable: keras.Variable) -> tf.Tensor:
        index = index_of[id(variable)]
        if index not in known:
            known[index] = values_together(value, [part.weights[index] for part in parts])
        return known[index]

    return read
