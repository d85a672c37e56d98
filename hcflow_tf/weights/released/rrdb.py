"""ESRGAN's and RRDB's released files: names, shapes, and what they become here."""

from __future__ import annotations

from hcflow_tf.config import RRDBConfig
from hcflow_tf.weights.released.entries import CONV, Entry, Shapes, count, make_section, width

TITLE = "an RRDB model"
NAMES = "conv_first.*, RRDB_trunk.* and upconv*"
IGNORED = r"(?!)"
"""Entries that are no weights: none."""


def recognises(shapes: Shapes) -> bool:
    """Whether a file with these entries may be one of this system."""
    return any(name.startswith("RRDB_trunk.") for name in shapes)


def infer_config(shapes: Shapes) -> RRDBConfig:
    """The hyperparameters, from the names and shapes of the entries alone.

    Raises:
      HCFlowError: they are not those of an RRDB model.
    """
    return make_section(
        RRDBConfig,
        TITLE,
        scale=2 ** count(shapes, r"upconv(\d+)\."),
        blocks=count(shapes, r"RRDB_trunk\.(\d+)\."),
        features=width(shapes, TITLE, "conv_first.weight"),
        growth=width(shapes, TITLE, "RRDB_trunk.0.RDB1.conv1.weight"),
    )


def names(config: RRDBConfig) -> dict[str, Entry]:
    """Our name -> their name and how the array lies there, for all weights of a model of this config."""
    return network_names(config.blocks, config.scale.bit_length() - 1, ours="network/", theirs="")


def network_names(blocks: int, doublings: int, *, ours: str, theirs: str) -> dict[str, Entry]:
    """The names of an `RRDBNetwork`'s convolutions.

    Args:
      blocks: RRDBs.
      doublings: convolutions after an upsampling.
      ours, theirs: what stands before the names.
    """
    convolutions = {"conv_first": "conv_first", "conv_trunk": "trunk_conv", "conv_hr": "HRconv", "conv_last": "conv_last"}
    convolutions |= {f"upconv_{number}": f"upconv{number}" for number in range(1, doublings + 1)}
    for block in range(1, blocks + 1):
        for dense in (1, 2, 3):
            for conv in range(1, 6):
                convolutions[f"trunk_{block}/block_{dense}/conv_{conv}"] = f"RRDB_trunk.{block - 1}.RDB{dense}.conv{conv}"
    return {
        f"{ours}{name}/{entry}": Entry(f"{theirs}{their_name}.{their_entry}", kind)
        for name, their_name in convolutions.items()
        for entry, their_entry, kind in CONV
    }
