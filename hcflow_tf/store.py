"""Model directories: config.yaml beside weights.npz."""

from __future__ import annotations

import io
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hcflow_tf.config import Config, dump_config, load_config
from hcflow_tf.errors import HCFlowError
from hcflow_tf.files import atomic_path
from hcflow_tf.quiet import start_tensorflow

if TYPE_CHECKING:
    from hcflow_tf.model import HCFlow

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "weights.npz"
SHIPPED = pathlib.Path(__file__).parent / "models"


def find_model(path_or_name: str | os.PathLike) -> pathlib.Path:
    """The directory of a model: a path, or the name of one that ships with the package.

    Raises:
      HCFlowError: there is no model directory; names the shipped ones.
    """
    for directory in (pathlib.Path(path_or_name).expanduser(), SHIPPED / pathlib.Path(path_or_name).name):
        if (directory / CONFIG_FILE).is_file():
            if not (directory / WEIGHTS_FILE).is_file():
                raise HCFlowError(f"{directory} has no {WEIGHTS_FILE}: the training has not saved a model yet")
            return directory
    shipped = sorted(entry.parent.name for entry in SHIPPED.glob(f"*/{CONFIG_FILE}"))
    names = f"; models by name: {', '.join(shipped)}" if shipped else ""
    raise HCFlowError(f"no model at {path_or_name}: expected a directory with {CONFIG_FILE} and {WEIGHTS_FILE}{names}")


def load_model(path_or_name: str | os.PathLike) -> HCFlow:
    """Loads a model directory (a run, a converted or a shipped model).

    Raises:
      HCFlowError: there is no model, or its weights do not fit its config; lists the entries.
    """
    start_tensorflow()
    from hcflow_tf.model import HCFlow

    directory = find_model(path_or_name)
    config = load_config(directory / CONFIG_FILE)
    weights = read_weights(directory / WEIGHTS_FILE)
    model = HCFlow(config.model)
    assign_weights(model, weights, source=directory / WEIGHTS_FILE)
    return model


def save_model(model: HCFlow, directory: str | os.PathLike, config: Config | None = None) -> None:
    """Writes a model directory; both files are written beside and then renamed, so a failure leaves the old model.

    Args:
      model: the model.
      directory: created where it is missing.
      config: the whole config to keep beside the weights; by default only the model's section.
    """
    directory = pathlib.Path(directory)
    text = dump_config(config or Config(model=model.config), sections=None if config else ("format_version", "model"))
    with atomic_path(directory / CONFIG_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
        save_weights(model, directory / WEIGHTS_FILE)


def save_weights(model: HCFlow, path: str | os.PathLike) -> None:
    """Writes all weights by name, float32, to an .npz file."""
    write_arrays(path, {name: np.asarray(variable, np.float32) for name, variable in model.named_weights().items()})


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name to an .npz file, beside first and then renamed."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads an .npz file of weights by name.

    Raises:
      HCFlowError: the file is missing, truncated or not an .npz file.
    """
    path = pathlib.Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in archive.namelist()
            }
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise HCFlowError(f"cannot read weights {path}: {getattr(error, 'strerror', None) or error}") from error


def assign_weights(model: HCFlow, weights: Mapping[str, np.ndarray], *, source: object) -> None:
    """Sets all weights of a model by name.

    Raises:
      HCFlowError: lists missing, unexpected and misshapen entries.
    """
    variables = model.named_weights()
    problems = []
    for kind, names in (("missing", set(variables) - set(weights)), ("unexpected", set(weights) - set(variables))):
        if names:
            problems.append(f"{len(names)} {kind}: {', '.join(sorted(names)[:10])}")
    for name in variables.keys() & weights.keys():
        if tuple(variables[name].shape) != weights[name].shape:
            problems.append(f"{name} is {weights[name].shape}, expected {tuple(variables[name].shape)}")
    if problems:
        raise HCFlowError(f"{source} does not fit its config: {'; '.join(problems[:10])}")
    for name, variable in variables.items():
        variable.assign(weights[name])
