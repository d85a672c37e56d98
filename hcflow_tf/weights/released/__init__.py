"""The authors' released weight files of all systems: which system one is of, and what its entries become here.

A system is a module with TITLE, NAMES (in words, of its entries), IGNORED (a pattern of entries that are no weights),
`recognises`, `infer_config`, and `names`, its table: our name -> their name and how the array lies there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from hcflow_tf.config import SystemConfig
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.state_dict import read_state_dict as read_state_dict
from hcflow_tf.weights.released import hcflow, irn, rrdb, srflow
from hcflow_tf.weights.released.entries import CONVOLUTION, Entry, Shapes, released_shape

SYSTEMS: dict[str, ModuleType] = {"hcflow": hcflow, "irn": irn, "rrdb": rrdb, "srflow": srflow}

MAX_LISTED, MAX_NAME = 10, 120
"""Entries that an error lists, and characters of each."""


def infer_config(shapes: Shapes) -> SystemConfig:
    """The system and its hyperparameters, from the names and shapes of a file's entries alone.

    Raises:
      HCFlowError: the names are those of no system.
    """
    for system in SYSTEMS.values():
        if system.recognises(shapes):
            return system.infer_config(shapes)
    expected = "; ".join(f"{system.NAMES} ({name})" for name, system in SYSTEMS.items())
    raise HCFlowError(f"not the weights of a known system: expected entries named {expected}")


def names(config: SystemConfig) -> dict[str, Entry]:
    """Our name -> theirs and how the array lies there, for all names that a model of this config may have."""
    return SYSTEMS[config.system].names(config)


def is_ignored(name: str, config: SystemConfig) -> bool:
    """Whether this entry of their file is no weight of the model."""
    return re.fullmatch(SYSTEMS[config.system].IGNORED, name) is not None


def to_released(weights: Mapping[str, np.ndarray], config: SystemConfig) -> dict[str, np.ndarray]:
    """Our weights under the authors' names, in their shapes and order (without what `is_ignored`)."""
    table, state = names(config), {}
    for name, array in weights.items():
        theirs, kind = table[name]
        ordered = array.transpose(3, 2, 0, 1) if kind == CONVOLUTION else array
        state[theirs] = ordered.reshape(released_shape(array.shape, kind))
    return state


def map_released(
    state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], config: SystemConfig
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
    fixed = {name for name in state if is_ignored(name, config)}
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
        raise HCFlowError(f"the weights do not fit {config.system} {config.task} x{config.scale}: {'; '.join(problems)}")
    return {
        name: state[released].transpose(2, 3, 1, 0) if kind == CONVOLUTION else state[released].reshape(shapes[name])
        for name, (released, kind) in wanted.items()
    }


def _listed(entries: list[str]) -> str:
    return ", ".join(entry[:MAX_NAME] for entry in entries[:MAX_LISTED]) + (", ..." if len(entries) > MAX_LISTED else "")
