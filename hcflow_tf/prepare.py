"""Does the one-time work of a training run ahead of it: checks every image, decodes it, computes its LR image
by MATLAB's bicubic, and keeps both in the disk cache (data.cache_dir), from which training starts at once.

Interrupted, or repeated after images were added, it goes on where it was; --overwrite decodes all of them anew. Training
does the same by itself when it finds images that are not in the cache.

  python -m hcflow_tf.prepare --config configs/sr_x4.yaml --set data.train.hr=[DIV2K_train_HR,Flickr2K_HR]
"""

from __future__ import annotations

import argparse
import time

from hcflow_tf.config import load_config
from hcflow_tf.support import cli
from hcflow_tf.support.errors import UsageError, one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("--config", required=True, metavar="C.yaml|NAME", help="the training config")
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a key of the config",
    )
    parser.add_argument("--overwrite", action="store_true", help="decode again what the cache holds already")


def run(args: argparse.Namespace) -> None:
    """Fills the cache and prints a table."""
    from hcflow_tf.data.cache import open_cache
    from hcflow_tf.data.dataset import TrainingData, training_pairs, validation_pairs

    config = load_config(args.config, args.overrides)
    if config.data.cache != "disk":
        raise UsageError(f"data.cache: {config.data.cache} leaves nothing to prepare; --set data.cache=disk")
    start = time.monotonic()
    cache = open_cache(config.data, config.model.scale)
    if args.overwrite:
        cache.forget(training_pairs(config))
    data = TrainingData(config, show_progress=True)
    validation = sum(1 for _ in validation_pairs(config))
    rows = {
        "training images": f"{len(data):,}",
        "HR megapixels": f"{data.report.pixels / 1e6:,.1f}",
        "left out": f"{len(data.report.bad):,}",
        "validation images": f"{validation:,}",
        "cache": f"{data.cache_bytes / 1e9:,.2f} GB in {config.data.cache_dir}",
        "time": f"{time.monotonic() - start:,.1f} s",
    }
    for name, value in rows.items():
        print(f"{name:18} {value}")
    for reason in data.report.bad:
        print(f"left out: {one_line(reason)}")


if __name__ == "__main__":
    raise SystemExit(cli.execute("prepare"))
