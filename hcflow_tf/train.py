"""Train a model from a YAML config.

    hcflow train --config quickstart
    hcflow train --config sr_x4 --set data.train.hr=my/photos --run-dir runs/mine

The run directory is itself a model directory for all other commands. The same command goes on with an interrupted run.
"""

from __future__ import annotations

import argparse
import os
import pathlib

from hcflow_tf.config import load_config
from hcflow_tf.support import cli
from hcflow_tf.support.quiet import start_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a packaged config, such as sr_x4")
    parser.add_argument("--run-dir", type=pathlib.Path, help="where the run is kept (default: runs/NAME-OF-CONFIG)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="SECTION.KEY=VALUE", help="override keys of the config"
    )
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help="go on with a run in --run-dir, or refuse")
    parser.add_argument("--devices", default="auto", help="auto, gpu, gpu:N, cpu, or cpu:N")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    config = load_config(args.config, args.set)
    # By itself TensorFlow uses oneDNN on processors with AVX512_VNNI only; on others it makes a step faster, but decoding slower
    # (docs/performance.md), so that other commands leave it alone.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    start_tensorflow()
    from hcflow_tf.training.loop import train

    run_dir = args.run_dir or pathlib.Path("runs") / pathlib.Path(args.config).stem
    return train(config, run_dir, resume=args.resume, devices=args.devices)


if __name__ == "__main__":
    raise SystemExit(cli.execute("train"))
