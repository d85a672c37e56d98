"""SRFlow's released files: names, shapes, and what they become here."""

from __future__ import annotations

from collections.abc import Iterator

from hcflow_tf.config import SRFlowConfig
from hcflow_tf.weights.released.entries import (
    CONV,
    CONVOLUTION,
    FACTORS,
    PER_CHANNEL,
    PLAIN,
    Entry,
    Shapes,
    count,
    make_section,
    width,
)
from hcflow_tf.weights.released.rrdb import network_names

TITLE = "an SRFlow model"
NAMES = "flowUpsamplerNet.* and RRDB.*"
IGNORED = r"flowUpsamplerNet\.f\..*"
"""Entries that are no weights: a convolution that the authors' program makes and never uses."""

STACKED_BLOCKS = {4: (1, 8, 15, 22)}
"""Scale -> the RRDBs whose outputs are stacked in the published models."""
OTHER_STACKED_BLOCKS = (1, 3, 5, 7)


def recognises(shapes: Shapes) -> bool:
    """Whether a file with these entries may be one of this system."""
    return any(name.startswith("flowUpsamplerNet.") for name in shapes)


def infer_config(shapes: Shapes) -> SRFlowConfig:
    """The hyperparameters, from the names and shapes of the entries alone.

    Which RRDBs are stacked leaves no trace there: they are taken to be those of the published models.

    Raises:
      HCFlowError: they are not those of an SRFlow model.
    """
    doublings = count(shapes, r"RRDB\.upconv(\d+)\.")
    steps = count(shapes, r"flowUpsamplerNet\.layers\.(\d+)\.affine\.")
    all_steps = count(shapes, r"flowUpsamplerNet\.layers\.(\d+)\.actnorm\.")
    blocks = count(shapes, r"RRDB\.RRDB_trunk\.(\d+)\.")
    scale, levels = 2**doublings, doublings + 1
    stacked = STACKED_BLOCKS.get(scale, OTHER_STACKED_BLOCKS)
    return make_section(
        SRFlowConfig,
        TITLE,
        scale=scale,
        plain_steps=(all_steps - steps) // levels,
        steps=steps // levels,
        width=width(shapes, TITLE, f"flowUpsamplerNet.layers.{1 + (all_steps - steps) // levels}.affine.fFeatures.0.weight"),
        rrdb_blocks=blocks,
        rrdb_features=width(shapes, TITLE, "RRDB.conv_first.weight"),
        rrdb_growth=width(shapes, TITLE, "RRDB.RRDB_trunk.0.RDB1.conv1.weight"),
        stacked_blocks=tuple(min(index, blocks - 1) for index in stacked),
    )


_LINEAR = (
    ("actnorm/bias", "actnorm.bias", PER_CHANNEL),
    ("actnorm/log_scale", "actnorm.logs", PER_CHANNEL),
    ("rotation/matrix", "invconv.weight", PLAIN),
)
_NETWORK = (
    *(
        entry
        for conv, place in ((1, 0), (2, 2))
        for entry in (
            (f"conv_{conv}/kernel", f"{place}.weight", CONVOLUTION),
            (f"actnorm_{conv}/bias", f"{place}.actnorm.bias", PER_CHANNEL),
            (f"actnorm_{conv}/log_scale", f"{place}.actnorm.logs", PER_CHANNEL),
        )
    ),
    *((f"conv_3/{ours}", f"4.{theirs}", kind) for ours, theirs, kind in (*CONV, ("log_scale", "logs", FACTORS))),
)
_GAUSSIAN = (*CONV, ("log_scale", "logs", FACTORS))
TABLE = {
    "plain_step": tuple((f"{{}}/{ours}", theirs, kind) for ours, theirs, kind in _LINEAR),
    "step": (
        *((f"{{}}/{ours}", theirs, kind) for ours, theirs, kind in _LINEAR),
        *((f"{{}}/network/{ours}", f"affine.fAffine.{theirs}", kind) for ours, theirs, kind in _NETWORK),
        *((f"{{}}/injector/{ours}", f"affine.fFeatures.{theirs}", kind) for ours, theirs, kind in _NETWORK),
    ),
    "gaussian": tuple((f"{{}}/{ours}", f"conv.{theirs}", kind) for ours, theirs, kind in _GAUSSIAN),
}
"""Kind of layer -> our name in it, their name in it, and how the array lies there."""


def names(config: SRFlowConfig) -> dict[str, Entry]:
    """Our name -> their name and how the array lies there, for all weights of a model of this config."""
    found = network_names(config.rrdb_blocks, config.levels - 1, ours="rrdb/", theirs="RRDB.")
    for index, (layer, kind) in enumerate(_layers(config)):
        for ours, theirs, lies in TABLE.get(kind, ()):
            found[ours.format(layer)] = Entry(f"flowUpsamplerNet.layers.{index}.{theirs}", lies)
    return found


def _layers(config: SRFlowConfig) -> Iterator[tuple[str, str]]:
    """Our name and the kind of each of their flowUpsamplerNet.layers, in order."""
    for level in range(1, config.levels + 1):
        yield f"level_{level}", "squeeze"
        for kind, steps in (("plain_step", config.plain_steps), ("step", config.steps)):
            for step in range(1, steps + 1):
                yield f"level_{level}/{kind}_{step}", kind
        if level < config.levels - 1:
            yield f"level_{level}/gaussian", "gaussian"
