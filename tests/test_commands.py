"""The commands evaluate, upscale, downscale and info: what they write, what they say about bad input, exit codes."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import photograph, tiny_model

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.metrics.report import image_metrics
from hcflow_tf.runtimes.bicubic import BicubicRuntime
from hcflow_tf.support import cli
from hcflow_tf.weights.store import save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One tiny model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for task in ("super_resolution", "rescaling"):
        save_model(tiny_model(task, scale=2), folder / task)
    return folder


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Three HR images and their bicubic LR images, and the working directory beside them."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        hr = photograph(32 + 4 * number, 44, seed=number)
        write_image(tmp_path / f"hr/{number}.png", hr)
        write_image(tmp_path / f"lr/{number}.png", imresize(hr, 0.25))
    return tmp_path


def names(folder):
    return sorted(path.name for path in pathlib.Path(folder).rglob("*") if path.is_file())


def one_line(capsys, command):
    """The one line on stderr, without the progress lines."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"hcflow {command}:")]
    assert len(lines) == 1, lines
    return lines[0]


# What they do.


def test_evaluate_bicubic(folders, capsys):
    arguments = ["--model", "bicubic", "--hr", "hr", "--lr", "lr", "--output", "out/report.json", "--save-images", "sr"]
    assert cli.execute("evaluate", arguments) == 0
    report = json.loads(pathlib.Path("out/report.json").read_text())
    assert report["settings"] == {
        "hr": "hr", "lr": "lr", "decodes_its_own_lr": False, "samples": 1, "seed": 0, "tile": "auto", "guard": True,
        "runtime": "auto", "precision": "float32", "refine": 0,
    }  # fmt: skip
    assert (report["model"], report["scale"]) == ("bicubic", 4)
    assert list(report["images"]) == ["0.png", "1.png", "2.png"]
    expected = {}
    for name, figures in report["images"].items():
        sr = imresize(read_image(f"lr/{name}").rgb, 4)
        expected[name] = image_metrics(sr, read_image(f"hr/{name}").rgb, 4)
        assert {key: figures[key] for key in expected[name]} == pytest.approx(expected[name], rel=1e-12)
        assert figures["temperature"]["0.0"]["lr_psnr"] == 100  # the true LR image is bicubic, too
        np.testing.assert_array_equal(read_image(f"sr/{name[0]}_tau0.0.png").rgb, sr)
    mean = np.mean([figures["psnr_y"] for figures in expected.values()])
    assert report["mean"]["psnr_y"] == report["mean"]["temperature"]["0.0"]["psnr_y"] == pytest.approx(mean)
    captured = capsys.readouterr()
    assert f"{mean:.2f}" in captured.out.splitlines()[-1]
    assert "[3/3] 2.png" in captured.err


@pytest.mark.parametrize("dataset", ["Set5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Set14", "BSD100"))])
def test_evaluate_reproduces_the_papers_bicubic_row(dataset, shared, tmp_path):
    reference = json.loads((shared / "fixtures/bicubic_x4_metrics.json").read_text())[dataset]
    folder, output = shared / f"data/eval/{dataset}/x4", tmp_path / "report.json"
    arguments = ["--model", "bicubic", "--hr", f"{folder}/HR", "--lr", f"{folder}/LR", "--output", str(output)]
    assert cli.execute("evaluate", arguments) == 0
    report = json.loads(output.read_text())
    rows = {**{f"{name}.png": values for name, values in reference["images"].items()}, None: reference["mean"]}
    assert len(report["images"]) == len(rows) - 1
    for name, values in rows.items():
        figures = report["mean"] if name is None else report["images"][name]
        for column, value in zip(reference["columns"], values, strict=True):
            assert figures[column] == pytest.approx(value, abs=1e-3 if column.startswith("psnr") else 1e-4), (name, column)


def test_evaluate_super_resolution(folders, models, capsys):
    arguments = ["--model", f"{models}/super_resolution", "--hr", "hr", "--samples", "2", "--output", "report.json"]
    assert cli.execute("evaluate", [*arguments, "--temperature", "0", "0.8", "--save-images", "sr"]) == 0
    report = json.loads(pathlib.Path("report.json").read_text())
    cold, warm = (report["mean"]["temperature"][tau] for tau in ("0.0", "0.8"))
    common = {"psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y", "consistency", "lr_psnr", "bits_per_dim"}
    assert set(cold) == common
    assert set(warm) == common | {"diversity"}
    assert warm["diversity"] > 0
    assert warm["bits_per_dim"] == cold["bits_per_dim"] > 0
    assert names("sr")[:3] == ["0_tau0.0.png", "0_tau0.8_1.png", "0_tau0.8_2.png"]
    draws = [image_metrics(read_image(f"sr/0_tau0.8_{i}.png").rgb, read_image("hr/0.png").rgb, 2) for i in (1, 2)]
    expected = np.mean([draw["psnr_y"] for draw in draws])
    assert report["images"]["0.png"]["temperature"]["0.8"]["psnr_y"] == pytest.approx(expected)
    assert capsys.readouterr().out.splitlines()[-1].startswith("0.8 ")


def test_evaluate_without_likelihood(folders, models):
    arguments = ["--model", f"{models}/super_resolution", "--hr", "hr", "--temperature", "0", "--output", "report.json"]
    assert cli.execute("evaluate", [*arguments, "--no-likelihood"]) == 0
    figures = json.loads(pathlib.Path("report.json").read_text())["mean"]["temperature"]["0.0"]
    assert set(figures) == {"psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y", "consistency", "lr_psnr"}


def test_evaluate_rescaling_equals_downscale_and_upscale(folders, models):
    model = f"{models}/rescaling"
    assert cli.execute("evaluate", ["--model", model, "--hr", "hr", "--output", "report.json", "--save-images", "saved"]) == 0
    assert cli.execute("downscale", ["--model", model, "hr", "-o", "small"]) == 0
    assert cli.execute("upscale", ["--model", model, "small", "-o", "restored"]) == 0
    report = json.loads(pathlib.Path("report.json").read_text())
    for name, figures in report["images"].items():
        restored = read_image(f"restored/{name}").rgb
        np.testing.assert_array_equal(restored, read_image(f"saved/{name[0]}_tau0.0.png").rgb)
        expected = image_metrics(restored, read_image(f"hr/{name}").rgb, 2)
        assert {key: figures[key] for key in expected} == pytest.approx(expected)
    assert set(report["mean"]["temperature"]["0.0"]) == {"psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y", "lr_psnr"}


def test_upscale_samples_are_reproducible(folders, models):
    arguments = [
        "--model",
        f"{models}/super_resolution",
        "lr/0.png",
        "lr/1.png",
        "--samples",
        "2",
        "--seed",
        "7",
        "--uncertainty",
    ]
    assert cli.execute("upscale", [*arguments, "-o", "a"]) == 0
    assert cli.execute("upscale", [*arguments, "-o", "b"]) == 0
    assert names("a") == [f"{n}_{kind}.png" for n in (0, 1) for kind in (1, 2, "uncertainty")]
    assert all((pathlib.Path("a") / name).read_bytes() == (pathlib.Path("b") / name).read_bytes() for name in names("a"))
    assert pathlib.Path("a/0_1.png").read_bytes() != pathlib.Path("a/0_2.png").read_bytes()


def test_output_may_be_a_file_and_inputs_folders(folders):
    assert cli.execute("upscale", ["--model", "bicubic", "lr/0.png", "-o", "new/x.webp"]) == 0
    assert read_image("new/x.webp").rgb.shape == (32, 44, 3)
    assert cli.execute("upscale", ["--model", "bicubic", "--scale", "2", "lr", "hr/0.png", "-o", "many", "--tile", "16"]) == 0
    assert names("many") == ["0.png", "0_2.png", "1.png", "2.png"]
    assert read_image("many/0_2.png").rgb.shape == (64, 88, 3)


def test_16_bit_output(folders):
    assert cli.execute("upscale", ["--model", "bicubic", "lr/0.png", "-o", "deep.png", "--bits", "16"]) == 0
    assert read_image("deep.png").bit_depth == 16


def test_info(models, capsys):
    assert cli.execute("info", ["--model", f"{models}/rescaling"]) == 0
    out = capsys.readouterr().out
    model = tiny_model("rescaling", scale=2)
    assert "rescaling x2" in out
    assert f"{model.count_params():,}" in next(line for line in out.splitlines() if line.startswith("total"))
    assert "receptive field" in out
    assert cli.execute("info", ["--model", "bicubic"]) == 0
    assert "super_resolution x4: bicubic" in capsys.readouterr().out


def test_info_of_a_config_equals_that_of_its_model(models, capsys):
    assert cli.execute("info", ["--model", f"{models}/rescaling"]) == 0
    expected = capsys.readouterr().out
    assert cli.execute("info", ["--config", f"{models}/rescaling/config.yaml"]) == 0
    assert capsys.readouterr().out == expected


# Bad input: one line, the right exit code, nothing lost.


def huge_png(path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(20))


def damage(kind):
    path = pathlib.Path("lr/1.png")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-60])
    elif kind == "no image":
        path.write_bytes(b"not an image")
    elif kind == "zero size":
        path.write_bytes(b"")
    elif kind == "huge":
        huge_png(path)


@pytest.mark.parametrize("kind", ["truncated", "no image", "zero size", "huge"])
@pytest.mark.parametrize("command", ["upscale", "downscale", "evaluate"])
def test_a_bad_image_is_named_and_the_others_are_done(command, kind, folders, capsys):
    damage(kind)
    arguments = ["lr", "-o", "out"]
    if command == "evaluate":
        arguments = ["--hr", "hr", "--lr", "lr", "--save-images", "out", "--output", "report.json"]
    assert cli.execute(command, ["--model", "bicubic", *arguments]) == 1
    assert "lr/1.png" in one_line(capsys, command)
    assert [name[0] for name in names("out")] == ["0", "2"]
    if command == "evaluate":
        report = json.loads(pathlib.Path("report.json").read_text())
        assert list(report["images"]) == ["0.png", "2.png"]
        assert "lr/1.png" in report["failed"][0]


@pytest.mark.parametrize("weights_are_bad", [False, True])
def test_a_picture_without_a_finite_result_is_named_and_the_others_are_measured(weights_are_bad, folders, capsys, monkeypatch):
    decode, second = BicubicRuntime.decode, imresize(photograph(36, 44, seed=1), 0.25).shape

    def exploding(self, lr, latents=()):
        return decode(self, lr, latents) * (np.inf if weights_are_bad or lr.shape[1:] == second else 1)

    monkeypatch.setattr(BicubicRuntime, "decode", exploding)
    assert cli.execute("evaluate", ["--model", "bicubic", "--hr", "hr", "--lr", "lr", "--output", "report.json"]) == 1
    if weights_are_bad:  # then no picture can be measured
        assert "so it does of a gray picture" in one_line(capsys, "evaluate") and not pathlib.Path("report.json").exists()
    else:
        assert "1.png: bicubic computes values that are not finite: the picture is" in one_line(capsys, "evaluate")
        assert list(json.loads(pathlib.Path("report.json").read_text())["images"]) == ["0.png", "2.png"]


def test_missing_input_is_named_and_the_others_are_done(folders, capsys):
    pathlib.Path("empty").mkdir()
    assert cli.execute("upscale", ["--model", "bicubic", "nowhere", "lr", "empty", "-o", "out"]) == 1
    error = capsys.readouterr().err
    assert "hcflow upscale: nowhere: no such file or folder\n" in error
    assert "hcflow upscale: empty: no images in this folder" in error
    assert names("out") == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hr", "nowhere"], "nowhere: no such folder"),
        (["--hr", "empty"], "empty: no images in this folder"),
        (["--hr", "hr/0.png"], "hr/0.png: is a file, not a folder"),
        (["--hr", "hr", "--lr", "nowhere"], "nowhere: no such folder"),
        (["--hr", "hr", "--lr", "unpaired"], "3 HR images have no partner in unpaired: 0.png, 1.png, 2.png"),
        (["--hr", "hr", "--lr", "lr", "--scale", "2"], "is not 1/2 of its HR image"),
    ],
)
def test_evaluate_refuses_folders_that_do_not_fit(arguments, message, folders, capsys):
    pathlib.Path("empty").mkdir()
    write_image("unpaired/other.png", photograph(8, 8))
    assert cli.execute("evaluate", ["--model", "bicubic", *arguments]) == 1
    assert message in one_line(capsys, "evaluate")


@pytest.mark.parametrize("command", ["upscale", "downscale", "evaluate", "info"])
def test_no_such_model(command, folders, capsys):
    arguments = {"evaluate": ["--hr", "hr"], "info": []}.get(command, ["lr", "-o", "out"])
    assert cli.execute(command, ["--model", "nowhere", *arguments]) == 1
    assert "no model at nowhere" in one_line(capsys, command)


def test_model_of_another_version(folders, models, capsys):
    config = yaml.safe_load((models / "rescaling/config.yaml").read_text()) | {"format_version": 99}
    pathlib.Path("model").mkdir()
    pathlib.Path("model/config.yaml").write_text(yaml.safe_dump(config))
    pathlib.Path("model/weights.npz").write_bytes((models / "rescaling/weights.npz").read_bytes())
    assert cli.execute("upscale", ["--model", "model", "lr", "-o", "out"]) == 1
    assert "format_version is 99" in one_line(capsys, "upscale")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("upscale", ["lr/0.png", "-o", "lr/0.png"], "lr/0.png is an input and would be overwritten"),
        ("upscale", ["lr", "-o", "lr"], "lr/0.png is an input and would be overwritten"),
        ("downscale", ["hr", "-o", "hr"], "hr/0.png is an input and would be overwritten"),
        ("upscale", ["lr", "-o", "out.gif"], "-o out.gif: .gif files are not written; use one of .png, .jpg"),
        ("upscale", ["lr", "-o", "out.heic"], ".heic files are not written"),
        ("upscale", ["lr", "-o", "out", "--outscale", "2", "--size", "9x9"], "give one of them"),
        ("upscale", ["lr", "-o", "out", "--device", "gpu:99"], "--device gpu:99: there is no such device here; there is cpu"),
        ("upscale", ["lr", "-o", "out", "--device", "tpu"], "expected auto, cpu or gpu:N"),
        ("downscale", ["hr", "-o", "-", "--json"], "standard output takes one image"),
        ("upscale", ["lr", "-o", "out.png"], "one file cannot hold 3 images"),
        ("upscale", ["lr", "-o", "notes.txt"], "is a file; give a folder"),
        ("upscale", ["lr/0.png", "-o", "out", "--temperature", "0.5"], "takes no latents"),
        ("upscale", ["lr/0.png", "-o", "out", "--uncertainty"], "give --samples 2 or more"),
        ("upscale", ["lr/0.png", "-o", "out", "--tile", "3"], "give at least 16"),
        ("downscale", ["hr/0.png", "-o", "out.jpg"], "LR images are PNG"),
        ("evaluate", ["--hr", "hr", "--save-images", "hr"], "is a folder of input images"),
        ("evaluate", ["--hr", "hr", "--temperature", "0.8"], "takes no latents"),
    ],
)
def test_wrong_usage(command, arguments, message, folders, capsys):
    pathlib.Path("notes.txt").touch()
    before = {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()}
    assert cli.execute(command, ["--model", "bicubic", *arguments]) == 2
    assert message in one_line(capsys, command)
    assert {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("option", [["--tile", "big"], ["--samples", "0"], ["--temperature", "-1"], ["--seed", "x"]])
def test_bad_option_values(option, folders):
    with pytest.raises(SystemExit) as caught:
        cli.execute("upscale", ["--model", "bicubic", "lr", "-o", "out", *option])
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["upscale", "downscale"])
def test_full_disk_leaves_no_half_file(command, folders, capsys, monkeypatch):
    pathlib.Path("out").mkdir()
    pathlib.Path("out/0.png").write_bytes(b"earlier")
    save = Image.Image.save

    def save_until_full(image, path, *arguments, **options):
        save(image, path, *arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save_until_full)
    assert cli.execute(command, ["--model", "bicubic", "lr", "-o", "out", "--overwrite"]) == 1
    assert "cannot write out/0.png: No space left on device" in one_line(capsys, command)
    assert names("out") == ["0.png"]
    assert pathlib.Path("out/0.png").read_bytes() == b"earlier"


def test_compare_writes_table_and_picture(folders, models, capsys):
    assert cli.execute("compare", ["--model", str(models / "rescaling"), "--hr", "hr", "-o", "out/picture.png"]) == 0
    rows = json.loads(pathlib.Path("out/picture.json").read_text())
    assert list(rows) == ["0.png", "1.png", "2.png", "mean"]
    for name, row in rows.items():
        assert row["gain_psnr_y"] == pytest.approx(row["model_psnr_y"] - row["bicubic_psnr_y"]), name
    hr = read_image("hr/0.png").rgb
    restored = imresize(imresize(hr, 0.5), 2)
    assert rows["0.png"]["bicubic_psnr_y"] == pytest.approx(image_metrics(restored, hr, 2)["psnr_y"], abs=1e-9)
    assert "gain dB" in capsys.readouterr().out
    picture = read_image("out/picture.png").rgb
    np.testing.assert_array_equal(picture[6:38, 6 + 3 * 230 : 6 + 3 * 230 + 44], hr)  # the last panel is the original


def test_compare_goes_on_after_a_bad_image(folders, models, capsys):
    pathlib.Path("hr/1.png").write_bytes(b"")
    assert cli.execute("compare", ["--model", str(models / "rescaling"), "--hr", "hr", "-o", "out/picture.png"]) == 1
    assert list(json.loads(pathlib.Path("out/picture.json").read_text())) == ["0.png", "2.png", "mean", "failed"]
    assert "hr/1.png: the file is empty" in capsys.readouterr().err
    for name in "02":
        pathlib.Path(f"hr/{name}.png").write_bytes(b"")
    assert cli.execute("compare", ["--model", str(models / "rescaling"), "--hr", "hr", "-o", "out/none.png"]) == 1
    assert not pathlib.Path("out/none.png").exists()


def test_an_error_is_the_only_line_on_stderr(folders, models):
    weights = folders / "model/weights.npz"
    save_model(tiny_model("rescaling", scale=2), folders / "model")
    weights.write_bytes(weights.read_bytes()[:1000])
    command = [sys.executable, "-m", "hcflow_tf.upscale", "--model", "model", "lr", "-o", "out"]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("hcflow upscale: cannot read weights")
    assert len(done.stderr.splitlines()) == 1, done.stderr
