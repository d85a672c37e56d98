"""Other programs' images measured (evaluate --images), and reports side by side (report)."""

from __future__ import annotations

import csv
import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from tiny import photograph

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.metrics.consistency import consistency
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.metrics.report import VERSION, image_metrics
from hcflow_tf.support import cli


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """HR images a, a_b and c (whose size x2 does not divide), their LR images, and bicubic ones of another program."""
    monkeypatch.chdir(tmp_path)
    for number, (name, output) in enumerate({"a": "A_x2_net.png", "a_b": "a_b.png", "c": "cx2.png"}.items()):
        hr = photograph(40, 44 + (name == "c"), seed=number)
        lr = imresize(hr[:, :44], 0.5)
        write_image(f"hr/{name}.png", hr)
        write_image(f"lr/{name}x2.png", lr)
        write_image(f"sr/{output}", imresize(lr, 2))
    return tmp_path


def evaluate(*arguments):
    return cli.execute("evaluate", ["--images", "sr", "--hr", "hr", "--scale", "2", *arguments])


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_images_are_matched_and_measured(folders, capsys):
    assert evaluate("--lr", "lr", "--output", "report.json", "--metrics", "psnr", "brisque") == 0
    report = json.loads(pathlib.Path("report.json").read_text())
    assert report["model"] == "sr"
    assert report["settings"] == {"hr": "hr", "lr": "lr"}
    assert report["metrics_version"] == VERSION
    assert list(report["images"]) == ["a.png", "a_b.png", "c.png"]
    for name, output in (("a.png", "A_x2_net.png"), ("a_b.png", "a_b.png"), ("c.png", "cx2.png")):
        hr, sr = read_image(f"hr/{name}").rgb[:, :44], read_image(f"sr/{output}").rgb
        lr = read_image(f"lr/{name[:-4]}x2.png").rgb
        expected = image_metrics(sr, hr, 2, ["psnr", "brisque"]) | {
            "consistency": consistency(sr, hr, 2),
            "ntire_lr_psnr": psnr(imresize(sr, 0.5), lr),
        }
        assert report["images"][name] == pytest.approx(expected, abs=1e-12)
    assert report["mean"]["psnr_y"] == np.mean([figures["psnr_y"] for figures in report["images"].values()])
    assert "sr x2, 3 images against hr" in capsys.readouterr().out


def test_bicubic_images_have_the_figures_of_the_bicubic_model(folders):
    assert evaluate("--output", "images.json") == 0
    assert cli.execute("evaluate", ["--model", "bicubic", "--scale", "2", "--hr", "hr", "--output", "model.json"]) == 0
    images, model = (json.loads(pathlib.Path(f"{name}.json").read_text()) for name in ("images", "model"))
    expected = {key: value for key, value in model["mean"]["temperature"]["0.0"].items() if key != "lr_psnr"}
    assert images["mean"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: pathlib.Path("sr/cx2.png").unlink(), "sr: 1 of 3 HR images have no image here: c.png"),
        (lambda: write_image("sr/a2.png", photograph(40, 44)), "sr: 1 images belong to no HR image in hr: a2.png"),
        (lambda: write_image("sr/c_tau1.png", photograph(40, 44)), "sr: c_tau1.png and cx2.png both belong to c.png; keep one"),
    ],
)
def test_folders_that_do_not_match(change, message, folders, capsys):
    change()
    assert evaluate() == 1
    assert last_line(capsys) == f"hcflow evaluate: {message}"


def test_images_that_do_not_fit(folders, capsys):
    write_image("sr/cx2.png", photograph(40, 46))
    Image.open("sr/a_b.png").convert("L").save("sr/a_b.png")
    assert evaluate("--output", "report.json") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hcflow evaluate:")]
    assert errors == [
        "hcflow evaluate: sr/a_b.png: expected colours as in hr/a_b.png, found a gray image",
        "hcflow evaluate: sr/cx2.png: expected 44 x 40 or 45 x 40 pixels as hr/c.png, found 46 x 40",
    ]
    assert list(json.loads(pathlib.Path("report.json").read_text())["images"]) == ["a.png"]


def test_options_of_models_are_refused(folders, capsys):
    assert evaluate("--samples", "2") == 2
    assert "--samples is for --model" in last_line(capsys)
    assert evaluate("--output", "sr/a_b.png", "--overwrite") == 2
    assert "is an input" in last_line(capsys)


def write_report(name, images, **changes):
    report = {"model": name, "metrics_version": VERSION, "scale": 4, "images": images, "mean": {}} | changes
    pathlib.Path(f"{name}.json").write_text(json.dumps(report))
    return f"{name}.json"


@pytest.fixture
def reports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    temperatures = {"0.0": {"psnr_y": 30.0, "niqe": 7.0}, "0.8": {"psnr_y": 28.0, "niqe": 4.0, "diversity": 5.0}}
    first = write_report("plain", {"1.png": {"psnr_y": 28.0, "niqe": 6.0}, "2.png": {"psnr_y": 30.0, "niqe": 6.5}})
    second = write_report("flow", {name: {"psnr_y": 30.0, "temperature": temperatures} for name in ("1.png", "2.png")})
    return [first, second]


def test_table(reports, capsys):
    assert cli.execute("report", [*reports, "-o", "table.md"]) == 0
    table = pathlib.Path("table.md").read_text()
    assert capsys.readouterr().out == table
    assert table.splitlines() == [
        "| model         |     psnr_y ↑ |      niqe ↓ | diversity ↑ |",
        "| ------------- | -----------: | ----------: | ----------: |",
        "| plain         | <u>29.00</u> | <u>6.25</u> |           - |",
        "| flow, tau 0.0 |    **30.00** |        7.00 |           - |",
        "| flow, tau 0.8 |        28.00 |    **4.00** |        5.00 |",
    ]
    rows = list(csv.DictReader(pathlib.Path("table.csv").read_text().splitlines()))
    assert rows[0] == {"model": "plain", "images": "2", "psnr_y": "29.0", "niqe": "6.25", "diversity": ""}
    assert [row["model"] for row in rows] == ["plain", "flow, tau 0.0", "flow, tau 0.8"]


def test_order_names_and_spread(reports, capsys):
    assert cli.execute("report", [*reversed(reports), "--names", "HCFlow", "rival", "--spread", "-o", "table.md"]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[2:]] == ["HCFlow, tau 0.0", "HCFlow, tau 0.8", "rival"]
    assert lines[4] == ["rival", "<u>29.00</u> ± 1.41", "<u>6.25</u> ± 0.35", "-"]  # sqrt(2), sqrt(1/8)
    assert pathlib.Path("table.csv").read_text().splitlines()[0] == (
        "model,images,psnr_y,psnr_y_std,niqe,niqe_std,diversity,diversity_std"
    )


def test_equal_as_printed_is_equal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = {"one": 30.001, "two": 29.999, "three": 29.0, "four": 28.0}
    assert cli.execute("report", [write_report(name, {"1.png": {"psnr_y": value}}) for name, value in values.items()]) == 0
    cells = [line.split("|")[2].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert cells == ["**30.00**", "**30.00**", "<u>29.00</u>", "28.00"]


def test_a_mean_of_some_images_is_compared_with_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    some = {"1.png": {"psnr_y": 28.0, "niqe": 1.0}, "2.png": {"psnr_y": 30.0}}
    files = [write_report("s\nome", some)]
    files += [write_report(f"all{niqe}", {name: {"psnr_y": 31.0, "niqe": niqe} for name in some}) for niqe in (4.0, 5.0)]
    assert cli.execute("report", files) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["s ome", "<u>29.00</u>", "1.00 (of 1)"]
    assert [line[2] for line in lines[3:]] == ["**4.00**", "<u>5.00</u>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics_version": 99}, "other.json: holds metrics of version 99, this program's are 1; evaluate again"),
        ({"scale": 8}, "other.json: is of scale 8, plain.json of 4"),
        ({"images": {"1.png": {"psnr_y": 1.0}}}, "other.json: was not measured on the images of plain.json: 2.png in plain.json"),
        ({"images": {"1.png": {"psnr_y": "high"}}}, "other.json: is not a report of hcflow evaluate --output"),
        ({"images": []}, "other.json: is not a report of hcflow evaluate --output"),
        ({"model": ["a"]}, "other.json: is not a report of hcflow evaluate --output"),
        ({"scale": [4]}, "other.json: is not a report of hcflow evaluate --output"),
    ],
)
def test_reports_that_cannot_stand_beside_each_other(changes, message, reports, capsys):
    write_report("other", **{"images": {"1.png": {"psnr_y": 1.0}, "2.png": {"psnr_y": 1.0}}} | changes)
    assert cli.execute("report", ["plain.json", "other.json", "-o", "table.md"]) == 2
    assert message in last_line(capsys)
    assert not pathlib.Path("table.md").exists()


def test_what_report_refuses(reports, capsys):
    pathlib.Path("table.csv").write_text("precious")
    for arguments, message in (
        (["-o", "table.md"], "table.csv exists already"),
        (["-o", "table.csv"], "give a name that ends in .md"),
        (["-o", "plain.json", "--overwrite"], "is an input"),
        (["--names", "one"], "expected 2 names, one per report, got 1"),
        (["missing.json"], "missing.json: No such file"),
        (["table.csv"], "table.csv: is not JSON"),
    ):
        assert cli.execute("report", [*reports, *arguments]) == 2
        assert message in last_line(capsys)
    assert pathlib.Path("table.csv").read_text() == "precious"
