"""HCFlow's released files: names, shapes, and what they become here."""

from __future__ import annotations

import itertools
import math
import typing

from hcflow_tf.config import ModelConfig
from hcflow_tf.support.errors import HCFlowError
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

TITLE = "an HCFlow model"
NAMES = "flow.layers.* and flow.level*_condFlow.*"
IGNORED = r".*\.haar_weights"
"""Entries that are no weights: the fixed kernels of the Haar transform."""


def recognises(shapes: Shapes) -> bool:
    """Whether a file with these entries may be one of this system."""
    return any(name.startswith("flow.") for name in shapes)


def infer_config(shapes: Shapes) -> ModelConfig:
    """The hyperparameters of a released model, from the names and shapes of its weights alone.

    Raises:
      HCFlowError: the names are not those of an HCFlow model.
    """

    levels = count(shapes, r"flow\.level(\d+)_condFlow\.")
    main_steps = count(shapes, r"flow\.layers\.(\d+)\.(?:actnorm|permute|affine)\.")
    extractor = "flow.level0_condFlow"
    blocks = tuple(count(shapes, rf"flow\.level0_condFlow\.RRDB_trunk{trunk}\.(\d+)\.") for trunk in (0, 1))
    if not levels or not main_steps or not all(blocks):
        raise HCFlowError(f"not the weights of {TITLE}: expected entries named {NAMES}")
    scales = typing.get_args(ModelConfig.model_fields["scale"].annotation)
    if 2**levels not in scales:
        raise HCFlowError(f"the weights have {levels} levels, scale {2**levels}; known scales: {', '.join(map(str, scales))}")
    conditional_steps = count(shapes, r"flow\.level0_condFlow\.additional_flow_steps\.(\d+)\.")
    first_conditional = f"{extractor}.additional_flow_steps.0.affine.f.conv1.weight"
    return make_section(
        ModelConfig,
        TITLE,
        task="rescaling" if any("haar_weights" in name for name in shapes) else "super_resolution",
        scale=2**levels,
        main_steps=math.ceil(main_steps / levels),
        conditional_steps=conditional_steps,
        main_width=width(shapes, TITLE, "flow.layers.1.affine.f.conv1.weight"),
        conditional_width=width(shapes, TITLE, first_conditional, default=None if conditional_steps else 64),
        rrdb_blocks=blocks,
        rrdb_features=width(shapes, TITLE, f"{extractor}.conv_first.weight"),
        rrdb_growth=width(shapes, TITLE, f"{extractor}.RRDB_trunk0.0.RDB1.conv1.weight"),
        log_std_bound=None,
    )


_STEP = (
    ("actnorm/bias", "actnorm.bias", PER_CHANNEL),
    ("actnorm/log_scale", "actnorm.logs", PER_CHANNEL),
    ("rotation/matrix", "permute.weight", PLAIN),
    ("network/conv_{conv}/kernel", "affine.f.conv{conv}.weight", CONVOLUTION),
    ("network/conv_{conv}/bias", "affine.f.conv{conv}.bias", PLAIN),
    ("network/conv_{conv}/log_scale", "affine.f.conv{conv}.logs", FACTORS),
    ("network/actnorm_{conv}/bias", "affine.f.conv{conv}.actnorm.bias", PER_CHANNEL),
    ("network/actnorm_{conv}/log_scale", "affine.f.conv{conv}.actnorm.logs", PER_CHANNEL),
)
_OURS, _THEIRS = "level_{level}", "flow.level{level_from_0}_condFlow"
TABLE = (
    *((f"{_OURS}/main_step_{{step}}/{ours}", f"flow.layers.{{layer}}.{theirs}", kind) for ours, theirs, kind in _STEP),
    *(
        (f"{_OURS}/conditional_step_{{step}}/{ours}", f"{_THEIRS}.additional_flow_steps.{{step_from_0}}.{theirs}", kind)
        for ours, theirs, kind in _STEP
    ),
    *((f"{_OURS}/feature_extractor/conv_first/{ours}", f"{_THEIRS}.conv_first.{theirs}", kind) for ours, theirs, kind in CONV),
    *(
        (
            f"{_OURS}/feature_extractor/trunk_{letter}_{{block}}/block_{{dense}}/conv_{{conv}}/{ours}",
            f"{_THEIRS}.RRDB_trunk{trunk}.{{block_from_0}}.RDB{{dense}}.conv{{conv}}.{theirs}",
            kind,
        )
        for trunk, letter in enumerate("ab")
        for ours, theirs, kind in CONV
    ),
    *((f"{_OURS}/feature_extractor/conv_last/{ours}", f"{_THEIRS}.trunk_conv1.{theirs}", kind) for ours, theirs, kind in CONV),
    *((f"{_OURS}/gaussian/{ours}", f"{_THEIRS}.f.{theirs}", kind) for ours, theirs, kind in CONV),
    (f"{_OURS}/gaussian/log_scale", f"{_THEIRS}.f.logs", FACTORS),
)
"""Our name, their name, and how the array lies there; `names` fills in the numbers."""


def names(config: ModelConfig) -> dict[str, Entry]:
    """Our name -> (their name, how the array lies there), for all names that a model of this config may have."""
    ranges = {
        "level": config.levels,
        "step": max(config.main_steps, config.conditional_steps),
        "block": max(*config.rrdb_blocks, *config.lower_rrdb_blocks),
        "dense": 3,
        "conv": 5,
    }
    found = {}
    for ours, theirs, kind in TABLE:
        used = [name for name in ranges if f"{{{name}}}" in ours]
        for values in itertools.product(*(range(1, ranges[name] + 1) for name in used)):
            numbers = dict(zip(used, values, strict=True))
            numbers |= {f"{name}_from_0": value - 1 for name, value in numbers.items()}
            # Their flow.layers counts a squeeze, K steps and a split for each level.
            numbers["layer"] = numbers["level_from_0"] * (config.main_steps + 2) + numbers.get("step", 0)
            found[ours.format(**numbers)] = Entry(theirs.format(**numbers), kind)
    return found
