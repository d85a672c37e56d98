"""The authors' released weight files: names, shapes, and what they become here."""

from __future__ import annotations

import itertools
import math
import re
import typing
from collections.abc import Mapping

import numpy as np
import pydantic

from hcflow_tf.config import ModelConfig
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights.state_dict import read_state_dict as read_state_dict

MAX_LISTED, MAX_NAME = 10, 120
"""Entries that an error lists, and characters of each."""


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """The hyperparameters of a released model, from the names and shapes of its weights alone.

    Raises:
      HCFlowError: the names are not those of an HCFlow model.
    """

    def count(pattern: str) -> int:
        # Distinct indices, not the largest: then a gap is reported as missing entries, and no index makes a huge model.
        return len({match.group(1) for name in shapes if (match := re.match(pattern, name))})

    def size(name: str, default: int | None = None) -> int:
        if name in shapes and len(shapes[name]) == 4:
            return int(shapes[name][0])
        if default is not None:
            return default
        raise HCFlowError(f"not the weights of an HCFlow model: there is no convolution {name}")

    levels = count(r"flow\.level(\d+)_condFlow\.")
    main_steps = count(r"flow\.layers\.(\d+)\.(?:actnorm|permute|affine)\.")
    extractor = "flow.level0_condFlow"
    blocks = tuple(count(rf"flow\.level0_condFlow\.RRDB_trunk{trunk}\.(\d+)\.") for trunk in (0, 1))
    if not levels or not main_steps or not all(blocks):
        raise HCFlowError("not the weights of an HCFlow model: expected entries named flow.layers.* and flow.level*_condFlow.*")
    scales = typing.get_args(ModelConfig.model_fields["scale"].annotation)
    if 2**levels not in scales:
        raise HCFlowError(f"the weights have {levels} levels, scale {2**levels}; known scales: {', '.join(map(str, scales))}")
    conditional_steps = count(r"flow\.level0_condFlow\.additional_flow_steps\.(\d+)\.")
    first_conditional = f"{extractor}.additional_flow_steps.0.affine.f.conv1.weight"
    hyperparameters = {
        "task": "rescaling" if any("haar_weights" in name for name in shapes) else "super_resolution",
        "scale": 2**levels,
        "main_steps": math.ceil(main_steps / levels),
        "conditional_steps": conditional_steps,
        "main_width": size("flow.layers.1.affine.f.conv1.weight"),
        "conditional_width": size(first_conditional, default=None if conditional_steps else 64),
        "rrdb_blocks": blocks,
        "rrdb_features": size(f"{extractor}.conv_first.weight"),
        "rrdb_growth": size(f"{extractor}.RRDB_trunk0.0.RDB1.conv1.weight"),
    }
    try:
        return ModelConfig(**hyperparameters)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise HCFlowError(f"not the weights of an HCFlow model: {key} would be {problem['input']}") from error


PLAIN, CONVOLUTION, PER_CHANNEL, FACTORS = "plain", "convolution", "per channel", "factors"
"""How an array lies in their files: as here; [out, in, h, w] for our [h, w, in, out]; [1, c, 1, 1] or [c, 1, 1] for our [c]."""

_STEP = (
    ("actnorm/bias", "actnorm.bias", PER_CHANNEL),
    ("actnorm/log_scale", "actnorm.logs", PER_CHANNEL),
    ("rotation/matrix", "permute.weight", PLAIN),
    ("network/conv_{conv}/kernel", "affine.f.conv{conv}.weight", CONVOLUTION),
    ("network/conv_{conv}/bias", "affine.f.conv{conv}.bias", PLAIN),
    ("network/conv_{conv}/log_scale", "affine.f.conv{conv}.logs", FACTORS),
    ("network/actnorm_{conv}/bias", "affine.f.conv{conv}.actnorm.bias", PER_CHANNEL),
    ("network/actnorm_{conv}/log_scale", "affine.f.conv{conv}.actnorm.logs", PER_CHANNEL),
)
_CONV = (("kernel", "weight", CONVOLUTION), ("bias", "bias", PLAIN))
_OURS, _THEIRS = "level_{level}", "flow.level{level_from_0}_condFlow"
TABLE = (
    *((f"{_OURS}/main_step_{{step}}/{ours}", f"flow.layers.{{layer}}.{theirs}", kind) for ours, theirs, kind in _STEP),
    *(
        (f"{_OURS}/conditional_step_{{step}}/{ours}", f"{_THEIRS}.additional_flow_steps.{{step_from_0}}.{theirs}", kind)
        for ours, theirs, kind in _STEP
    ),
    *((f"{_OURS}/feature_extractor/conv_first/{ours}", f"{_THEIRS}.conv_first.{theirs}", kind) for ours, theirs, kind in _CONV),
    *(
        (
            f"{_OURS}/feature_extractor/trunk_{letter}_{{block}}/block_{{dense}}/conv_{{conv}}/{ours}",
            f"{_THEIRS}.RRDB_trunk{trunk}.{{block_from_0}}.RDB{{dense}}.conv{{conv}}.{theirs}",
            kind,
        )
        for trunk, letter in enumerate("ab")
        for ours, theirs, kind in _CONV
    ),
    *((f"{_OURS}/feature_extractor/conv_last/{ours}", f"{_THEIRS}.trunk_conv1.{theirs}", kind) for ours, theirs, kind in _CONV),
    *((f"{_OURS}/gaussian/{ours}", f"{_THEIRS}.f.{theirs}", kind) for ours, theirs, kind in _CONV),
    (f"{_OURS}/gaussian/log_scale", f"{_THEIRS}.f.logs", FACTORS),
)
"""Our name, their name, and how the array lies there; `names` fills in the numbers."""


def names(config: ModelConfig) -> dict[str, tuple[str, str]]:
    """Our name -> (their name, how the array lies there), for all names that a model of this config may have."""
    ranges = {
        "level": config.levels,
        "step": max(config.main_steps, config.conditional_steps),
        "block": max(config.rrdb_blocks),
        "dense": 3,
        "conv": 5,
    }
    found = {}
    for ours, theirs, kind in TABLE:
        used = [name for name in ranges if f"{{{name}}}" in ours]
        for values in itertools.product(*(range(1, ranges[name] + 1) for name in used)):
            numbers = dict(zip(used, values, strict=True))
            numbers |= {f"{name}_from_0": value - 1 for name, value in numbers.items()}
            # Their flow.layers counts a squeeze, K steps and a split for each level.
            numbers["layer"] = numbers["level_from_0"] * (config.main_steps + 2) + numbers.get("step", 0)
            found[ours.format(**numbers)] = (theirs.format(**numbers), kind)
    return found


def released_shape(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape in the authors' files of our array of this shape."""
    if kind == CONVOLUTION:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    return {PLAIN: shape, PER_CHANNEL: (1, *shape, 1, 1), FACTORS: (*shape, 1, 1)}[kind]


def to_released(weights: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """Our weights under the authors' names, in their shapes and order (without their fixed Haar kernels)."""
    table, state = names(config), {}
    for name, array in weights.items():
        theirs, kind = table[name]
        ordered = array.transpose(3, 2, 0, 1) if kind == CONVOLUTION else array
        state[theirs] = ordered.reshape(released_shape(array.shape, kind))
    return state


def map_released(
    state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], config: ModelConfig
) -> dict[str, np.ndarray]:
    """Maps a released state dict to our names, shapes and order.

    Args:
      state: the authors' names and arrays.
      shapes: our names and shapes.
      config: hyperparameters, as `infer_config` gives them.

    Raises:
      HCFlowError: lists every missing, unexpected and misshapen entry.
    """
    table = names(config)
    wanted = {name: table[name] for name in shapes}
    theirs = {name for name, _ in wanted.values()}
    fixed = {name for name in state if name.endswith(".haar_weights")}
    missing = sorted(theirs - set(state))
    unexpected = sorted(set(state) - theirs - fixed)
    misshapen = []
    for name, (released, kind) in wanted.items():
        expected = released_shape(tuple(shapes[name]), kind)
        if released in state and tuple(state[released].shape) != expected:
            misshapen.append(f"{released} is {tuple(state[released].shape)}, expected {expected}")
    problems = [
        f"{len(entries)} {kind}: {_listed(entries)}"
        for kind, entries in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if entries
    ]
    if problems:
        raise HCFlowError(f"the weights do not fit {config.task} x{config.scale}: {'; '.join(problems)}")
    return {
        name: state[released].transpose(2, 3, 1, 0) if kind == CONVOLUTION else state[released].reshape(shapes[name])
        for name, (released, kind) in wanted.items()
    }


def _listed(entries: list[str]) -> str:
    return ", ".join(entry[:MAX_NAME] for entry in entries[:MAX_LISTED]) + (", ..." if len(entries) > MAX_LISTED else "")
