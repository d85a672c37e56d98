"""Running the exports inside the tests' process."""

from __future__ import annotations

import pathlib

from hcflow_tf.export import script

EXPORT = pathlib.Path(__file__).parents[1] / "export"


def export(kind: str, *arguments: object) -> int:
    """Runs `hcflow export KIND`, as export/export_KIND.py does; returns its exit code."""
    return script(kind.replace("_", "-"), [str(argument) for argument in arguments])
