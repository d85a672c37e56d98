"""The model section of any system: which there are, and which of them one is."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from hcflow_tf.config.systems.base import SystemConfig
from hcflow_tf.config.systems.hcflow import ModelConfig
from hcflow_tf.config.systems.irn import IRNConfig
from hcflow_tf.config.systems.rrdb import RRDBConfig
from hcflow_tf.config.systems.srflow import SRFlowConfig
from hcflow_tf.config.types import shown


def system_of(section: Any) -> str:
    """The tag of the union: what `system` says, hcflow where it is not there (or where this is no section at all)."""
    named = section.get("system", "hcflow") if isinstance(section, dict) else getattr(section, "system", "hcflow")
    return named if isinstance(named, str) else shown(named)


SECTIONS: dict[str, type[SystemConfig]] = {"hcflow": ModelConfig, "irn": IRNConfig, "rrdb": RRDBConfig, "srflow": SRFlowConfig}
"""System -> its section."""
AnyModelConfig = Annotated[
    Annotated[ModelConfig, pydantic.Tag("hcflow")]
    | Annotated[IRNConfig, pydantic.Tag("irn")]
    | Annotated[RRDBConfig, pydantic.Tag("rrdb")]
    | Annotated[SRFlowConfig, pydantic.Tag("srflow")],
    pydantic.Discriminator(system_of),
]
"""The section of any system: key `system` says which, hcflow where it is left out."""


def validate_section(values: Any) -> SystemConfig:
    """The section of a model from its values, a dict.

    Raises:
      pydantic.ValidationError: they are no such section.
    """
    return _ANY.validate_python(values)


_ANY: pydantic.TypeAdapter[SystemConfig] = pydantic.TypeAdapter(AnyModelConfig)
