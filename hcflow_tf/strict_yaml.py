"""Reading YAML strictly: a key given twice is an error, 1e-4 is a number, and `--set` overrides."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hcflow_tf.errors import UsageError


def load(text: str) -> Any:
    """The tree of dicts, lists and values that YAML text describes.

    Raises:
      yaml.YAMLError: not valid YAML, or a key is given twice in one section.
    """
    return yaml.load(text, Loader=_Loader)


def apply_override(tree: dict, override: str) -> None:
    """Sets one value of the tree, in place, from `section.key=value`; the value is read as YAML.

    Raises:
      UsageError: the override has another form.
    """
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(f"--set {override}: expected section.key=value")
    try:
        value = load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: {text!r} is not a YAML value") from error
    for name in path[:-1]:
        if tree.get(name) is None:
            tree[name] = {}
        if not isinstance(tree[name], dict):
            raise UsageError(f"--set {override}: {name} is a value, not a section")
        tree = tree[name]
    tree[path[-1]] = value


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # refused below as unhashable
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key_node.value!r} is given twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where a number with an exponent needs a point and a sign; 1.2 reads 1e-4 and 3e5.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
