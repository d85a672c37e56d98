"""Export a model: a SavedModel, a TFLite or an ONNX file, an entry for Triton; each checks itself before it is kept.

    hcflow export saved-model --model M --output serving/hcflow
    hcflow export tflite --model M --output decoder.tflite --precision int8
    hcflow export onnx --model M --output decoder.onnx
    hcflow export triton --model M --output repository/hcflow

`hcflow export FORMAT --help` has the options of each.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from hcflow_tf.support import cli

FORMATS = {
    "saved-model": "hcflow_tf.runtimes.saved_model_export",
    "tflite": "hcflow_tf.runtimes.tflite_export",
    "onnx": "hcflow_tf.runtimes.onnx_export",
    "triton": "hcflow_tf.runtimes.triton_export",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The formats, each with the options of its writer."""
    formats = parser.add_subparsers(dest="format", required=True, metavar="|".join(FORMATS))
    for name, module in FORMATS.items():
        writer = importlib.import_module(module)
        writer.add_arguments(
            formats.add_parser(
                name,
                help=(writer.__doc__ or "").splitlines()[0],
                description=writer.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    importlib.import_module(FORMATS[args.format]).run(args)


def script(name: str, argv: Sequence[str] | None = None) -> int:
    """What export/export_*.py are: the writer of one format, with one-line errors; returns the exit code."""
    return cli.execute_module(f"export_{name.replace('-', '_')}.py", importlib.import_module(FORMATS[name]), argv)


if __name__ == "__main__":
    raise SystemExit(cli.execute("export"))
