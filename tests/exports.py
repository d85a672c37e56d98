"""Running the export scripts inside the tests' process."""

from __future__ import annotations

import importlib
import pathlib
import sys

EXPORT = pathlib.Path(__file__).parents[1] / "export"
if str(EXPORT) not in sys.path:
    sys.path.insert(0, str(EXPORT))


def export(kind: str, *arguments: object) -> int:
    """Runs export/export_KIND.py with these arguments; returns its exit code."""
    frame, script = importlib.import_module("export_frame"), importlib.import_module(f"export_{kind}")
    return frame.main(script.__file__, script, [str(argument) for argument in arguments])
