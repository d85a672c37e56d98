"""Reading a run's YAML config, with `--set` overrides, and saying what is wrong with one; writing it."""

from __future__ import annotations

import codecs
import difflib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydantic
import yaml

from hcflow_tf.config import strict_yaml
from hcflow_tf.config.models import SECTIONS
from hcflow_tf.config.packaged import packaged_configs
from hcflow_tf.config.schema import FORMAT_VERSION, Config
from hcflow_tf.config.systems.base import SystemConfig
from hcflow_tf.config.systems.hcflow import WRITTEN
from hcflow_tf.config.types import shown
from hcflow_tf.support.errors import UsageError
from hcflow_tf.support.files import is_file, is_folder, read_file, write_atomically

MAX_CONFIG_BYTES = 2**20
MAX_PROBLEMS = 20
"""Problems of one config that are listed."""


def load_config(path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a YAML file, or the packaged config of that name, applies `section.key=value` overrides and validates.

    Raises:
      UsageError: one line per problem, with the key, the reason and the nearest valid name.
    """
    path = pathlib.Path(path)
    packaged = packaged_configs()
    if not is_file(path):
        path = packaged.get(str(path), path)
    try:
        content = read_file(path, limit=MAX_CONFIG_BYTES)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UsageError(f"cannot read config {path}: it is in UTF-16 (Windows calls that Unicode); save it as UTF-8")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        near = _nearest_file(path, packaged)
        raise UsageError(f"cannot read config {path}: {getattr(error, 'strerror', None) or error}{near}") from error
    return parse_config(text, overrides, source=str(path))


def parse_config(text: str, overrides: list[str] | tuple[str, ...] = (), *, source: str = "config") -> Config:
    """Parses and validates YAML text; see `load_config`."""
    try:
        tree = strict_yaml.load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{source}{where}: not valid YAML: {reason}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{source}: expected sections (model, data, losses, optimizer, training), got {type(tree).__name__}")
    for override in overrides:
        strict_yaml.apply_override(tree, override)
    version = tree.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{source}: format_version is {shown(version)}, this program reads {FORMAT_VERSION}; "
            "use the hcflow_tf release that wrote it, or convert or train the model again"
        )
    try:
        return Config.model_validate(tree, context={WRITTEN: "format_version" in tree})
    except pydantic.ValidationError as error:
        problems = [f"{source}: {_explain(problem)}" for problem in error.errors()]
        more = [f"{source}: and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise UsageError(*problems[:MAX_PROBLEMS], *more) from error


def dump_config(config: Config, sections: Sequence[str] | None = None) -> str:
    """The config, or some of its sections, as YAML text that `parse_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json", include=set(sections) if sections else None), sort_keys=False)


def save_config(config: Config, path: str | os.PathLike) -> None:
    """Writes the config as YAML, beside first and then renamed."""
    write_atomically(path, dump_config(config).encode())


def _explain(problem: Mapping[str, Any]) -> str:
    """One line for one pydantic error: key, reason, nearest valid name."""
    path = problem["loc"]
    system = path[1] if path[:1] == ("model",) and len(path) > 1 else "hcflow"  # pydantic's tag of the union
    if path[:1] == ("model",):
        path = ("model", *path[2:])
    key = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_nearest_key(path, SECTIONS[system])}"
    if problem["type"] == "union_tag_invalid":
        return f"{key}.system: input should be {_either(SECTIONS)}, got '{problem['ctx']['tag']}'"
    if problem["type"] == "model_type":
        got = "nothing" if problem["input"] is None else shown(problem["input"])
        return f"{key}: expected a section of keys, got {got}"
    if problem["type"] == "value_error":
        return ": ".join(part for part in (key, str(problem["ctx"]["error"])) if part)
    reason = problem["msg"].replace("valid tuple", "list").replace("Tuple", "list").replace(" after validation", "")
    return f"{key}: {reason[0].lower()}{reason[1:]}, got {shown(problem['input'])}"


def _either(names: Iterable[str]) -> str:
    """'a', 'b' or 'c'."""
    *first, last = (f"'{name}'" for name in names)
    return f"{', '.join(first)} or {last}"


def _nearest_key(path: tuple, model_section: type[SystemConfig]) -> str:
    """The same name in another section, else the nearest name in this one, else all of this one's."""
    *parents, name = map(str, path)
    sections = {key: field.annotation for key, field in Config.model_fields.items()} | {"model": model_section}
    section: Any = sections[parents[0]] if parents else Config
    for parent in parents[1:]:
        section = section.model_fields[parent].annotation
    for other, annotation in sections.items():
        if name in getattr(annotation, "model_fields", ()):
            return f"did you mean {other}.{name}?"
    valid = list(section.model_fields)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    return f"did you mean {'.'.join([*parents, near[0]])}?" if near else f"valid keys: {', '.join(valid)}"


def _nearest_file(path: pathlib.Path, packaged: Iterable[str]) -> str:
    """The YAML file beside it or the packaged config whose name is nearest."""
    files = sorted(path.parent.glob("*.yaml")) if is_folder(path.parent) else []
    by_name = {file.name: str(file) for file in files} | {name: name for name in packaged}
    near = difflib.get_close_matches(path.name, by_name, n=1)
    return f"; did you mean {by_name[near[0]]}?" if near else ""
