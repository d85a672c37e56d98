"""Which commands a lying input goes through, and what must be named if one of them refuses it."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping

from fuzz.harness import Harness
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights.store import load_model

Files = Mapping[str, bytes]
BICUBIC = ["--model", "bicubic", "--scale", "4"]


def run_images(harness: Harness, files: Files) -> None:
    """Every image through `upscale`, `downscale`, `evaluate`, and in folders of eight through the scan; some through models."""
    hr, lr, images = (pathlib.Path(name) for name in ("one", "lr", "images"))
    for folder in (hr, lr, images):
        folder.mkdir()
    for number, (name, content) in enumerate(files.items()):
        path = images / str(number // 8) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        options = (["-o", "up"], ["-o", "up.jpg"], ["-o", "up", "--bits", "auto"])[number % 3]
        harness.command("upscale", [*BICUBIC, str(path), *options], inputs=[name], output=options[1])
        harness.command("downscale", [*BICUBIC, str(path), "-o", "down"], inputs=[name], output="down")
        _evaluate(harness, path, hr, lr)
    _scan(harness, images)
    some = set(list(files)[::8])
    _with_models(harness, [path for path in sorted(images.rglob("*")) if path.name in some])


def _evaluate(harness: Harness, path: pathlib.Path, hr: pathlib.Path, lr: pathlib.Path) -> None:
    """As the HR image of a folder, and as the LR image beside an honest HR image."""
    keep = ["--output", "figures/report.json", "--save-images", "figures/images"]
    as_hr, as_lr = hr / path.name, lr / f"good{path.suffix}"
    as_hr.hardlink_to(path)
    harness.command("evaluate", [*BICUBIC, "--hr", str(hr), *keep], inputs=[path.name, str(hr)], output="figures")
    as_lr.hardlink_to(path)
    harness.command("evaluate", [*BICUBIC, "--hr", "good", "--lr", str(lr), *keep], inputs=[str(lr)], output="figures")
    as_hr.unlink()
    as_lr.unlink()


def _scan(harness: Harness, images: pathlib.Path) -> None:
    """The scan of `prepare`, which caches what it can, and of `train`, which finds nothing large enough."""
    small = ["model.scale=2", "data.crop_size=8", "data.cache_dir=cache", "data.max_bad_share=1.0"]
    large = ["--set", "data.crop_size=16000", "--set", "data.cache=none", "--devices", "cpu"]
    for folder in sorted(images.iterdir()):
        names = [path.name for path in folder.iterdir()]
        argv = ["--config", "honest.yaml", "--set", f"data.train.hr={folder}", *small]
        harness.command("prepare", argv, inputs=[*names, str(folder)], output="cache")
        if int(folder.name) % 4 == 0:
            argv = ["--config", "honest.yaml", "--run-dir", "run", "--set", f"data.train.hr={folder}", *large]
            harness.command("train", argv, inputs=[*names, str(folder)])


def _with_models(harness: Harness, paths: list[pathlib.Path]) -> None:
    """A flow takes what a resampling filter takes; all in one batch, because a model takes seconds to be compiled."""
    paths = list({path.stem: path for path in paths}.values())  # no two with the same output
    for task in ("super_resolution", "rescaling"):
        for command in ("upscale", "downscale"):
            argv = ["--model", task, *map(str, paths), "-o", "flow"]
            harness.command(command, argv, inputs=[path.name for path in paths], output="flow")


def run_configs(harness: Harness, files: Files) -> None:
    """Every config through `prepare`, with an honest folder of images or a missing one; some through `train`."""
    pathlib.Path("loop").symlink_to("loop")
    for number, (name, content) in enumerate(files.items()):
        pathlib.Path(name).write_bytes(content)
        folder = "good" if number % 2 else "nowhere"
        # A value that only the scan can refuse is named by its key.
        named = [name, folder, "--set", "data.", "data:"]
        harness.command("prepare", ["--config", name, "--set", f"data.train.hr={folder}"], inputs=named)
        if number % 5 == 0:
            argv = ["--config", name, "--run-dir", "run", "--set", "data.train.hr=nowhere"]
            harness.command("train", argv, inputs=[*named, "nowhere", "run"])
        pathlib.Path(name).unlink()


def run_npz(harness: Harness, files: Files) -> None:
    """Every weight file beside an honest config through `info` and `load_model`; those that pass through `upscale`."""
    model = pathlib.Path(shutil.copytree("super_resolution", "lying_weights"))
    passed = []
    for name, content in files.items():
        (model / "weights.npz").write_bytes(content)
        harness.command("info", ["--model", str(model)], inputs=["weights.npz"])
        with harness.watched("load_model", f"load_model of {name}"):
            try:
                load_model(model)
                passed.append(name)
            except HCFlowError as error:
                if "weights.npz" not in str(error):
                    harness.fail(name, f"the file is not named: {error}")
    for name in passed[:10]:
        (model / "weights.npz").write_bytes(files[name])
        argv = ["--model", str(model), "good/good.png", "-o", "flow"]
        harness.command("upscale", argv, inputs=["weights.npz", str(model), "good.png"], output="flow")


def run_model_configs(harness: Harness, files: Files) -> None:
    """Every config beside honest weights through `upscale`, where it must load before the missing image is noticed."""
    model = pathlib.Path(shutil.copytree("super_resolution", "lying_config"))
    for content in files.values():
        (model / "config.yaml").write_bytes(content)
        harness.command("upscale", ["--model", str(model), "good/good.png", "-o", "flow"], inputs=[str(model)], output="flow")


def run_pth(harness: Harness, files: Files) -> None:
    """Every weight file through `convert`."""
    for name, content in files.items():
        pathlib.Path(name).write_bytes(content)
        harness.command("convert", [name, "-o", "converted"], inputs=[name], output="converted")
        pathlib.Path(name).unlink()
