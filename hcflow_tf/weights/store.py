"""Model directories: config.yaml beside weights.npz."""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hcflow_tf.config import Config, SystemConfig, dump_config, load_config
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import atomic_path, check_regular, encoder_path, expand_user, is_file, read_file, write_atomically
from hcflow_tf.support.quiet import start_tensorflow
from hcflow_tf.weights.shipped import DIRECTORY, list_models, shipped_model

if TYPE_CHECKING:
    from hcflow_tf.models.trained_model import TrainedModel

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "weights.npz"
GUARD_FILE = "guard.json"
"""Caps on the standard deviations of samples, where the model needs them; see `hcflow_tf.models.guard`."""


def find_model(path_or_name: str | os.PathLike) -> pathlib.Path:
    """The directory of a model: a path, or the name of one that ships with the package.

    Raises:
      HCFlowError: there is no model directory, naming the shipped ones; or a shipped one is damaged.
    """
    directory = expand_user(path_or_name)
    if is_file(directory / CONFIG_FILE):
        if not is_file(directory / WEIGHTS_FILE):
            raise HCFlowError(f"{directory} has no {WEIGHTS_FILE}: the training has not saved a model yet")
        return directory
    if shipped := shipped_model(path_or_name):
        return shipped
    names = ", ".join(list_models())
    raise HCFlowError(
        f"no model at {path_or_name}: expected a directory with {CONFIG_FILE} and {WEIGHTS_FILE}, or one of the shipped: {names}"
    )


def load_model(path_or_name: str | os.PathLike) -> TrainedModel:
    """Loads a model directory (a run, a converted or a shipped model).

    Raises:
      HCFlowError: there is no model, or its weights do not fit its config; lists the entries.
    """
    config, weights = read_model(path_or_name)
    from hcflow_tf.models.systems import make_model

    model = make_model(config)
    assign_weights(model, weights, source=path_or_name)
    model.set_guard(read_caps(find_model(path_or_name) / GUARD_FILE, model.latent_channels))
    return model


def read_caps(path: pathlib.Path, latent_channels: Sequence[int]) -> list[list[float]] | None:
    """The caps of each level and channel that a model directory keeps; None if there are none.

    Raises:
      HCFlowError: the file is not what `save_caps` writes for such a model.
    """
    if not is_file(path):
        return None
    try:
        caps = [[float(cap) for cap in level] for level in json.loads(read_file(path, limit=2**20))["log_std_caps"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HCFlowError(
            f"{path} cannot be read ({type(error).__name__}): delete it, and the caps are measured again"
        ) from error
    if [len(level) for level in caps] != list(latent_channels) or any(math.isnan(cap) for level in caps for cap in level):
        raise HCFlowError(f"{path} is not of this model: delete it, and the caps are measured again")
    return caps


def save_caps(caps: Sequence[Sequence[float]], directory: str | os.PathLike) -> None:
    """Writes the caps of each level and channel into a model directory."""
    text = json.dumps({"log_std_caps": [[round(cap, 4) for cap in level] for level in caps]})
    write_atomically(pathlib.Path(directory) / GUARD_FILE, (text + "\n").encode())


def read_model(path_or_name: str | os.PathLike) -> tuple[SystemConfig, dict[str, np.ndarray]]:
    """The hyperparameters and the weights of a model directory, which fit each other.

    Raises:
      HCFlowError: as `load_model`.
    """
    directory = find_model(path_or_name)
    config = read_system(directory)
    source = directory / WEIGHTS_FILE
    weights = read_weights(source)
    check_fits(weights, config, source=source)
    return config, weights


def read_system(path_or_name: str | os.PathLike) -> SystemConfig:
    """What a model directory holds, without its weights.

    Raises:
      HCFlowError: there is no model, or its config cannot be read.
    """
    try:
        return load_config(find_model(path_or_name) / CONFIG_FILE).model
    except UsageError as error:  # a model directory that cannot be read is no wrong usage
        raise HCFlowError(*error.args) from error


def model_files(model: str | os.PathLike) -> list[pathlib.Path]:
    """The files that `--model` may be read from, there or not: none of them is a place for results."""
    path = expand_user(model)
    files = [path, path / CONFIG_FILE, path / WEIGHTS_FILE, path / GUARD_FILE, path / "saved_model.pb"]
    if path.suffix:
        files.append(encoder_path(path))
    if str(model) in list_models():
        files += (DIRECTORY / model).iterdir()
    return files


def save_model(model: TrainedModel, directory: str | os.PathLike, config: Config | None = None) -> None:
    """Writes a model directory; both files are written beside and then renamed, so a failure leaves the old model.

    Args:
      model: the model.
      directory: created where it is missing.
      config: the whole config to keep beside the weights; by default only the model's section.
    """
    directory = pathlib.Path(directory)
    text = dump_config(
        config or Config.model_validate({"model": model.config}), sections=None if config else ("format_version", "model")
    )
    with atomic_path(directory / CONFIG_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
        save_weights(model, directory / WEIGHTS_FILE)
    if model.log_std_caps is not None:
        save_caps(model.log_std_caps, directory)
    else:
        (directory / GUARD_FILE).unlink(missing_ok=True)  # of the model that was here before


def save_weights(model: TrainedModel, path: str | os.PathLike) -> None:
    """Writes all weights by name, float32, to an .npz file."""
    write_arrays(path, {name: np.asarray(variable, np.float32) for name, variable in model.named_weights().items()})


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name to an .npz file, beside first and then renamed."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads an .npz file of numbers by name, as `write_arrays` makes them: not compressed, no objects.

    Raises:
      HCFlowError: the file is missing, truncated, not an .npz file, or claims to hold more than it does.
    """
    path = pathlib.Path(path)
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(entries, path.stat().st_size)
            return {_name(entry): _read_array(_name(entry), archive.read(entry)) for entry in entries}
    # A damaged archive and a lying header meet zipfile and NumPy with every kind of exception.
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise HCFlowError(f"cannot read weights {path}: {reason}") from error


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """An honest archive of `size` bytes can be read in `size` bytes of memory."""
    seen = set()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{_name(entry)[:80]} is compressed; write it with numpy.savez")
        if _name(entry) in seen:
            raise ValueError(f"{_name(entry)[:80]} is there twice")
        seen.add(_name(entry))
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries claim to be larger than the file")


def _read_array(name: str, content: bytes) -> np.ndarray:
    """One .npy file; its header is checked before anything of the size that it claims is allocated."""
    file = io.BytesIO(content)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    try:
        shape, _, dtype = readers[version](file)
    except Exception as error:  # of the Python code that a header is, or of an unknown version
        raise ValueError(f"{name[:80]} has a header that cannot be read") from error
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise ValueError(f"{name[:80]} is an array of {dtype}, not of numbers")
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"{name[:80]} says that it is {str(shape)[:80]}, which its {len(content):,} bytes are not")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False).astype(dtype.newbyteorder("="), copy=False)


def weight_shapes(config: SystemConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of such a model, in order; nothing of their size is allocated."""
    start_tensorflow()
    import keras

    from hcflow_tf.models.systems import make_model

    with keras.StatelessScope(initialize_variables=False):
        return {name: tuple(weight.shape) for name, weight in make_model(config).named_weights().items()}


def check_fits(weights: Mapping[str, np.ndarray], config: SystemConfig, *, source: object) -> None:
    """Checks that these are the weights of such a model, before one is made: a config may ask for any size.

    Raises:
      HCFlowError: they are not; see `check_weights`.
    """
    if config.min_weights > len(weights):
        raise HCFlowError(f"{source} does not fit its config: {len(weights)} weights for {config.min_weights:,} steps and blocks")
    check_weights(weights, weight_shapes(config), source=source)


def check_weights(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, source: object) -> None:
    """Checks names, shapes and values.

    Args:
      weights: name -> array.
      shapes: name -> expected shape.
      source: of the weights, for the message.

    Raises:
      HCFlowError: lists missing, unexpected, misshapen and not finite entries.
    """
    problems = []
    for kind, names in (("missing", set(shapes) - set(weights)), ("unexpected", set(weights) - set(shapes))):
        if names:
            problems.append(f"{len(names)} {kind}: {', '.join(name[:80] for name in sorted(names)[:10])}")
    common = [name for name in shapes if name in weights]
    for name in common:
        if weights[name].shape != tuple(shapes[name]):
            problems.append(f"{name} is {weights[name].shape}, expected {tuple(shapes[name])}")
    if problems:
        raise HCFlowError(f"{source} does not fit its config: {'; '.join(problems[:10])}")
    with np.errstate(over="ignore"):
        damaged = [name for name in common if not np.isfinite(weights[name].astype(np.float32)).all()]
    if damaged:
        raise HCFlowError(f"{source}: {len(damaged)} weights hold values that are not finite numbers, such as {damaged[0]}")


def assign_weights(model: TrainedModel, weights: Mapping[str, np.ndarray], *, source: object) -> None:
    """Sets all weights of a model by name.

    Raises:
      HCFlowError: they do not fit; see `check_weights`.
    """
    variables = model.named_weights()
    check_weights(weights, {name: tuple(variable.shape) for name, variable in variables.items()}, source=source)
    for name, variable in variables.items():
        variable.assign(weights[name])
