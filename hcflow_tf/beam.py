"""Any number of pictures by Apache Beam: on this machine, Dataflow, Flink or Spark (pip install 'hcflow_tf[beam]').

    python -m hcflow_tf.beam --input 'photos/*.jpg' --output enlarged --dead-letter bad.jsonl --direct_num_workers 2 ...

PATTERN and DIR are of any of Beam's file systems. Every picture becomes DIR/NAME.png (evaluate: DIR/NAME.json), as `hcflow
upscale`, `downscale` and `evaluate` make it; results that exist are skipped, so a run that was stopped goes on. A
picture's seed is made from --seed and its file name: every run gives the same pictures, in whatever order. Bad files are
written to --dead-letter, a JSON object with "input" and "reason" per line, and do not stop the others. All other
options are Beam's.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from hcflow_tf.images import batch
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError

TAKES_OTHER_OPTIONS = True
"""`args.other_options` are those that are not ours."""

TASKS = ("upscale", "downscale", "evaluate")
"""Task -> kind of the shipped model that is taken without --model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--task", choices=TASKS, default="upscale", help="default upscale")
    parser.add_argument(
        "--model", help="as of hcflow upscale; workers must reach it (default: the shipped one for task and temperature)"
    )
    parser.add_argument("--input", nargs="+", required=True, metavar="PATTERN", help="files, such as 'gs://bucket/*.jpg'")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--temperature", type=batch.temperature, default=0.0, metavar="T", help="default 0")
    parser.add_argument("--seed", type=batch.seed, default=0, metavar="N", help="default 0")
    parser.add_argument("--dead-letter", metavar="FILE", help="JSONL file for the inputs that failed")
    parser.add_argument("--batch-size", type=batch.positive_int, default=8, metavar="N", help="pictures at a time (default 8)")
    batch.add_tile_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    try:
        import apache_beam as beam
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
    except ImportError as error:
        raise HCFlowError("needs Apache Beam: pip install 'hcflow_tf[beam]', best into an environment of its own") from error
    from hcflow_tf.inference import beam_pipeline
    from hcflow_tf.weights.shipped import DEFAULT_MODEL

    check_beam_options(args.other_options)
    check_patterns(args.input, FileSystems)
    if not FileSystems.exists(args.output):
        FileSystems.mkdirs(args.output)
    role = "downscale" if args.task == "downscale" else "sample" if args.temperature else "upscale"
    model = args.model or DEFAULT_MODEL[role]
    work = beam_pipeline.Work(args.task, model, args.output, args.temperature, args.seed, args.tile)
    options = PipelineOptions(args.other_options)
    options.view_as(SetupOptions).save_main_session = False
    pipeline = beam.Pipeline(options=options)
    beam_pipeline.build(pipeline, args.input, work, args.dead_letter, args.batch_size)
    result = pipeline.run()
    result.wait_until_finish()
    counts = beam_pipeline.counts(result)
    megapixels = counts["pixels"] / 1e6
    print(
        f"{counts['pictures']} pictures, {megapixels:.2f} megapixels, {counts['failed']} failed, {counts['skipped']} skipped",
        file=sys.stderr,
    )
    return 1 if counts["failed"] else 0


def check_beam_options(options: list[str]) -> None:
    """Refuses options that are neither ours nor Beam's, which Beam would pass over.

    Raises:
      UsageError: there is one.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    parser = _BeamArgumentParser(allow_abbrev=False)
    for kind in set(PipelineOptions.__subclasses__()):
        kind._add_argparse_args(parser)
    if unknown := parser.parse_known_args(options)[1]:
        raise UsageError(f"{unknown[0]}: is an option neither of this command nor of Beam")


def check_patterns(patterns: list[str], file_systems: Any) -> None:
    """Refuses patterns that match no file, before anything starts.

    Raises:
      UsageError: one matches nothing.
    """
    for pattern in patterns:
        if not file_systems.match([pattern], limits=[1])[0].metadata_list:
            raise UsageError(f"--input {pattern}: matches no file")


if __name__ == "__main__":
    raise SystemExit(cli.execute("beam"))
