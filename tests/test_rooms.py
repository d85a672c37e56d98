"""Rooms of the package import only from rooms below them: no arrow upwards, no circle (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "hcflow_tf"
ORDER = (
    *("commands", "training", "inference", "runtimes", "weights", "losses", "models", "metrics"),
    *("networks", "bijectors", "data", "images", "config", "support"),
)
"""From top to bottom."""


def imported_rooms(path: pathlib.Path) -> set[str]:
    """The rooms that a file imports from, inside functions too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "hcflow_tf":
            modules |= {f"hcflow_tf.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    named = {module.split(".")[1] for module in modules if module.startswith("hcflow_tf.")}
    return {name for name in named if (PACKAGE / name).is_dir()}


def room_of(path: pathlib.Path) -> str:
    """The room that a file is in; the top level holds the commands."""
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else "commands"


def test_every_arrow_points_downwards():
    files = list(PACKAGE.rglob("*.py"))
    assert {room_of(path) for path in files} == set(ORDER)
    place = {room: index for index, room in enumerate(ORDER)}
    upwards = [
        f"{path.relative_to(PACKAGE)} -> {room}"
        for path in files
        for room in imported_rooms(path) - {room_of(path)}
        if place[room] < place[room_of(path)]
    ]
    assert upwards == []


def test_an_arrow_upwards_is_seen(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("def f():\n    from hcflow_tf.weights.store import load_model\n    from hcflow_tf import losses\n")
    assert imported_rooms(file) == {"weights", "losses"}
