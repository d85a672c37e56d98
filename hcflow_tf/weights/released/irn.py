"""IRN's released files: names, shapes, and what they become here."""

from __future__ import annotations

from hcflow_tf.config import IRNConfig
from hcflow_tf.weights.released.entries import CONV, Entry, Shapes, count, make_section, width

TITLE = "an IRN model"
NAMES = "operations.*"
IGNORED = r".*\.haar_weights"
"""Entries that are no weights: the fixed kernels of the Haar transform."""


def recognises(shapes: Shapes) -> bool:
    """Whether a file with these entries may be one of this system."""
    return any(name.startswith("operations.") for name in shapes)


def infer_config(shapes: Shapes) -> IRNConfig:
    """The hyperparameters, from the names and shapes of the entries alone.

    Raises:
      HCFlowError: they are not those of an IRN model.
    """
    operations = count(shapes, r"operations\.(\d+)\.")
    # Each level starts with its Haar transform, the only operation with such an entry.
    starts = [index for index in range(operations) if f"operations.{index}.haar_weights" in shapes]
    ends = [*starts[1:], operations][: len(starts)]
    return make_section(
        IRNConfig,
        TITLE,
        scale=2 ** len(starts),
        blocks=tuple(end - start - 1 for start, end in zip(starts, ends, strict=True)),
        growth=width(shapes, TITLE, "operations.1.F.conv1.weight"),
    )


def names(config: IRNConfig) -> dict[str, Entry]:
    """Our name -> their name and how the array lies there, for all weights of a model of this config."""
    found, before = {}, 0
    for level, blocks in enumerate(config.blocks, start=1):
        for block in range(1, blocks + 1):
            for network in "fgh":
                for conv in range(1, 6):
                    for ours, theirs, kind in CONV:
                        found[f"level_{level}/block_{block}/{network}/conv_{conv}/{ours}"] = Entry(
                            f"operations.{before + block}.{network.upper()}.conv{conv}.{theirs}", kind
                        )
        before += blocks + 1
    return found
