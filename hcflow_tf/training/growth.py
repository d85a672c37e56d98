"""Starting a larger model from a smaller one's weights, so that it computes the same function at first."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from hcflow_tf.config import SystemConfig
from hcflow_tf.networks.rrdb import RESIDUAL_SCALE

Weights = Mapping[str, np.ndarray]


def obstacles(old: SystemConfig, new: SystemConfig) -> list[str]:
    """In what a model `new` is not a larger `old`, nor has it inside, in words; empty if `grow` can make it."""
    if inside := new.inside(old):
        values = {key: pair for key, pair in inside.keys.items() if pair[0] != pair[1]}
    elif old.system != new.system:
        values = {"system": (old.system, new.system)}
    else:
        same = [key for key in type(new).model_fields if key not in (*new.GROWING, *new.FREE)]
        differing = [key for key in same if getattr(old, key) != getattr(new, key)]
        differing += [key for key in new.GROWING if np.any(np.less(getattr(new, key), getattr(old, key)))]
        values = {key: (getattr(old, key), getattr(new, key)) for key in differing}
    return [f"model.{key} is {here} here, {there} there" for key, (there, here) in values.items()]


def grow(weights: Weights, initial: Weights, old: SystemConfig, new: SystemConfig) -> dict[str, np.ndarray]:
    """The weights of a model `new` that computes what `old` does with `weights`, or whose part does.

    Added channels start at their initial values, and what reads them for the old channels at 0; added flow steps and RRDBs
    start as the identity. What is in `FREE` (the bound of the log standard deviations, the padding) may differ: then the function
    does, too, in that.

    Args:
      weights: of the old model, by name.
      initial: fresh weights of the new model, by name.
      old: hyperparameters of the old model.
      new: hyperparameters of the new model, without `obstacles`.
    """
    if inside := new.inside(old):
        renamed = ((inside.rename(name), array) for name, array in weights.items())
        return {**initial, **{name: array for name, array in renamed if name}}
    return {
        name: _widened(name, weights[name], fresh, old, new) if name in weights else _of_identity(name, fresh)
        for name, fresh in initial.items()
    }


def _of_identity(name: str, fresh: np.ndarray) -> np.ndarray:
    """A weight of an added flow step, whose coupling is 0 as it is, or of an added RRDB."""
    if name.endswith("/matrix"):
        return np.eye(len(fresh), dtype=fresh.dtype)
    if re.search(r"/trunk_[ab]_\d+/block_[123]/conv_5/kernel$", name):
        # RRDB(x) = x + 0.2 y: y must be 0. The last block's input is x, and it adds 0.2 times this convolution.
        kernel = np.zeros_like(fresh)
        if "/block_3/" in name:
            kernel[1, 1, : fresh.shape[3]] = -np.eye(fresh.shape[3]) / RESIDUAL_SCALE
        return kernel
    return fresh


def _widened(name: str, weight: np.ndarray, fresh: np.ndarray, old: SystemConfig, new: SystemConfig) -> np.ndarray:
    if weight.shape == fresh.shape:
        return weight
    result = fresh.copy()
    outputs = np.arange(weight.shape[-1])
    if weight.ndim == 1:
        result[outputs] = weight
        return result
    inputs = _old_inputs(name, weight.shape[2], old, new)
    result[..., outputs] = 0
    result[:, :, inputs[:, None], outputs] = weight
    return result


def _old_inputs(name: str, count: int, old: SystemConfig, new: SystemConfig) -> np.ndarray:
    """Where the old inputs of a convolution are among the new ones: a dense block's are x and its earlier outputs."""
    inputs = np.arange(count)
    if "main_step" not in name and "trunk_" not in name:
        return inputs
    if "main_step" in name and not old.makes_lr:
        return inputs
    key = "rrdb_growth" if "trunk_" in name else "main_width"
    width, added = getattr(old, key), getattr(new, key) - getattr(old, key)
    conv = name.removesuffix("/kernel").rpartition("conv_")[2]
    own = count - width * (int(conv) - 1)
    return inputs + added * np.maximum(0, (inputs - own) // width)
