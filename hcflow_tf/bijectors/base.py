"""The base class of all flow layers: value and log-determinant in one pass, everything else derived."""

from __future__ import annotations

import abc
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

CONDITION_SCOPE, NETWORK_SCOPE = "condition", "network"
"""Name scopes of what makes the conditions, and of the coupling networks; exports quantise by them."""

Structure: TypeAlias = Any
"""A tensor, or a list of them."""
ValueAndLogDet: TypeAlias = tuple[Structure, tf.Tensor]


class FlowBijector(tfb.Bijector):
    """A bijector on images [batch, height, width, channels] that is written as two methods.

    A subclass implements `_forward_and_log_det(x, **conditions)` and `_inverse_and_log_det(y, **conditions)`; each
    returns the value and log|det| of its own direction, [batch] or one number for all images, in nats, from a single
    pass. The public `forward_and_log_det` and `inverse_and_log_det` add the checks of shapes. TFP's interface (`forward`,
    `inverse`, `forward_log_det_jacobian`, ...) is derived here, for any number of leading batch dimensions, with a
    cache that lets a value and its log-determinant share the pass, also through `tfb.Chain`, `tfb.Invert` and
    `tfd.TransformedDistribution`.

    As everywhere in TFP, a log-determinant asked for while the value of the same eager tensor is alive comes from that
    pass: change the weights, or open a GradientTape, before computing the value, not in between.
    """

    takes_condition = False
    """Whether its methods take `condition=`, an image as high and wide as x; for what is made of several layers."""

    def __init__(
        self,
        *,
        forward_min_event_ndims: Any = 3,
        inverse_min_event_ndims: Any = 3,
        dtype: tf.DType | None = None,
        name: str | None = None,
    ):
        super().__init__(
            forward_min_event_ndims=forward_min_event_ndims,
            inverse_min_event_ndims=inverse_min_event_ndims,
            dtype=dtype,
            name=name,
        )

    @abc.abstractmethod
    def _forward_and_log_det(self, x: Structure, **conditions: tf.Tensor) -> ValueAndLogDet:
        """Returns (y, log|det dy/dx|); x is [batch, height, width, channels]."""

    @abc.abstractmethod
    def _inverse_and_log_det(self, y: Structure, **conditions: tf.Tensor) -> ValueAndLogDet:
        """Returns (x, log|det dx/dy|); y is [batch, height, width, channels]."""

    def forward_and_log_det(self, x: Structure, **conditions: tf.Tensor) -> ValueAndLogDet:
        """Returns (y, log|det dy/dx|) for x [batch, height, width, channels]; the log-determinant is [batch], nats.

        Raises:
          ValueError: the shape of x, or of a condition, does not fit; names what was expected and what came.
        """
        x, conditions = tf.nest.map_structure(tf.convert_to_tensor, (x, conditions))
        y, log_det = self.encode_and_log_det(x, **conditions)
        return y, _per_image(x, log_det)

    def inverse_and_log_det(self, y: Structure, **conditions: tf.Tensor) -> ValueAndLogDet:
        """Returns (x, log|det dx/dy|); see `forward_and_log_det`."""
        y, conditions = tf.nest.map_structure(tf.convert_to_tensor, (y, conditions))
        x, log_det = self.decode_and_log_det(y, **conditions)
        return x, _per_image(y, log_det)

    def encode_and_log_det(self, x: Structure, **conditions: tf.Tensor) -> ValueAndLogDet:
        """`forward_and_log_det` of tensors, whose log-determinant may be a scalar: for a bijector made of others."""
        self._check_forward(x, **conditions)
        return self._forward_and_log_det(x, **conditions)

    def decode_and_log_det(self, y: Structure, **conditions: tf.Tensor) -> ValueAndLogDet:
        """`inverse_and_log_det` of tensors, whose log-determinant may be a scalar: for a bijector made of others."""
        self._check_inverse(y, **conditions)
        return self._inverse_and_log_det(y, **conditions)

    def _check_forward(self, x: Structure, **conditions: tf.Tensor) -> None:
        """Raises ValueError if x cannot be transformed; by default any image can."""
        check_image(self.name, x)

    def _check_inverse(self, y: Structure, **conditions: tf.Tensor) -> None:
        """Raises ValueError if y cannot be transformed back; by default as `_check_forward`."""
        self._check_forward(y, **conditions)

    def initialise(self, x: Structure, **conditions: tf.Tensor) -> None:
        """Lets what depends on data start from x, before training; by default nothing does."""

    @property
    def _cache(self) -> _OnePassCache:
        """TFP's public methods reach a bijector through its cache alone, so this is its whole interface to TFP."""
        return _OnePassCache(self)


class _OnePassCache:
    """Stands in for TFP's BijectorCache: one pass serves the value and the log-determinant.

    TFP's own cache lives in its class, where it keeps traced graphs alive, and answers `inverse(forward(x))` with x
    itself. This one keeps each pass on its input tensor, for as long as the output is alive: the output holds its pass,
    the input knows it weakly. So nothing outlives the tensors, and inverses are computed; but the log-determinant at an
    output, which `TransformedDistribution.log_prob` asks for, is that of the pass that made it.
    """

    def __init__(self, bijector: FlowBijector):
        self._bijector = bijector

    def forward(self, x: Structure, **conditions: tf.Tensor) -> Structure:
        return self._run("forward", x, conditions)[0]

    def inverse(self, y: Structure, **conditions: tf.Tensor) -> Structure:
        return self._run("inverse", y, conditions)[0]

    def forward_attributes(self, x: Structure, **conditions: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ildj": -self._log_det("forward", x, conditions)}

    def inverse_attributes(self, y: Structure, **conditions: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ildj": self._log_det("inverse", y, conditions)}

    def _log_det(self, direction: str, value: Structure, conditions: dict[str, tf.Tensor]) -> tf.Tensor:
        tensors = tf.nest.flatten(value)
        opposite = "inverse" if direction == "forward" else "forward"
        for made in getattr(tensors[0], "_hcflow_made_by", ()):
            if made.matches(self._bijector, opposite, conditions) and made.output_is(tensors):
                return -made.log_det
        return self._run(direction, value, conditions)[1]

    def _run(self, direction: str, value: Structure, conditions: dict[str, tf.Tensor]) -> ValueAndLogDet:
        conditions = tf.nest.map_structure(tf.convert_to_tensor, conditions)
        inputs = tf.nest.flatten(value)
        passes = [known for reference in getattr(inputs[0], "_hcflow_passes", ()) if (known := reference()) is not None]
        for known in passes:
            if known.matches(self._bijector, direction, conditions) and known.inputs_are(inputs):
                output = known.output()
                if output is not None:
                    return output, known.log_det
        output, log_det = _with_batch_shape(getattr(self._bijector, f"{direction}_and_log_det"), value, conditions)
        made = _Pass(self._bijector, direction, inputs, conditions, output, log_det)
        for tensor in tf.nest.flatten(output):
            tensor._hcflow_made_by = [*getattr(tensor, "_hcflow_made_by", ()), made]
        inputs[0]._hcflow_passes = [weakref.ref(known) for known in (*passes, made)]
        return output, log_det


class _Pass:
    """One pass through a bijector; held by its outputs, so it holds them weakly."""

    def __init__(
        self,
        bijector: FlowBijector,
        direction: str,
        inputs: list[tf.Tensor],
        conditions: dict[str, tf.Tensor],
        output: Structure,
        log_det: tf.Tensor,
    ):
        self._bijector, self._direction, self._inputs, self._conditions = bijector, direction, inputs, conditions
        self._structure = tf.nest.map_structure(lambda _: 0, output)
        self._outputs = [weakref.ref(tensor) for tensor in tf.nest.flatten(output)]
        self.log_det = log_det

    def matches(self, bijector: FlowBijector, direction: str, conditions: dict[str, tf.Tensor]) -> bool:
        """Whether this pass went through this bijector in this direction under these very conditions."""
        return (
            self._bijector is bijector
            and self._direction == direction
            and self._conditions.keys() == conditions.keys()
            and all(self._conditions[name] is condition for name, condition in conditions.items())
        )

    def inputs_are(self, tensors: list[tf.Tensor]) -> bool:
        """Whether these very tensors went in."""
        return _are_same(self._inputs, tensors)

    def output_is(self, tensors: list[tf.Tensor]) -> bool:
        """Whether these very tensors came out."""
        return _are_same([reference() for reference in self._outputs], tensors)

    def output(self) -> Structure | None:
        """What came out, while all of it is alive."""
        tensors = [reference() for reference in self._outputs]
        if any(tensor is None for tensor in tensors):
            return None
        return tf.nest.pack_sequence_as(self._structure, tensors)


def _are_same(a: Sequence[tf.Tensor | None], b: Sequence[tf.Tensor]) -> bool:
    return len(a) == len(b) and all(left is right for left, right in zip(a, b, strict=True))


def _with_batch_shape(
    method: Callable[..., ValueAndLogDet], value: Structure, conditions: dict[str, tf.Tensor]
) -> ValueAndLogDet:
    """Calls a method for [batch, h, w, c] on tensors [..., h, w, c]; conditions broadcast over leading dimensions."""
    tensors = [*tf.nest.flatten(value), *conditions.values()]
    if any(tensor.shape.rank is None or tensor.shape.rank < 3 for tensor in tensors):
        return method(value, **conditions)  # which names the wrong shape
    shapes = [tensor.shape[:-3] for tensor in tensors]
    if all(shape.rank == 1 for shape in shapes) and (not conditions or all(_surely_equal(shape, shapes[0]) for shape in shapes)):
        return method(value, **conditions)
    batch_shape = tf.shape(tensors[0])[:-3]
    for tensor in tensors[1:]:
        batch_shape = tf.broadcast_dynamic_shape(batch_shape, tf.shape(tensor)[:-3])

    def flatten(tensor: tf.Tensor) -> tf.Tensor:
        event_shape = tf.shape(tensor)[-3:]
        tensor_flat = tf.reshape(
            tf.broadcast_to(tensor, tf.concat([batch_shape, event_shape], 0)), tf.concat([[-1], event_shape], 0)
        )
        return tf.ensure_shape(tensor_flat, [None, *tensor.shape[-3:]])

    def restore(tensor: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tensor, tf.concat([batch_shape, tf.shape(tensor)[1:]], 0))

    output, log_det = method(
        tf.nest.map_structure(flatten, value), **{name: flatten(condition) for name, condition in conditions.items()}
    )
    return tf.nest.map_structure(restore, output), restore(log_det)


def _surely_equal(a: tf.TensorShape, b: tf.TensorShape) -> bool:
    return a.is_fully_defined() and a == b


def check_image(name: str, x: tf.Tensor, *, channels: int | None = None, divisor: int = 1) -> None:
    """Raises ValueError unless x is [batch, height, width, channels], channels known, height and width divisible by `divisor`."""
    if not x.dtype.is_floating:
        raise ValueError(f"{name}: expected floats, got {x.dtype.name}; divide 8-bit images by 255")
    shape = x.shape
    expected = f"[batch, height, width, {channels or 'channels'}]"
    if shape.rank != 4 or shape[-1] is None or shape[-1] != (channels or shape[-1]):
        raise ValueError(f"{name}: expected shape {expected}, got {shape}")
    if 0 in shape:
        raise ValueError(f"{name}: expected at least one image and one pixel, got shape {shape}")
    if any(size is not None and size % divisor for size in shape[1:3]):
        raise ValueError(f"{name}: expected height and width divisible by {divisor}, got shape {shape}")


def check_condition(name: str, x: tf.Tensor, condition: tf.Tensor) -> None:
    """Raises ValueError unless the condition is an image of the same batch, height and width as x."""
    if condition.shape.rank != 4 or not condition.shape[:3].is_compatible_with(x.shape[:3]):
        raise ValueError(f"{name}: expected a condition of shape {[*x.shape[:3], 'channels']}, got {condition.shape}")


def _per_image(x: Structure, log_det: tf.Tensor | float) -> tf.Tensor:
    """A log-determinant as [batch], also where it is one number for all images."""
    image = tf.nest.flatten(x)[0]
    log_det = tf.convert_to_tensor(log_det, image.dtype)
    return tf.fill(tf.shape(image)[:1], log_det) if log_det.shape.rank == 0 else log_det


def pixel_count(x: tf.Tensor) -> tf.Tensor | float:
    """Height times width, as a scalar of x's type, or as a number where they are known."""
    height, width = x.shape[1:3]
    if height is not None and width is not None:
        return float(height * width)
    shape = tf.shape(x)
    return tf.cast(shape[1] * shape[2], x.dtype)


def sum_per_image(x: tf.Tensor) -> tf.Tensor:
    """Sum over all but the batch dimension."""
    return tf.reduce_sum(x, axis=[1, 2, 3])


def run_network(network: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> tf.Tensor:
    """network(*inputs), under a name by which exports know a coupling's network."""
    with tf.name_scope(NETWORK_SCOPE):
        return network(*inputs)


def initialise_network(network: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> None:
    """Lets the network start from data, if it has a method for it."""
    if initialise := getattr(network, "initialise", None):
        initialise(*inputs)


def check_network_output(name: str, h: tf.Tensor, channels: int) -> None:
    """Raises ValueError unless a coupling network gave the channels that its coupling needs."""
    if h.shape[-1] != channels:
        raise ValueError(f"{name}: expected {channels} channels from the network, got {h.shape[-1]}")
