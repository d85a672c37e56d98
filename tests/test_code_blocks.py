"""Every code block of README, CONTRIBUTING and docs: commands run in a sandbox or are at least parsed, Python runs."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tomllib

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import photograph, tiny_model

from hcflow_tf.config import IRNConfig, load_config
from hcflow_tf.export import FORMATS, script
from hcflow_tf.models.systems import make_model
from hcflow_tf.support import cli
from hcflow_tf.weights.store import save_model

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

PARSED_ONLY = {
    "train": "takes hours, or minutes: tests/test_training.py and test_distributed.py train",
    "convert": "downloads, or needs the authors' files: tests/test_convert.py and test_download.py",
    "export": "slow: tests/test_export_*.py",
    "beam": "needs an environment of its own: tests/test_beam.py (make test-beam)",
    "demo": "serves until it is stopped: tests/test_demo.py",
}
"""Commands whose options are parsed and whose configs are loaded, but that do not run here, and what does run them."""

NOT_RUN = {
    "make": "builds, installs or tests; that the target exists is checked",
    "pip": "installs",
    "tensorboard": "serves until it is stopped",
    "docker": "needs Docker and an image",
    "cd": "goes with docker",
    "echo": "goes with curl, which needs a server: tests/test_export_saved_model.py has one where it is installed",
    "adb": "needs a phone",
    "$NDK/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android26-clang": "needs the Android NDK",
    "./decode": "tests/test_litert_c.py",
    ".venv/bin/pre-commit": "changes the checkout's hooks",
    "ls": "its output is compared",
}
"""Programs that are not run here, and why."""

SCRIPTS_NOT_RUN = {
    "benchmarks/": "takes minutes; that the file exists is checked",
    "export/clients/": "needs a server: tests/test_export_saved_model.py",
    "tests/native/build.py": "tests/test_litert_c.py",
}

NO_COMMANDS = {
    "docs/data.md": ["datasets/"],
    "docs/training.md": ["RUN/config.yaml, versions.json"],
    "docs/web.md": ["Cross-Origin-Opener-Policy: same-origin"],
    "README.md": ["image        bicubic dB Y"],
    "docs/usage.md": ["$ hcflow info --model sr-x4-compact photo.png terminal.png"],
}
"""Blocks that show files or output, by their first words."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its document, first line's number, language and text."""

    document: str
    line: int
    language: str
    text: str

    @property
    def label(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(path.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return found


BLOCKS = blocks()


def of(language: str, *, document: str | None = None) -> list:
    chosen = [block for block in BLOCKS if block.language == language and document in (None, block.document)]
    return [pytest.param(block, id=block.label) for block in chosen]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    """What the documents' examples speak of: pictures, test sets, training folders, models under their names."""
    root = tmp_path_factory.mktemp("prepared")
    for name in ("configs", "export", "benchmarks"):
        shutil.copytree(ROOT / name, root / name)
    for folder in ("photos", "my/photos"):
        for index, name in enumerate(("cat.jpg", "coffee.png", "rocket.jpg")):
            save(root / folder / name, photograph(19 + index, 26, seed=index))
    save(root / "photo.jpg", photograph(12, 15))
    for folder in ("Set5/HR", "Set5/x4/HR"):
        for index in range(2):
            hr = photograph(32, 40, seed=index)
            save(root / folder / f"img_00{index}.png", hr)
            save(root / folder.replace("HR", "LR") / f"img_00{index}.png", hr[::4, ::4])
            save(root / f"other/Set5/img_00{index}_out.png", hr // 2)
    for folder in ("data/DIV2K/DIV2K_train_HR", "data/DIV2K/DIV2K_valid_HR", "data/Flickr2K/Flickr2K_HR"):
        save(root / folder / "0001.png", photograph(192, 200))
    for folder in ("datasets/DIV2K_train_HR", "datasets/Flickr2K_HR"):
        save(root / folder / "0001.png", photograph(192, 200))
    super_resolution = tiny_model("super_resolution", scale=4)
    save_model(super_resolution, root / "runs/sr_x4")
    save_model(super_resolution, root / "models/sr_x4")
    save_model(make_model(IRNConfig(blocks=(1, 1), growth=4)), root / "models/irn_x4")
    return root


def save(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def sandbox(prepared, tmp_path, monkeypatch) -> pathlib.Path:
    """A fresh copy of what is prepared, as working directory."""
    folder = tmp_path / "sandbox"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    return folder


# Shell.


def commands(block: Block) -> list[tuple[list[str], str]]:
    """(words, output shown) of each command: lines after a $, or all lines where there is none."""
    lines = block.text.replace("\\\n", " ").splitlines()
    marked = any(line.startswith("$ ") for line in lines)
    found: list[tuple[list[str], list[str]]] = []
    for line in lines:
        if not marked or line.startswith("$ "):
            # Brackets around options say that they may be left out.
            text = re.sub(r"\[(--[^\]]*)\]", r"\1", line.removeprefix("$ "))
            words = shlex.split(text, comments=True)
            for part in split(words, "&&"):
                if part:
                    found.append((part, []))
        elif found:
            found[-1][1].append(line)
    return [(words, "\n".join(output)) for words, output in found]


def split(words: list[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def hcflow_arguments(words: list[str]) -> list[str] | None:
    """The arguments after `hcflow`, in whatever way it is called; None for other programs."""
    if words[0] == "hcflow":
        return words[1:]
    if words[:2] == ["python", "-m"] and words[2].startswith("hcflow_tf."):
        return [words[2].removeprefix("hcflow_tf."), *words[3:]]
    if words[0] == "python" and (match := re.fullmatch(r"export/export_(\w+)\.py", words[1])):
        return ["export", match[1].replace("_", "-"), *words[2:]]
    return None


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses as the command does, and loads the config that it names."""
    name, *rest = arguments
    command = importlib.import_module(f"hcflow_tf.{name}")
    parser = argparse.ArgumentParser(prog=f"hcflow {name}")
    command.add_arguments(parser)
    args = parser.parse_known_args(rest)[0] if name == "beam" else parser.parse_args(rest)
    if getattr(args, "config", None):
        load_config(args.config, getattr(args, "set", []))
    return args


def is_shell(block: Block) -> bool:
    starts = NO_COMMANDS.get(block.document, [])
    return block.document != "docs/cluster.md" and not any(block.text.startswith(start) for start in starts)


@pytest.mark.parametrize("block", [param for param in of("") if is_shell(param.values[0])])
def test_commands(block, sandbox, capsys):
    if "small/cat.png" in block.text and "-o small" not in block.text:  # made by the block before
        save(sandbox / "small/cat.png", photograph(8, 11))
    for words, shown in commands(block):
        arguments = hcflow_arguments(words)
        if arguments and arguments[0] in PARSED_ONLY:
            parse(arguments)
        elif arguments:
            refused = "exists already" in shown
            if refused:
                assert cli.main(arguments) == 0
            capsys.readouterr()
            code = cli.main(arguments)
            out, err = capsys.readouterr()
            assert code == (2 if refused else 0), err
            if refused:
                assert err.strip() == shown.strip()
            elif arguments[0] == "info":
                assert out.strip() == shown.strip()
        elif words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert words[1] in targets
        elif words[0] == "ls":
            assert sorted(entry.name for entry in pathlib.Path(words[1]).iterdir()) == shown.split()
        elif words[0] == "python":
            assert any(words[1].startswith(start) for start in SCRIPTS_NOT_RUN), words
            assert (ROOT / words[1]).is_file()
        else:
            # One that is not known must be run here, or named above with the reason why it is not.
            assert words[0] in NOT_RUN, words
            if words[:3] == ["pip", "install", "-e"]:
                extras = re.findall(r"\[(.*)\]", words[3])
                project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
                assert set(extras) <= set(project["optional-dependencies"])


def test_every_export_format_is_in_the_documents():
    """So that the parsed-only rule sees each of them."""
    shown = {words[1] for block in BLOCKS if block.language == "" and is_shell(block) for words in exports_in(block)}
    assert shown == set(FORMATS)


def exports_in(block: Block) -> list[list[str]]:
    found = [hcflow_arguments(words) for words, _ in commands(block)]
    return [arguments for arguments in found if arguments and arguments[0] == "export"]


# Python.


@pytest.mark.parametrize("block", of("python"))
def test_python(block, sandbox, monkeypatch):
    names: dict = {"__name__": "__main__"}
    if "OnnxRuntime" in block.text or "InferenceSession" in block.text:
        assert script("onnx", ["--model", "runs/sr_x4", "--output", "hcflow.onnx"]) == 0
    if "(hr)" in block.text:
        names["hr"] = photograph(32, 40)[None].astype(np.float32) / 255
    exec(compile(block.text, block.label, "exec"), names)
    if "hr_again" in names:
        assert np.abs(names["hr_again"] - names["hr"]).max() < 1e-3
        assert names["sample"].shape == names["hr"].shape
        assert np.isfinite(names["nats"]).all()
    if "session" in names:
        assert names["hr"].shape == (1, 192, 160, 3)
    if "batches" in names:
        hr, lr = next(iter(names["batches"]))
        assert (hr.shape, lr.shape) == ((16, 160, 160, 3), (16, 40, 40, 3))


# YAML: parts of configs, and Kubernetes.


@pytest.mark.parametrize("block", of("yaml", document="docs/data.md"))
def test_parts_of_configs(block, tmp_path):
    config = yaml.safe_load((ROOT / "configs/sr_x4.yaml").read_text(encoding="utf-8"))
    for section, keys in yaml.safe_load(block.text).items():
        config[section] |= keys
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    loaded = load_config(tmp_path / "config.yaml")
    assert loaded.data.train.hr[0] == "datasets/DIV2K_train_HR"


def run_cluster_script(script: str, folder: pathlib.Path, **environment: str) -> list[tuple[dict, argparse.Namespace]]:
    """Runs a script with stand-ins for hcflow and srun; returns TF_CONFIG and the parsed options of each hcflow call."""
    (folder / "hcflow").write_text('#!/bin/sh\nprintf "%s\\t%s\\n" "$TF_CONFIG" "$*" >> "$CALLS"\n')
    (folder / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    for name in ("hcflow", "srun"):
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)} | environment
    environment.pop("TF_CONFIG", None)
    subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, check=True, timeout=60)
    found = []
    for line in calls.read_text().splitlines():
        config, arguments = line.split("\t")
        found.append((json.loads(config or "{}"), arguments.split()))
    os.chdir(ROOT)
    return [(config, parse(arguments)) for config, arguments in found]


@pytest.mark.parametrize("block", of("", document="docs/cluster.md"))
def test_cluster_commands(block, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    calls = run_cluster_script(block.text, tmp_path)
    indices = []
    for config, args in calls:
        assert args.config in ("configs/quickstart.yaml", "configs/sr_x4.yaml")
        if config:
            indices.append(config["task"]["index"])
            assert config["task"]["type"] == "worker"
            assert len(config["cluster"]["worker"]) == 2
    assert sorted(indices) in ([0, 1], [0], [])
    assert bool(indices) == ("TF_CONFIG" in block.text)


@pytest.mark.parametrize("block", of("yaml", document="docs/cluster.md"))
def test_kubernetes(block, tmp_path, monkeypatch):
    """Each pod's shell makes its own index and the same two workers, under names that the service gives."""
    monkeypatch.chdir(ROOT)
    service, job = yaml.safe_load_all(block.text)
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    assert container["command"] == ["sh", "-c"]
    workers = [f"{job['metadata']['name']}-{index}.{pod['subdomain']}:2222" for index in range(job["spec"]["completions"])]
    for index in range(job["spec"]["completions"]):
        folder = tmp_path / str(index)
        folder.mkdir()
        ((config, args),) = run_cluster_script(container["args"][0], folder, JOB_COMPLETION_INDEX=str(index))
        assert config == {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        assert str(args.run_dir).startswith("/shared/")


def test_no_block_is_left_out():
    """Every block is of a kind that a test above takes."""
    known = {"", "python", "yaml"}
    assert {block.language for block in BLOCKS} == known
    assert {block.document for block in BLOCKS if block.language == "yaml"} == {"docs/data.md", "docs/cluster.md"}
    shown_only = [
        block for block in BLOCKS if block.language == "" and block.document != "docs/cluster.md" and not is_shell(block)
    ]
    assert len(shown_only) == sum(map(len, NO_COMMANDS.values()))  # each exception stands for one block
