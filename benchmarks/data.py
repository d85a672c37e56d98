"""How many crops per second the training data give, alone: nothing else is computed.

    python benchmarks/data.py --hr DIR [--crop 160] [--batch 16] [--seconds 5] [--rounds 3]

For each cache (none: decoded, and shrunk by bicubic, for every crop; disk: memory-mapped arrays; memory), batches are drawn as
training draws them, after one has warmed it up. Crops per second are wall time; per processor second says what a core gives.
With --png the folder's images are first written as PNG files, and their LR images too.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed

from hcflow_tf.config import Config, parse_config
from hcflow_tf.data.dataset import TrainingData
from hcflow_tf.data.pairs import Pair, find_images, load_pair
from hcflow_tf.images.images import write_image
from hcflow_tf.metrics.table import format_table

SCALE = 4


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", required=True, type=pathlib.Path, help="folder of HR images")
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--png", action="store_true", help="measure PNG folders, HR and LR, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hcflow-") as name:
        folder = pathlib.Path(name)
        sources = {cache: (config(args, folder, cache, args.hr), cache) for cache in ("none", "disk", "memory")}
        if args.png:
            write_pngs(args.hr, folder)
            sources["none, PNG folders"] = config(args, folder, "none", folder / "hr", folder / "lr"), "none"
        batches = {source: iter(TrainingData(of).dataset(0, args.batch)) for source, (of, _) in sources.items()}
        for stream in batches.values():
            next(stream)
        rounds = [{source: measure(stream, args) for source, stream in batches.items()} for _ in range(args.rounds)]
    lines = []
    for source in sources:
        wall, processor = zip(*(figures[source] for figures in rounds), strict=True)
        cells = [f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})" for rates in (wall, processor)]
        lines.append([source, *cells])
    print(f"{args.hr}: crops of {args.crop}, batches of {args.batch}, {args.rounds} rounds of {args.seconds:g} s in turn")
    print(format_table(["cache", "crops per second", "per processor second"], lines))


def config(
    args: argparse.Namespace, folder: pathlib.Path, cache: str, hr: pathlib.Path, lr: pathlib.Path | None = None
) -> Config:
    """A config with these training data."""
    values = [f"model.scale={SCALE}", "model.task=super_resolution", f"data.train.hr={hr}", f"data.crop_size={args.crop}"]
    values += [f"data.cache={cache}", f"data.cache_dir={folder / 'cache'}", "data.rotate=true"]
    return parse_config("", [*values, f"data.train.lr={lr}"] if lr else values)


def write_pngs(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes folder/hr and folder/lr."""
    for path in find_images(source):
        for kind, image in zip(("hr", "lr"), load_pair(Pair(path), SCALE), strict=True):
            (folder / kind).mkdir(exist_ok=True)
            write_image(folder / kind / f"{path.stem}.png", image)


def measure(stream, args: argparse.Namespace) -> tuple[float, float]:
    """Crops per second, and per processor second of all threads."""
    begin, processor, crops = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < args.seconds:
        next(stream)
        crops += args.batch
    return crops / (time.perf_counter() - begin), crops / (time.process_time() - processor)


if __name__ == "__main__":
    main()
