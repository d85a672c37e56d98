"""Compare a model with bicubic: a table on standard output and one picture.

    hcflow compare --model runs/quickstart --hr my/photos -o comparison.png

Both restore the same photographs from LR images of the same size: MATLAB's bicubic shrinks and enlarges; a rescaling
model makes its own LR images, rounded to 8 bits; a super-resolution model enlarges the bicubic ones, at temperature 0,
and the picture also shows two of its samples and where five of them differ.
Figures are of 8-bit images after cropping `scale` pixels at each border.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import TYPE_CHECKING

from hcflow_tf.images import batch
from hcflow_tf.support import cli

if TYPE_CHECKING:
    import numpy as np

    from hcflow_tf.inference.evaluation import Evaluation

Rows = dict[str, dict[str, float]]
"""Figures by image."""
Panel = tuple[str, "np.ndarray"]
"""Its label, and what it shows."""
PICTURE_ROWS = 3
TEMPERATURE, SAMPLES = 0.8, 5
"""Of the samples that a super-resolution model is shown with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--model", required=True, help="model directory or name, SavedModel, .tflite or .onnx")
    parser.add_argument(
        "--hr", metavar="DIR", help="folder of HR images (default: the photographs of scikit-image that no recipe trains on)"
    )
    parser.add_argument("-o", "--output", required=True, metavar="PICTURE.png", help="picture; the table goes beside it as .json")
    batch.add_overwrite_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from hcflow_tf.data.pairs import Pair, find_images
    from hcflow_tf.data.samples import held_out_photographs
    from hcflow_tf.images.images import check_writable, write_image
    from hcflow_tf.inference.panels import picture
    from hcflow_tf.support.files import check_targets, write_atomically
    from hcflow_tf.weights.store import model_files

    paths = find_images(args.hr) if args.hr else held_out_photographs()
    output = pathlib.Path(args.output)
    table = output.with_suffix(".json")
    check_writable(output)
    check_targets([output, table], inputs=[*paths, *model_files(args.model)], overwrite=args.overwrite)
    work = batch.Batch("compare")
    rows, panels = _measure(args.model, [Pair(path) for path in paths], work)
    if not rows:
        return work.exit_code
    print(_table(rows))
    write_image(output, picture(panels))
    told = rows | ({"failed": work.failed} if work.failed else {})
    write_atomically(table, (json.dumps(told, indent=1) + "\n").encode())
    print(f"picture: {output}")
    return work.exit_code


def _measure(model: str, pairs: list, work: batch.Batch) -> tuple[Rows, list[list[Panel]]]:
    """Figures by image, the mean last, and the labelled panels of the picture's rows; a bad image is told to `work`."""
    import numpy as np

    from hcflow_tf.data.pairs import load_pair
    from hcflow_tf.images.formats import ImageError
    from hcflow_tf.inference.evaluation import Evaluation
    from hcflow_tf.inference.measurement import check_measurable, mean_metrics
    from hcflow_tf.inference.panels import centre
    from hcflow_tf.inference.scaling import Scaler
    from hcflow_tf.runtimes.bicubic import BicubicRuntime
    from hcflow_tf.runtimes.open import open_runtime

    scaler = Scaler(open_runtime(model))
    bicubic = Scaler(BicubicRuntime(scaler.scale))
    draws = not scaler.runtime.makes_lr and scaler.runtime.latent_channels
    rows: Rows = {}
    panels: list[list[Panel]] = []
    for pair in pairs:
        try:
            hr, lr = load_pair(pair, scaler.scale)
            check_measurable(pair.hr, hr, scaler.scale)
            (baseline,), before = Evaluation(bicubic, hr, lr).sample(0.0, 1)
            evaluation = Evaluation(scaler, hr, lr)
            (restored,), after = evaluation.sample(0.0, 1)
            samples = _sample_panels(evaluation) if draws and len(panels) < PICTURE_ROWS else []
        except ImageError as error:
            work.fail(str(pair.hr), error)
            continue
        rows[pair.hr.name] = {
            "bicubic_psnr_y": before["psnr_y"],
            "model_psnr_y": after["psnr_y"],
            "gain_psnr_y": after["psnr_y"] - before["psnr_y"],
            "bicubic_ssim_y": before["ssim_y"],
            "model_ssim_y": after["ssim_y"],
        }
        if len(panels) < PICTURE_ROWS:
            enlarged = np.kron(evaluation.given_lr, np.ones((scaler.scale, scaler.scale, 1), np.uint8))
            panels.append(
                [
                    (f"LR, {lr.shape[1]} x {lr.shape[0]}", centre(enlarged)),
                    (f"bicubic, {before['psnr_y']:.2f} dB", centre(baseline)),
                    (f"model, {after['psnr_y']:.2f} dB", centre(restored)),
                    *samples,
                    (f"original, {pair.hr.stem}", centre(hr)),
                ]
            )
    if rows:
        rows["mean"] = mean_metrics(list(rows.values()))
    return rows, panels


def _sample_panels(evaluation: Evaluation) -> list[Panel]:
    """Two of the samples that are equally plausible to the model, and where the samples differ; brighter is more."""
    import numpy as np

    from hcflow_tf.inference.heat_map import Spread, heat_map
    from hcflow_tf.inference.panels import centre

    samples, figures = evaluation.sample(TEMPERATURE, SAMPLES)
    spread = Spread()
    for image in samples:
        spread.add(image.astype(np.float32) / 255)
    deviation = centre(spread.deviation())
    shown = [(f"sample {number}, tau {TEMPERATURE}", centre(samples[number - 1])) for number in (1, 2)]
    heat = heat_map(deviation, float(np.percentile(deviation, 99.9)))
    return [*shown, (f"spread, mean {figures['diversity']:.1f} of 255", heat)]


def _table(rows: dict[str, dict[str, float]]) -> str:
    from hcflow_tf.metrics.table import format_table

    header = ["image", "bicubic dB Y", "model dB Y", "gain dB", "bicubic SSIM Y", "model SSIM Y"]
    formats = ("{:.2f}", "{:.2f}", "{:+.2f}", "{:.4f}", "{:.4f}")
    return format_table(
        header,
        [[name, *(text.format(value) for text, value in zip(formats, row.values(), strict=True))] for name, row in rows.items()],
    )


if __name__ == "__main__":
    raise SystemExit(cli.execute("compare"))
