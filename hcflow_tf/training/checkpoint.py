"""Checkpoints: one .npz file per step that holds all that a resumed run needs; the data need only the step."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights.store import read_weights, write_arrays

FORMAT_VERSION = 2
"""Stored in every checkpoint; a program reads this version and all before it.

1: the weights of a network, their momenta and moving averages are a vector each, model/weights and so on, in the order in
which the program of then created the weights. 2: an array for each weight, model/weights/level_1/main_step_1/actnorm/bias.
"""

KEPT = 2
"""The newest so many checkpoints are kept: the last, and the one before should that be damaged."""

State = dict[str, np.ndarray]


class Checkpoints:
    """The checkpoints of a run, `step_00001000.npz` and so on.

    A file is written beside, then renamed, so that a run killed at any moment leaves complete ones; the checksums of
    the .npz format tell one that was damaged later.
    """

    def __init__(self, directory: pathlib.Path):
        """Args: directory, made when the first checkpoint is saved."""
        self._directory = directory

    def __bool__(self) -> bool:
        """Whether there is one, readable or not."""
        return bool(self._files())

    @property
    def newest(self) -> pathlib.Path | None:
        """The file of the highest step."""
        return next(iter(self._files()), None)

    @property
    def newest_step(self) -> int:
        """The step of that file, by its name; 0 if there is none."""
        number = self.newest.stem.removeprefix("step_") if self.newest else ""
        return int(number) if number.isdecimal() else 0

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        """Writes the checkpoint of a step and removes those that are too old.

        Raises:
          HCFlowError: it cannot be written (full disk); the ones before are kept.
        """
        content = {"format_version": np.asarray(FORMAT_VERSION), "step": np.asarray(step), **state}
        write_arrays(self._directory / f"step_{step:08}.npz", content)
        for old in self._files()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[int, State]:
        """The newest checkpoint that can be read, as (step, state); names those that cannot on stderr.

        Raises:
          HCFlowError: none can be read, or the newest is of a later version of the program.
        """
        for file in self._files():
            try:
                state = read_weights(file)
                version, step = int(state.pop("format_version")), int(state.pop("step"))
            except (HCFlowError, KeyError, TypeError, ValueError) as error:
                reason = str(error) if isinstance(error, HCFlowError) else f"{file} is not a checkpoint"
                print(f"hcflow train: damaged checkpoint: {reason}; going on with the one before it", file=sys.stderr)
                continue
            if version > FORMAT_VERSION:
                raise HCFlowError(f"{file} has format version {version}, this program reads up to {FORMAT_VERSION}; update it")
            return step, state
        raise HCFlowError(f"{self._directory}: no checkpoint can be read; start again with a new --run-dir")

    def _files(self) -> list[pathlib.Path]:
        """All checkpoints, the newest first."""
        return sorted(self._directory.glob("step_*.npz"), reverse=True)
