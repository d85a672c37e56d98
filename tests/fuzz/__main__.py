"""Runs every command on lying inputs: python -m fuzz FOLDER [--share 0.1], from the tests folder.

Prints one line per kind of input, then every failure; the last line is JSON. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import random
import resource
import sys
import time

import numpy as np

from fuzz import runs
from fuzz.configs import lying_configs, lying_model_configs
from fuzz.harness import Harness
from fuzz.images import lying_images
from fuzz.weights import lying_npz
from hcflow_tf.support.quiet import start_tensorflow
from hcflow_tf.weights.store import load_model, read_weights, save_model

MODEL = "super_resolution"
"""Folder of the tiny model whose files the weight files are made from."""


def main() -> int:
    """Runs the whole, or a share of it."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # as the commands have it
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="empty; becomes the working and the home directory")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of each kind, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, action="append", help="kinds of input")
    args = parser.parse_args()
    harness, counts = Harness(args.folder), {}
    _prepare()
    for kind, (make, run) in KINDS.items():
        if kind in (args.only or KINDS):
            begin, files = time.monotonic(), make(args.seed)
            names = sorted(random.Random(args.seed).sample(sorted(files), round(args.share * len(files))))
            with harness.limited_memory():
                run(harness, {name: files[name] for name in names})
            counts[kind] = len(names)
            print(f"{len(names)} {kind}, {time.monotonic() - begin:.0f} s", flush=True)
    for failure in harness.failures:
        print(f"FAILED {failure}")
    report = {"inputs": counts, "runs": harness.counts, "exit codes": harness.codes, "failures": len(harness.failures)}
    print(json.dumps(report | {"peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
    return 1 if harness.failures else 0


def _prepare() -> None:
    """What all runs need, and all libraries loaded, before the memory is limited."""
    start_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it remarks on many models in one process
    from tiny import photograph, tiny_model

    from hcflow_tf.images.images import write_image

    for task in (MODEL, "rescaling"):
        model = tiny_model(task, scale=2)
        save_model(model, task)
        model.sample(np.zeros((1, 4, 4, 3), np.float32), seed=0)
    write_image("good/good.png", photograph(84, 120))  # four times the size of most of the lying pictures
    write_image("warm.png", photograph(40, 40).astype(np.uint16))
    pathlib.Path("honest.yaml").write_text("{data: {train: {hr: nowhere}}}")


def _pth(seed: int) -> runs.Files:
    try:
        import torch  # noqa: F401
    except ImportError:
        print("no torch: .pth files are left out")
        return {}
    from fuzz.pickles import lying_pth
    from hcflow_tf.weights import released as weights

    model = load_model(MODEL)
    zeros = {name: np.zeros(variable.shape, np.float32) for name, variable in model.named_weights().items()}
    return lying_pth(weights.to_released(zeros, model.config), seed, mutated=250)


KINDS = {
    "configs": (lambda seed: lying_configs(seed, mutated=300, valued=450), runs.run_configs),
    "images": (lambda seed: lying_images(seed, mutated=450), runs.run_images),
    "model configs": (lambda seed: lying_model_configs(pathlib.Path(MODEL, "config.yaml").read_text()), runs.run_model_configs),
    "npz": (lambda seed: lying_npz(read_weights(pathlib.Path(MODEL, "weights.npz")), seed, mutated=250), runs.run_npz),
    "pth": (_pth, runs.run_pth),
}
"""Kind of input -> what makes the files, and what runs the commands on them."""

if __name__ == "__main__":
    sys.exit(main())
