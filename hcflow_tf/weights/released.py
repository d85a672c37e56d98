"""The authors' released weight files: names, shapes, and what they become here."""

from __future__ import annotations

import math
import os
import pathlib
import re
import typing
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np
import pydantic

from hcflow_tf.config import ModelConfig
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import is_file

MAX_LISTED, MAX_NAME = 10, 120
"""Entries that an error lists, and characters of each."""


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict (.pth) as numpy arrays, without running code from the file.

    Raises:
      HCFlowError: torch is not installed, or the file is not a plain state dict.
    """
    path = pathlib.Path(path)
    if not is_file(path):
        raise HCFlowError(f"no weight file at {path}")
    try:
        import torch
    except ImportError as error:
        raise HCFlowError(f"reading {path.name} needs torch: pip install 'hcflow_tf[convert]'") from error
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("expected a mapping from names to tensors")
        # A view may repeat one stored number billions of times.
        if sum(value.numel() * value.element_size() for value in state.values()) > path.stat().st_size:
            raise ValueError("its tensors claim to be larger than the file")
        arrays = {str(name).removeprefix("module."): _to_numpy(name, value) for name, value in state.items()}
    except Exception as error:  # of the unpickler, of every kind
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise HCFlowError(f"{path} is not a PyTorch state dict of plain tensors: {reason}") from error
    if len(arrays) < len(state):
        raise HCFlowError(f"{path} holds a name twice, with and without 'module.' in front")
    return arrays


def _check_archive(path: pathlib.Path) -> None:
    """A file of PyTorch's present format is a zip archive that does not compress: one that does may be a bomb."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed, as torch.save never does it")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries claim to be larger than the file")


def _to_numpy(name: object, tensor: typing.Any) -> np.ndarray:
    """A dense tensor of real numbers as float32."""
    if not isinstance(name, str) or not tensor.dtype.is_floating_point or str(tensor.layout) != "torch.strided":
        raise ValueError(f"{str(name)[:80]!r} is a {tensor.layout} tensor of {tensor.dtype}")
    return tensor.detach().float().numpy()


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
