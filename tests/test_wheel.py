"""The wheel holds all that the commands need, and works outside of the checkout."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TINY = ("main_steps=1", "conditional_steps=1", "main_width=4", "rrdb_blocks=[1, 1]", "rrdb_features=4", "rrdb_growth=2")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Built from a copy: a build leaves folders beside the sources."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "hcflow_tf", "configs")
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in files), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(output), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = output.glob("*.whl")
    return file


def run(folder: pathlib.Path, *command: str, **environment: str) -> str:
    """Runs a command in a folder that knows nothing of the checkout; returns what it prints."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
        (scripts,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    configs = {f"hcflow_tf/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "configs").rglob("*.yaml")}
    assert configs
    assert configs <= names
    sources = {file.relative_to(ROOT).as_posix() for file in (ROOT / "hcflow_tf").rglob("*.py")}
    assert sources | {"hcflow_tf/py.typed"} <= names
    models = {file.relative_to(ROOT).as_posix() for file in (ROOT / "hcflow_tf/weights/shipped_models").glob("*/*")}
    assert models
    assert models <= names
    parameters = {file.relative_to(ROOT).as_posix() for file in (ROOT / "hcflow_tf/metrics/parameters").iterdir()}
    assert "hcflow_tf/metrics/parameters/NOTICES.txt" in parameters <= names
    assert not [name for name in names if name.startswith(("tests/", "configs/", "export/"))]
    assert "hcflow = hcflow_tf.support.cli:main" in scripts
    for line in ("Name: hcflow_tf", "License-Expression: Apache-2.0", "Classifier: Typing :: Typed", "Provides-Extra: export"):
        assert line in metadata.splitlines()
    assert "Project-URL: Paper, https://arxiv.org/abs/2108.05301" in metadata.splitlines()


def test_unpacked_wheel_runs_outside_of_the_checkout(wheel, tmp_path):
    """With the dependencies of this environment: the version, and a packaged config by name."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = "import sys; sys.path.insert(0, 'installed'); from hcflow_tf.support.cli import main; sys.exit(main())"
    hcflow = (sys.executable, "-c", program)
    assert run(tmp_path, *hcflow, "--version") == "hcflow 0.1.0\n"
    assert "hcflow, super_resolution x4: steps L 2, K 13, P 13" in run(tmp_path, *hcflow, "info", "--config", "sr_x4")


@pytest.mark.slow
def test_fresh_environment_trains_exports_and_runs_all_formats(wheel, tmp_path):
    """`pip install WHEEL[export]`, then a packaged config, three exports, and each of them upscales an image."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    run(tmp_path, python, "-m", "pip", "install", "--quiet", f"{wheel}[export]")
    hcflow = str(tmp_path / "venv/bin/hcflow")
    assert run(tmp_path, python, "-m", "hcflow_tf", "--version") == run(tmp_path, hcflow, "--version") == "hcflow 0.1.0\n"
    sets = [f"model.{size}" for size in TINY] + ["training.steps=2", "optimizer.halve_at=[]", "data.crop_size=32"]
    overrides = [part for value in sets for part in ("--set", value)]
    run(tmp_path, hcflow, "train", "--config", "quickstart", "--devices", "cpu", *overrides)
    picture = "import numpy as np, hcflow_tf.images.images as i; i.write_image('small.png', np.full((16, 20, 3), 90, np.uint8))"
    run(tmp_path, python, "-c", picture)
    for name, output in (("saved-model", "serving/hcflow"), ("tflite", "decoder.tflite"), ("onnx", "decoder.onnx")):
        run(tmp_path, hcflow, "export", name, "--model", "runs/quickstart", "--output", output)
        model = f"{output}/1" if name == "saved-model" else output
        run(tmp_path, hcflow, "upscale", "--model", model, "small.png", "-o", f"large_{name}")
        assert (tmp_path / f"large_{name}").exists()
