"""What a run leaves on disk: config, versions, log, checkpoints, TensorBoard events, the best and the last model."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import shlex
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from hcflow_tf.config import Config, load_config, save_config
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import is_file, write_atomically
from hcflow_tf.training.checkpoint import Checkpoints
from hcflow_tf.weights.store import CONFIG_FILE, WEIGHTS_FILE, save_model, save_weights

LOG_FILE = "log.jsonl"
VERSIONS_FILE = "versions.json"
_PACKAGES = ("hcflow_tf", "tensorflow", "keras", "tensorflow-probability", "numpy", "pillow")
# Keys that a resumed run may change: they do not alter what it has learnt so far.
_FREE_SECTIONS = {"data": {"cache", "cache_dir", "workers", "validation", "validation_images"}}
_FREE_TRAINING = {"steps", "validate_every", "checkpoint_every", "log_every", "recompute", "xla"}
_FREE_TRAINING |= {"max_skipped_steps", "max_rollbacks"}


class RunDirectory:
    """A directory that is itself a model directory (the best weights) and holds `last/`, the model of the last save.

    Only the chief of several workers writes; all of them read, so the directory is on a file system that they share.

    Attributes:
      path: the directory.
      checkpoints: what the run resumes from.
    """

    def __init__(self, path: pathlib.Path, config: Config, *, resume: str, writes: bool = True):
        """Opens or creates the directory.

        Args:
          path: the directory.
          config: of the run.
          resume: "auto" or "never".
          writes: False for the workers that are not the chief.

        Raises:
          UsageError: there is a run already and `resume` is "never", its config is another one, or it is past the last step; or
            there is a model or a config that is of no run.
          HCFlowError: the directory cannot be written.
        """
        self.path, self.writes = path, writes
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.resuming = bool(self.checkpoints)
        if self.resuming and resume == "never":
            raise UsageError(f"{path} already holds a run: choose another --run-dir, or --resume auto to go on with it")
        if self.resuming:
            _check_same_run(load_config(path / CONFIG_FILE), config, path)
            if self.checkpoints.newest_step > config.training.steps:
                raise UsageError(
                    f"{path} is at step {self.checkpoints.newest_step}, past training.steps {config.training.steps}: "
                    "give more steps, or choose another --run-dir"
                )
        elif is_file(path / WEIGHTS_FILE):
            raise UsageError(f"{path} holds a model and no checkpoints, a training would replace it: choose another --run-dir")
        elif is_file(path / CONFIG_FILE) and not is_file(path / VERSIONS_FILE):
            raise UsageError(f"{path / CONFIG_FILE} is of no run, and a training would replace it: choose another --run-dir")
        self._summaries = tf.summary.create_noop_writer()
        if not writes:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            for folder in (path, path / "last", path / "checkpoints"):
                _remove_leftovers(folder)
        except OSError as error:
            raise HCFlowError(f"cannot write to {path}: {error.strerror}; choose another --run-dir") from error
        write_atomically(path / VERSIONS_FILE, (json.dumps(_versions(), indent=1) + "\n").encode())
        save_config(config, path / CONFIG_FILE)
        self._summaries = tf.summary.create_file_writer(str(path / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float | str], *, kind: str) -> None:
        """Appends figures to log.jsonl and TensorBoard."""
        if not self.writes:
            return
        with (self.path / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        with self._summaries.as_default(step):
            for name, value in values.items():
                if not isinstance(value, str):
                    tf.summary.scalar(f"{kind}/{name}", value)
        self._summaries.flush()

    def forget_after(self, step: int) -> None:
        """Drops what log.jsonl tells of later steps, which the run is about to take again, and a line cut short."""
        file = self.path / LOG_FILE
        if not self.writes or not file.is_file():
            return
        kept = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        write_atomically(file, "".join(kept).encode())

    def log_pictures(self, step: int, pictures: list[np.ndarray]) -> None:
        """Writes LR, temperature 0, temperature 0.8 and HR side by side to TensorBoard."""
        with self._summaries.as_default(step):
            tf.summary.image("LR, tau 0, tau 0.8, HR", np.concatenate(pictures, axis=1)[None])
        self._summaries.flush()

    def save_best(self, model: TrainedModel) -> None:
        """Writes the weights of this model directory."""
        save_weights(model, self.path / WEIGHTS_FILE)

    def save_last(self, model: TrainedModel, config: Config, *, is_best: bool) -> None:
        """Writes the model directory `last/`; and the best one, if this is it or there is none yet."""
        save_model(model, self.path / "last", config)
        if is_best or not (self.path / WEIGHTS_FILE).is_file():
            self.save_best(model)


def _remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what a killed run was writing beside its files; see `atomic_path`."""
    for name in (CONFIG_FILE, WEIGHTS_FILE, LOG_FILE, "step_*.npz"):
        stem, suffix = name.rsplit(".", 1)
        for file in folder.glob(f".{stem}-????????.{suffix}"):
            file.unlink(missing_ok=True)


def _check_same_run(old: Config, new: Config, path: pathlib.Path) -> None:
    changed, as_there = [], []
    for section in ("model", "data", "losses", "optimizer", "training"):
        free = _FREE_TRAINING if section == "training" else _FREE_SECTIONS.get(section, set())
        before, after = getattr(old, section).model_dump(), getattr(new, section).model_dump()
        differing = [key for key in before if before[key] != after.get(key, before[key]) and key not in free]
        changed += [f"{section}.{key}" for key in differing]
        as_there += [f"--set {shlex.quote(f'{section}.{key}={json.dumps(before[key], default=str)}')}" for key in differing]
    if changed:
        go_on = f", or go on as it began with {' '.join(as_there)}" if len(as_there) <= 3 else ""
        raise UsageError(f"{path} holds a run of another config ({', '.join(changed)}): choose another --run-dir{go_on}")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed as a package"
    return versions
