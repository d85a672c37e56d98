"""No command overwrites an input, whatever name it goes by, nor an existing file unless told to."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from tiny import photograph, tiny_model

from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.support import cli
from hcflow_tf.support.errors import UsageError
from hcflow_tf.support.files import check_targets
from hcflow_tf.weights.shipped import shipped_model
from hcflow_tf.weights.store import model_files, save_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """hr/0.png and hr/1.png; the working directory."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write_image(f"hr/{number}.png", photograph(32, 40, seed=number))
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model's directory."""
    directory = tmp_path_factory.mktemp("model")
    save_model(tiny_model("rescaling", scale=2), directory)
    return directory


COMMANDS = {
    "upscale": (["hr", "-o", "out"], "out/1.png"),
    "downscale": (["hr", "-o", "out"], "out/0.png"),
    "evaluate": (["--hr", "hr", "--output", "report.json"], "report.json"),
    "evaluate images": (["--hr", "hr", "--save-images", "out"], "out/1_tau0.0.png"),
    "compare": (["--hr", "hr", "-o", "picture.png"], "picture.png"),
    "compare table": (["--hr", "hr", "-o", "picture.png"], "picture.json"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_existing_files_stay_unless_told(case, folder, model, capsys):
    command, (arguments, target) = case.split()[0], COMMANDS[case]
    arguments = ["--model", str(model) if command == "compare" else "bicubic", *arguments]
    path = pathlib.Path(target)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"precious")
    assert cli.execute(command, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hcflow {command}: {target} exists already; choose another -")
    assert line.endswith("or replace it with --overwrite")
    assert path.read_bytes() == b"precious"
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, "hr"}
    assert cli.execute(command, [*arguments, "--overwrite"]) == 0
    assert path.read_bytes() != b"precious"


def test_samples_and_heat_map_are_checked_too(folder, model, capsys):
    arguments = ["--model", str(model), "hr/0.png", "-o", "out", "--samples", "2", "--temperature", "0.5", "--uncertainty"]
    for name in ("0_2.png", "0_uncertainty.png"):
        pathlib.Path("out").mkdir(exist_ok=True)
        pathlib.Path("out", name).write_bytes(b"precious")
    assert cli.execute("upscale", arguments) == 2
    assert "out/0_2.png (and 1 more) exists already" in capsys.readouterr().err
    pathlib.Path("out/0_2.png").unlink()
    assert cli.execute("upscale", arguments) == 2
    assert "out/0_uncertainty.png exists already" in capsys.readouterr().err


LINKS = {
    "hard link": lambda source, target: target.hardlink_to(source),
    "symbolic link": lambda source, target: target.symlink_to(source.resolve()),
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("command", "arguments", "target"),
    [
        ("upscale", ["hr", "-o", "out"], "out/1.png"),
        ("downscale", ["hr/1.png", "-o", "small.png"], "small.png"),
        ("evaluate", ["--hr", "hr", "--save-images", "out"], "out/0_tau0.0.png"),
        ("evaluate", ["--hr", "hr", "--output", "report.json"], "report.json"),
        ("compare", ["--hr", "hr", "-o", "picture.png"], "picture.png"),
    ],
)
def test_an_input_by_another_name_stays_whatever_is_told(command, arguments, target, link, folder, model, capsys):
    before = {path.name: path.read_bytes() for path in pathlib.Path("hr").iterdir()}
    pathlib.Path(target).parent.mkdir(exist_ok=True)
    LINKS[link](pathlib.Path("hr/1.png"), pathlib.Path(target))
    arguments = ["--model", str(model) if command == "compare" else "bicubic", *arguments, "--overwrite"]
    assert cli.execute(command, arguments) == 2
    assert f"hcflow {command}: {target} is an input and would be overwritten" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in pathlib.Path("hr").iterdir()} == before
    assert pathlib.Path(target).samefile("hr/1.png")


def test_a_link_to_the_folder_of_inputs_is_that_folder(folder, capsys):
    pathlib.Path("link").symlink_to("hr")
    assert cli.execute("upscale", ["--model", "bicubic", "hr", "-o", "link", "--overwrite"]) == 2
    assert "link/0.png is an input" in capsys.readouterr().err
    assert cli.execute("evaluate", ["--model", "bicubic", "--hr", "hr", "--save-images", "link", "--overwrite"]) == 2
    assert "is a folder of input images" in capsys.readouterr().err


def test_the_model_is_an_input(folder, model, capsys):
    weights = model / "weights.npz"
    before = weights.read_bytes()
    arguments = ["--model", str(model), "--hr", "hr", "--output", str(weights), "--overwrite"]
    assert cli.execute("evaluate", arguments) == 2
    assert f"{weights} is an input and would be overwritten; choose another --output" in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_all_files_of_a_shipped_or_exported_model_are_inputs(folder, capsys):
    for file in shipped_model("rescale-x4-compact-3").iterdir():
        before = file.read_bytes()
        arguments = ["--model", "rescale-x4-compact-3", "--hr", "hr", "--output", str(file), "--overwrite"]
        assert cli.execute("evaluate", arguments) == 2
        assert f"{file} is an input and would be overwritten" in capsys.readouterr().err
        assert file.read_bytes() == before
    assert pathlib.Path("a/b_encoder.onnx") in model_files("a/b.onnx")


def test_the_report_is_none_of_the_images(folder, capsys):
    arguments = ["--model", "bicubic", "--hr", "hr", "--save-images", "out", "--output", "out/../out/0_tau0.0.png"]
    assert cli.execute("evaluate", arguments) == 2
    assert "is one of the images of --save-images" in capsys.readouterr().err
    assert not pathlib.Path("out").exists()


def test_a_file_is_no_folder(folder, capsys):
    assert cli.execute("evaluate", ["--model", "bicubic", "--hr", "hr", "--output", "hr/0.png/a/x.json"]) == 2
    assert "hr/0.png/a/x.json cannot be written: hr/0.png is no folder; choose another --output" in capsys.readouterr().err


def test_saved_images_of_one_stem_are_told(folder, capsys):
    write_image("hr/0.jpg", photograph(32, 40))
    arguments = ["--model", "bicubic", "--hr", "hr", "--save-images", "out"]
    assert cli.execute("evaluate", arguments) == 2
    assert "hr/0.jpg and hr/0.png would both be written to out/0_tau0.0.png" in capsys.readouterr().err


def test_links_to_nowhere_and_folders_are_in_the_way(folder, capsys):
    pathlib.Path("out").mkdir()
    pathlib.Path("out/0.png").symlink_to("nowhere")
    assert cli.execute("upscale", ["--model", "bicubic", "hr", "-o", "out"]) == 2
    assert "out/0.png exists already" in capsys.readouterr().err
    assert cli.execute("upscale", ["--model", "bicubic", "hr", "-o", "out", "--overwrite"]) == 0
    assert not pathlib.Path("out/0.png").is_symlink()
    assert not pathlib.Path("out/nowhere").exists()
    pathlib.Path("folder.json").mkdir()
    assert cli.execute("evaluate", ["--model", "bicubic", "--hr", "hr", "--output", "folder.json", "--overwrite"]) == 2
    assert "folder.json is a folder and cannot be written as a file" in capsys.readouterr().err


def test_check_targets_knows_paths_that_cannot_exist():
    check_targets(["x" * 300, "a\0b"], inputs=["y" * 300, "a\0b"], overwrite=False)
    with pytest.raises(UsageError, match="exists already"):
        check_targets([__file__], inputs=[], overwrite=False)


def test_prepare_decodes_again_on_demand(folder, capsys):
    pathlib.Path("c.yaml").write_text("{model: {scale: 2}, data: {train: {hr: hr}, crop_size: 8, cache_dir: cache}}")
    assert cli.execute("prepare", ["--config", "c.yaml"]) == 0
    files = sorted(pathlib.Path("cache").iterdir())
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:16] + bytes(len(content) - 16))
    assert cli.execute("prepare", ["--config", "c.yaml"]) == 0
    assert not any(any(path.read_bytes()[16:]) for path in files)
    assert cli.execute("prepare", ["--config", "c.yaml", "--overwrite"]) == 0
    assert sorted(pathlib.Path("cache").iterdir()) == files
    contents = [np.frombuffer(path.read_bytes()[16:], np.uint8).tobytes() for path in files]
    assert all(any(content) for content in contents)
    assert {read_image(f"hr/{number}.png").rgb.tobytes() for number in (0, 1)} <= set(contents)


def test_quickstart_can_be_repeated(folder, model):
    """The Makefile's second command, twice."""
    makefile = (pathlib.Path(__file__).parents[1] / "Makefile").read_text()
    (line,) = [line for line in makefile.splitlines() if "-m hcflow_tf.compare" in line]
    arguments = line.split("hcflow_tf.compare")[1].replace("$(RUN)", "run").split()
    arguments[arguments.index("--model") + 1] = str(model)
    for _ in range(2):
        assert cli.execute("compare", [*arguments, "--hr", "hr"]) == 0
    assert set(json.loads(pathlib.Path("run/comparison.json").read_text())) == {"0.png", "1.png", "mean"}
