"""The authors' released weight files: names, shapes, and what they become here."""

from __future__ import annotations

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


def released_name(name: str, config: ModelConfig) -> str:
    """The name in the authors' files of our weight `name` (see `HCFlow.named_weights`)."""
    first, rest = name.split("/", 1)
    level = int(first.removeprefix("level_")) - 1
    part, *inner = rest.split("/")
    if part.startswith("main_step_"):
        layer = level * (config.main_steps + 2) + int(part.removeprefix("main_step_"))
        return f"flow.layers.{layer}.{_step_name(inner)}"
    prefix = f"flow.level{level}_condFlow"
    if part.startswith("conditional_step_"):
        step = int(part.removeprefix("conditional_step_")) - 1
        return f"{prefix}.additional_flow_steps.{step}.{_step_name(inner)}"
    if part == "gaussian":
        return f"{prefix}.f.{_LEAF[inner[0]]}"
    if inner[0] in ("conv_first", "conv_last"):
        return f"{prefix}.{'conv_first' if inner[0] == 'conv_first' else 'trunk_conv1'}.{_LEAF[inner[1]]}"
    _, trunk, block = inner[0].split("_")
    dense, conv = inner[1].removeprefix("block_"), inner[2].removeprefix("conv_")
    return f"{prefix}.RRDB_trunk{'ab'.index(trunk)}.{int(block) - 1}.RDB{dense}.conv{conv}.{_LEAF[inner[3]]}"


_LEAF = {"kernel": "weight", "bias": "bias", "log_scale": "logs", "matrix": "weight"}


def _step_name(inner: list[str]) -> str:
    """actnorm/bias, rotation/matrix, network/conv_1/kernel, network/actnorm_1/bias in the authors' words."""
    if inner[0] == "actnorm":
        return f"actnorm.{_LEAF[inner[1]]}"
    if inner[0] == "rotation":
        return "permute.weight"
    module, index = inner[1].split("_")
    conv = f"affine.f.conv{index}"
    return f"{conv}.actnorm.{_LEAF[inner[2]]}" if module == "actnorm" else f"{conv}.{_LEAF[inner[2]]}"


def released_shape(name: str, shape: tuple[int, ...], released: str) -> tuple[int, ...]:
    """The shape in the authors' files of our weight `name` of this shape."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    if "actnorm" in released:
        return (1, shape[0], 1, 1)
    return (shape[0], 1, 1) if name.endswith("log_scale") else shape


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
    names = {name: released_name(name, config) for name in shapes}
    fixed = {name for name in state if name.endswith(".haar_weights")}
    missing = sorted(set(names.values()) - set(state))
    unexpected = sorted(set(state) - set(names.values()) - fixed)
    misshapen = []
    for name, released in names.items():
        expected = released_shape(name, tuple(shapes[name]), released)
        if released in state and tuple(state[released].shape) != expected:
            misshapen.append(f"{released} is {tuple(state[released].shape)}, expected {expected}")
    problems = [
        f"{len(entries)} {kind}: {_listed(entries)}"
        for kind, entries in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if entries
    ]
    if problems:
        raise HCFlowError(f"the weights do not fit {config.task} x{config.scale}: {'; '.join(problems)}")
    return {name: _to_ours(state[released], shapes[name]) for name, released in names.items()}


def _listed(entries: list[str]) -> str:
    return ", ".join(entry[:MAX_NAME] for entry in entries[:MAX_LISTED]) + (", ..." if len(entries) > MAX_LISTED else "")


def _to_ours(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 and len(shape) == 4 else array.reshape(shape)
