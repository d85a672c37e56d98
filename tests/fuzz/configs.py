"""Configs that lie: YAML that is none, that is a bomb or a program, and wrong values for every key."""

from __future__ import annotations

import pathlib
import random

import yaml

from fuzz.mutations import mutate

BASE = """\
format_version: 1
model: {task: super_resolution, scale: 2, main_steps: 2, rrdb_blocks: [1, 1]}
data:
  train: {hr: good}
  crop_size: 8
  cache: disk
  cache_dir: cache
  max_bad_share: 1.0
losses: {nll: 1.0, quantization_levels: 256}
optimizer: {learning_rate: 2.5e-4, halve_at: [10, 20]}
training: {steps: 100, seed: 3, start_from: null}
"""

KEYS = (
    "format_version", "model", "model.task", "model.scale", "model.main_steps", "model.main_width", "model.rrdb_blocks",
    "data", "data.train", "data.train.hr", "data.train.lr", "data.validation", "data.validation_images", "data.crop_size",
    "data.cache", "data.cache_dir", "data.max_bad_share", "data.workers", "data.flip", "data.sample_photographs",
    "losses.nll", "losses.quantization_levels", "losses.vgg_weights", "optimizer.learning_rate", "optimizer.halve_at",
    "optimizer.clip_norm", "training.steps", "training.batch_size", "training.seed", "training.start_from", "training.ema",
)  # fmt: skip

VALUES = (
    "0", "-1", "1e400", "-.inf", ".nan", "9" * 5000, "0x" + "f" * 9000, "1" * 25, "2147483648", "18446744073709551616",
    "1e-400", "1_000", "0b2", "0o9", "1:99:99", "''", "'\\0'", '"\\0"', '"\\ud800"', '"\\x1b[2J"', '"a\\nb"', "~",
    "null", "true", "no", "[]",
    "{}", "[[]]", "[[[[1]]]]", "{a: {b: {c: 1}}}", "2020-01-01", "2020-13-45", "!!binary aGVsbG8=", "!!binary '*'", "!!set {a}",
    "!!int abc", "!!float x", "!!bool perhaps", "!!null x", "!!timestamp x", "!!omap [a: 1]", "!!pairs [a: 1]", "!!str 1",
    "!unknown x", "!!python/tuple [1]", "!!python/object/apply:os.system ['touch marker']", "!!python/name:os.system",
    "!!python/module:os", "!!python/object/new:os.system ['touch marker']", "|\n  text", "> text", "'open", '"open', "[1, 2",
    "{a: 1", "&a [1]", "*a", "@", "`", "%", "?", "-", "- - -", "/dev/zero", "/dev/null", "/proc/self/mem", "loop", "pipe",
    "/etc/passwd", "x" * 300, "x" * 100_000, "good", "ümläut", "~nobody-of-this-name/x",
)  # fmt: skip


def lying_configs(seed: int, mutated: int, valued: int) -> dict[str, bytes]:
    """File name -> content: all structured lies, `valued` wrong values, and `mutated` damaged files."""
    rng = random.Random(seed)
    recipes = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.yaml"))
    bases = [BASE.encode()] * len(recipes) + [path.read_bytes() for path in recipes]
    pairs = [(key, value) for key in KEYS for value in VALUES]
    files = _structured()
    for number, (key, value) in enumerate(rng.sample(pairs, min(valued, len(pairs)))):
        files[f"value_{number}.yaml"] = _with_value(key, value)
    for number in range(mutated):
        files[f"mutant_{number}.yaml"] = _text_mutant(rng) if number % 2 else mutate(rng.choice(bases), rng)
    return files


def lying_model_configs(honest: str) -> dict[str, bytes]:
    """File name -> config of a model directory, each with one hyperparameter that its weights do not have.

    Args:
      honest: the config that belongs to the weights.
    """
    base, files = yaml.safe_load(honest), {}
    values = (0, 1, 3, 7, 16, 1000, 4096, 10**6, 2**31, 10**30, -1, 1.5, "4", True, None, [1], [1, 2], [1000, 1000])
    for key, true in base["model"].items():
        for number, value in enumerate(values):
            if value != true:
                files[f"{key}_{number}.yaml"] = yaml.safe_dump(base | {"model": base["model"] | {key: value}}).encode()
    return files | {"default.yaml": b"format_version: 1\n", "task.yaml": honest.replace("super_resolution", "rescaling").encode()}


def _with_value(key: str, value: str) -> bytes:
    """Only this key, in nested block style."""
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(key.split("."))]
    return ("\n".join(lines) + f" {value}\n").encode("utf-8", "surrogatepass")


def _text_mutant(rng: random.Random) -> bytes:
    """The base with lines exchanged, indented, doubled or dropped, or with YAML's own characters put in."""
    lines = BASE.splitlines()
    for _ in range(rng.choice((1, 2, 4))):
        here, there = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            lines[here], lines[there] = lines[there], lines[here]
        elif kind == 1:
            lines[here] = rng.choice(("  ", "\t", " ", "- ", "? ", ": ")) + lines[here]
        elif kind == 2:
            lines.insert(there, lines[here])
        elif kind == 3:
            lines[here] = ""
        else:
            position = rng.randrange(len(lines[here]) + 1)
            lines[here] = lines[here][:position] + rng.choice(list("[]{}:,&*!|>'\"%@`#-?~\n\0\t")) + lines[here][position:]
    return "\n".join(lines).encode()


def _structured() -> dict[str, bytes]:
    laughs = "a0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    merges = "m0: &m0 {a: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 10))
    base = BASE.encode()
    files = {
        "empty": b"",
        "bom": b"\xef\xbb\xbf" + base,
        "two_boms": b"\xef\xbb\xbf" * 2 + base,
        "utf16": base.decode().encode("utf-16"),
        "utf32": base.decode().encode("utf-32"),
        "latin1": base + "# \u00e9".encode("latin-1"),
        "bad_utf8": base + b"# \xc3\x28 \xff\xfe",
        "overlong_utf8": base + b"# \xc0\xaf",
        "nul": base.replace(b"good", b"go\0od"),
        "nul_at_end": base + b"\0",
        "controls": base + b"# \x1b[2J\x07",
        "carriage_returns": base.replace(b"\n", b"\r"),
        "line_separators": base.replace(b"\n", "\u2028".encode()),
        "binary": bytes(range(256)) * 20,
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "laughs": laughs.encode(),
        "laughs_as_value": (laughs + "data: {cache_dir: *a11}\n").encode(),
        "laughs_in_merges": (merges + "model: *m9\n").encode(),
        "self_reference": b"data: &d {train: *d}\n",
        "self_reference_in_list": b"optimizer: {halve_at: &a [*a]}\n",
        "self_merge": b"model: &m {<<: *m}\n",
        "merge_of_a_number": b"model: {<<: 3}\n",
        "deep_lists": b"[" * 100_000,
        "deep_closed_lists": b"a: " + b"[" * 5000 + b"]" * 5000,
        "deep_maps": b"".join(b" " * i + b"a:\n" for i in range(1500)),
        "deep_flow_maps": b"{a: " * 3000,
        "deep_sequences": b"- " * 5000,
        "deep_keys": b"? " * 5000,
        "many_keys": b"".join(b"key%d: 1\n" % i for i in range(3000)),
        "many_unknown_keys_of_a_section": b"model:\n" + b"".join(b"  key%d: 1\n" % i for i in range(3000)),
        "long_key": b"x" * 200_000 + b": 1\n",
        "many_documents": b"--- {}\n" * 50,
        "tags": b"%TAG ! tag:yaml.org,2002:python/\n--- !object/apply:os.system ['touch marker']\n",
        "tag_on_root": b"!!python/object/apply:os.system ['touch marker']\n",
        "tag_on_key": b"!!python/object/apply:os.system ['touch marker']: 1\n",
        "tag_in_set": b"model: !!python/object/apply:subprocess.check_output [[touch, marker]]\n",
        "yaml_directive": b"%YAML 9.9\n--- {}\n",
        "list": b"- model\n- data\n",
        "number": b"3\n",
        "text": b"model\n",
        "number_keys": b"1: 2\nnull: 3\ntrue: 4\n2020-01-01: 5\n",
        "number_keys_in_a_section": b"model: {1: 2, null: 3, 1.5: 4}\n",
        "list_key": b"? [1, 2]\n: 3\n",
        "set": b"!!set {model, data}\n",
        "version_2": b"format_version: 2\n",
        "version_true": b"format_version: true\n",
        "version_list": b"format_version: [1]\n",
        "version_deep": b"format_version: " + b"[" * 300 + b"]" * 300 + b"\n",
        "large": b"# " + b"x" * 3_000_000 + b"\n",
    }
    return {f"{kind}.yaml": content for kind, content in files.items()}
