"""Reading YAML strictly: a key given twice is an error, 1e-4 is a number, no aliases, and `--set` overrides.

On PyYAML: ruamel.yaml refuses keys given twice and reads 1e-4 by itself, but needs the same hooks for the rest, and it would
read `on` and `yes` in configs that people have as text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from hcflow_tf.support.errors import UsageError


def load(text: str) -> Any:
    """The tree of dicts, lists and values that YAML text describes.

    Raises:
      yaml.YAMLError: not valid YAML, a key is given twice in one section, an alias, or nested too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


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
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of them can stand for billions of values
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"aliases (*{event.anchor}) are not read here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # 2020-13-45, !!int x, a number of 5000 digits
            reason = f"not a value that can be read ({str(error)[:100]})"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from error
        if isinstance(value, str) and "\0" in value:  # no file can have such a name
            raise yaml.constructor.ConstructorError(None, None, "a text holds the character NUL", node.start_mark)
        return value

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
