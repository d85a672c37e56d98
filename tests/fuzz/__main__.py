"""Runs every command on lying inputs: python -m fuzz FOLDER [--share 0.1], from the tests folder.

Prints one line per command, then every failure; the last line is JSON. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import random
import sys
import time

import numpy as np

from fuzz.configs import lying_configs
from fuzz.harness import Harness
from fuzz.images import lying_images
from fuzz.weights import lying_npz
from hcflow_tf.config import Config, dump_config
from hcflow_tf.errors import HCFlowError
from hcflow_tf.quiet import start_tensorflow
from hcflow_tf.store import load_model, save_model

MUTATED = {"images": 450, "configs": 300, "values": 450, "npz": 250, "pth": 200}
"""Damaged files of each kind, beside the structured lies."""


def main() -> int:
    """Runs the whole, or a share of it."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # as the commands have it
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="empty; becomes the working and the home directory")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of each kind that are run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(_PARTS), action="append", help="kinds of input")
    args = parser.parse_args()
    harness, inputs = Harness(args.folder), {}
    _prepare()
    for kind, part in _PARTS.items():
        if kind in (args.only or _PARTS):
            begin = time.monotonic()
            inputs[kind] = part(harness, args.seed, args.share)
            print(f"{inputs[kind]} {kind}, {time.monotonic() - begin:.0f} s", flush=True)
    for failure in harness.failures:
        print(f"FAILED {failure}")
    print(json.dumps({"inputs": inputs, "runs": harness.counts, "exit codes": harness.codes, "failures": len(harness.failures)}))
    return 1 if harness.failures else 0


def _prepare() -> None:
    """What all parts need, and all libraries loaded, before the memory is limited."""
    start_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it remarks on many models in one process
    from tiny import photograph, tiny_model

    from hcflow_tf.data.images import write_image

    for task in ("super_resolution", "rescaling"):
        model = tiny_model(task, scale=2)
        save_model(model, task)
        model.sample(np.zeros((1, 4, 4, 3), np.float32), seed=0)
    write_image("good/good.png", photograph(20, 24))
    write_image("warm.png", photograph(40, 40).astype(np.uint16))
    pathlib.Path("empty.yaml").write_text("{data: {train: {hr: nowhere}}}")


def _sampled(files: dict[str, bytes], seed: int, share: float) -> dict[str, bytes]:
    """A share of the files, each written to the working directory under its name's folder."""
    names = sorted(random.Random(seed).sample(sorted(files), max(1, round(share * len(files)))))
    return {name: files[name] for name in names}


def _images(harness: Harness, seed: int, share: float) -> int:
    harness.limit_memory()
    files = _sampled(lying_images(seed, MUTATED["images"]), seed, share)
    bicubic = ["--model", "bicubic", "--scale", "4"]
    for number, (name, content) in enumerate(files.items()):
        folder = pathlib.Path(f"images/{number // 8}")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_bytes(content)
        one = pathlib.Path("one")
        one.mkdir(exist_ok=True)
        (one / name).hardlink_to(path)
        options = {0: ["-o", "up"], 1: ["-o", "up.jpg"], 2: ["-o", "up", "--bits", "auto"]}[number % 3]
        harness.command("upscale", [*bicubic, str(path), *options], inputs=[name], output=options[1])
        harness.command("downscale", [*bicubic, str(path), "-o", "down"], inputs=[name], output="down")
        keep = ["--output", "figures/report.json", "--save-images", "figures/images"]
        harness.command("evaluate", [*bicubic, "--hr", "one", *keep], inputs=[name, "one"], output="figures")
        (one / name).unlink()
    _scan(harness, files)
    _with_models(harness, files)
    return len(files)


def _scan(harness: Harness, files: dict[str, bytes]) -> None:
    """The scan of `prepare`, which caches what it can, and of `train`, which finds nothing large enough."""
    small = ["model.scale=2", "data.crop_size=8", "data.cache_dir=cache", "data.max_bad_share=1.0"]
    large = ["--set", "data.crop_size=16000", "--set", "data.cache=none", "--devices", "cpu"]
    for folder in sorted(pathlib.Path("images").iterdir()):
        names = [path.name for path in folder.iterdir()]
        argv = ["--config", "empty.yaml", "--set", f"data.train.hr={folder}", *small]
        harness.command("prepare", argv, inputs=[*names, str(folder)])
        if int(folder.name) % 4 == 0:
            argv = ["--config", "empty.yaml", "--run-dir", "run", "--set", f"data.train.hr={folder}", *large]
            harness.command("train", argv, inputs=[*names, str(folder)])


def _with_models(harness: Harness, files: dict[str, bytes]) -> None:
    """A flow takes what a resampling filter takes: every eighth input, all in one batch."""
    names = list(files)[::8]
    paths = [str(path) for path in sorted(pathlib.Path("images").rglob("*")) if path.name in names and path.is_file()]
    for task in ("super_resolution", "rescaling"):
        for command in ("upscale", "downscale"):
            # One process of tracing for all, so one run for all; files that share a stem would share an output.
            unique = list({pathlib.Path(path).stem: path for path in paths}.values())
            harness.command(command, ["--model", task, *unique, "-o", "flow"], inputs=names, output="flow")


def _configs(harness: Harness, seed: int, share: float) -> int:
    pathlib.Path("loop").symlink_to("loop")
    files = _sampled(lying_configs(seed, MUTATED["configs"], MUTATED["values"]), seed, share)
    for number, (name, content) in enumerate(files.items()):
        pathlib.Path(name).write_bytes(content)
        folder = "good" if number % 2 else "nowhere"
        argv = ["--config", name, "--set", f"data.train.hr={folder}"]
        names = [name, folder, "--set", "data.", "data:"]  # a value that only the scan can refuse is named by its key
        harness.command("prepare", argv, inputs=names)
        if number % 5 == 0:
            harness.command(
                "train", ["--config", name, "--run-dir", "run", "--set", "data.train.hr=nowhere"], inputs=[*names, "run"]
            )
        pathlib.Path(name).unlink()
    return len(files)


def _npz(harness: Harness, seed: int, share: float) -> int:
    from hcflow_tf.store import read_weights

    files = lying_npz(read_weights("super_resolution/weights.npz"), seed, MUTATED["npz"])
    files, model = _sampled(files, seed, share), pathlib.Path("lying_model")
    model.mkdir()
    (model / "config.yaml").write_bytes(pathlib.Path("super_resolution/config.yaml").read_bytes())
    harness.limit_memory()
    loaded = []
    for name, content in files.items():
        (model / "weights.npz").write_bytes(content)
        harness.command("info", ["--model", str(model)], inputs=["weights.npz"])
        with harness.watched("load_model", f"load_model of {name}"):
            try:
                load_model(model)
                loaded.append(content)
            except HCFlowError as error:
                if "weights.npz" not in str(error):
                    harness.fail(name, f"the file is not named: {error}")
    for content in [*loaded[:6], next(iter(files.values()))]:
        (model / "weights.npz").write_bytes(content)
        argv = ["--model", str(model), "good/good.png", "-o", "flow"]
        harness.command("upscale", argv, inputs=["weights.npz", str(model), "good.png"], output="flow")
    return len(files) + _model_configs(harness, model, seed, share)


def _model_configs(harness: Harness, model: pathlib.Path, seed: int, share: float) -> int:
    """Honest weights beside a config that lies about them."""
    (model / "weights.npz").write_bytes(pathlib.Path("super_resolution/weights.npz").read_bytes())
    honest = Config(model={"scale": 2, "main_steps": 2}).model_dump()["model"]
    values = (0, 1, 3, 7, 16, 1000, 10**6, 2**31 - 1, 2**31, 10**30, -1, 1.5, "4", True, None, [1], [1, 2], [10**6, 1])
    texts = [f"model:\n  {key}: {value}\n".encode() for key in honest for value in values]
    texts += [dump_config(Config()).encode(), b"format_version: 1\n"]
    files = _sampled({str(number): text for number, text in enumerate(texts)}, seed, share)
    base = pathlib.Path("super_resolution/config.yaml").read_text()
    for text in files.values():
        key, _, value = text.decode().partition("\n")[2].strip().partition(": ")
        lines = [f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in base.splitlines()]
        (model / "config.yaml").write_text("\n".join(line for line in lines if not line.startswith("  - ")) + "\n")
        harness.command(
            "upscale", ["--model", str(model), "nowhere.png", "good/good.png", "-o", "flow"], inputs=[str(model), "nowhere"]
        )
    return len(files)


def _pth(harness: Harness, seed: int, share: float) -> int:
    try:
        import torch  # noqa: F401
    except ImportError:
        print("no torch: .pth files are left out")
        return 0
    from fuzz.pickles import lying_pth
    from hcflow_tf import weights

    model = load_model("super_resolution")
    state = {}
    for name, variable in model.named_weights().items():
        released = weights.released_name(name, model.config)
        state[released] = np.zeros(weights.released_shape(name, tuple(variable.shape), released), np.float32)
    files = _sampled(lying_pth(state, seed, MUTATED["pth"]), seed, share)
    harness.limit_memory()
    for name, content in files.items():
        pathlib.Path(name).write_bytes(content)
        harness.command("convert", [name, "-o", "converted"], inputs=[name], output="converted")
        pathlib.Path(name).unlink()
    return len(files)


_PARTS = {"configs": _configs, "images": _images, "npz": _npz, "pth": _pth}

if __name__ == "__main__":
    sys.exit(main())
