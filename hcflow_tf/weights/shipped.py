"""The models that ship with the package: `shipped_models/NAME/` with config.yaml, weights.npz and about.json."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np

from hcflow_tf.support.download import digest
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import write_atomically

DIRECTORY = pathlib.Path(__file__).parent / "shipped_models"
ABOUT_FILE = "about.json"
"""Version of the model, and the SHA-256 of its files."""

DEFAULT_MODEL = {"upscale": "sr-x4-compact-3", "sample": "sr-x4-compact-2", "downscale": "rescale-x4-compact-3"}
"""What `hcflow upscale` takes without --model at temperature 0 and above it, and what `hcflow downscale` takes."""


def list_models() -> list[str]:
    """The names of the shipped models, for `load_model` and --model."""
    return sorted(entry.parent.name for entry in DIRECTORY.glob(f"*/{ABOUT_FILE}"))


def shipped_model(name: str | os.PathLike) -> pathlib.Path | None:
    """The directory of the shipped model of that name; None if there is none.

    Raises:
      HCFlowError: its files are not those that were shipped.
    """
    if str(name) not in list_models():
        return None
    directory = DIRECTORY / name
    expected = json.loads((directory / ABOUT_FILE).read_text(encoding="utf-8"))["sha256"]
    for file, sha256 in expected.items():
        if not (directory / file).is_file() or digest(directory / file) != sha256:
            raise HCFlowError(f"{directory / file} is not the file that was shipped (SHA-256); install hcflow_tf again")
    return directory


def ship(run: str | os.PathLike, name: str, version: str) -> pathlib.Path:
    """Makes a model directory a shipped one, for maintainers; see CONTRIBUTING.md.

    The kernels of the feature extractors, most of all weights, are rounded to float16: what they compute changes less than by
    the bfloat16 that they are trained in, and the flow, whose weights stay as they are, is as invertible as before.

    Args:
      run: the directory.
      name: of the model, such as sr-x4-compact.
      version: of the model, raised whenever its weights change.

    Returns:
      The directory in the package.
    """
    from hcflow_tf.models.guard import ensure_guard
    from hcflow_tf.weights.store import CONFIG_FILE, GUARD_FILE, WEIGHTS_FILE, load_model, save_model, write_arrays

    directory = DIRECTORY / name
    model = load_model(run)
    arrays = {weight: np.asarray(variable, np.float32) for weight, variable in model.named_weights().items()}
    arrays |= {weight: array.astype(np.float16) for weight, array in arrays.items() if _in_an_extractor(weight)}
    for weight, variable in model.named_weights().items():
        variable.assign(arrays[weight])
    ensure_guard(model)
    save_model(model, directory)  # of the config only the model: the rest names folders of the training machine
    write_arrays(directory / WEIGHTS_FILE, arrays)
    files = {file: digest(directory / file) for file in (CONFIG_FILE, WEIGHTS_FILE, GUARD_FILE) if (directory / file).is_file()}
    about = {"name": name, "version": version, "sha256": files}
    write_atomically(directory / ABOUT_FILE, (json.dumps(about, indent=1) + "\n").encode())
    return directory


def _in_an_extractor(name: str) -> bool:
    return "/feature_extractor/" in name and name.endswith("/kernel")
