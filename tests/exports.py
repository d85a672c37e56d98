"""Running the exports inside the tests' process."""

from __future__ import annotations

import pathlib

from hcflow_tf.export import script

EXPORT = pathlib.Path(__file__).parents[1] / "export"


def export(kind: str, *arguments: object, guard: bool = False) -> int:
    """Runs `hcflow export KIND`, as export/export_KIND.py does; returns its exit code.

    Without the guard by default: the weights are random, and the flow itself is what exports are compared with.
    """
    options = [] if guard else ["--no-guard"]
    return script(kind.replace("_", "-"), [*map(str, arguments), *options])
