"""The configs that ship with the package, by name."""

from __future__ import annotations

import pathlib

_PACKAGE = pathlib.Path(__file__).parents[1]


def packaged_configs() -> dict[str, pathlib.Path]:
    """Name -> file, such as sr_x4: inside the installed package, or in configs/ of a checkout."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}
    return {}
