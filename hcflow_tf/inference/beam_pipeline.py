"""The pipeline of `python -m hcflow_tf.beam`: file patterns in, pictures or figures out, bad files to a JSONL file.

Matching and writing go through Beam's file systems; a worker keeps a copy of one picture in a temporary folder while it
works on it, and does with it what the commands do (`inference/pictures.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import posixpath
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io import fileio
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference

from hcflow_tf.images.alpha import bleed
from hcflow_tf.images.images import ImageError, read_header, read_image
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.support.errors import HCFlowError

NAMESPACE = "hcflow"
COUNTERS = ("pictures", "pixels", "failed", "skipped")
SUFFIX = {"upscale": ".png", "downscale": ".png", "evaluate": ".json"}
"""Task -> suffix of the files that it writes."""

TOGETHER_PIXELS = 128 * 128
"""LR pixels that are decoded in one call, over all pictures of a batch."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done with every picture.

    Attributes:
      task: upscale, downscale or evaluate.
      model: as `--model` of the commands.
      output: folder, of any of Beam's file systems.
      temperature: tau.
      seed: from which, with the file's name, each picture's own seed is made.
      tile: side of the tiles in LR pixels, 0 for none, None for as memory allows.
    """

    task: str
    model: str
    output: str
    temperature: float = 0.0
    seed: int = 0
    tile: int | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """One file on its way: where it comes from, where its result goes, and its bytes."""

    source: str
    target: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a picture: the bytes of its result, or the reason why there is none."""

    source: str
    target: str
    content: bytes = b""
    pixels: int = 0
    error: str = ""


def seed_of(name: str, seed: int) -> int:
    """The seed, of 31 bits, of the picture with this file name (without folders): the same in every run and order."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 2**31


def target_of(source: str, work: Work) -> str:
    """The file that the picture's result goes to."""
    stem = posixpath.splitext(posixpath.basename(source))[0]
    return FileSystems.join(work.output, stem + SUFFIX[work.task])


class PictureHandler(ModelHandler[Picture, PredictionResult, Scaler]):
    """Runs one of our runtimes; pictures of one size that need no tiles are decoded together."""

    def __init__(self, work: Work, batch_size: int):
        """Args: batch_size, pictures that a worker takes at a time."""
        super().__init__(max_batch_size=batch_size)
        self._work = work

    def load_model(self) -> Scaler:
        """Opens the model; once per process."""
        from hcflow_tf.runtimes.open import open_runtime

        return Scaler(open_runtime(self._work.model), self._work.tile)

    def run_inference(
        self, batch: Sequence[Picture], model: Scaler, inference_args: dict[str, Any] | None = None
    ) -> Iterator[PredictionResult]:
        """A `Result` for each picture."""
        with tempfile.TemporaryDirectory(prefix="hcflow-") as name:
            folder = pathlib.Path(name)
            files = []
            for index, picture in enumerate(batch):
                file = folder / str(index) / posixpath.basename(picture.source)
                file.parent.mkdir()
                file.write_bytes(picture.content)
                files.append(file)
            ready = decode_together(model, files, self._work) if self._work.task == "upscale" else {}
            for picture, file in zip(batch, files, strict=True):
                yield PredictionResult(picture, self._process(picture, file, ready.get(file, model)))

    def _process(self, picture: Picture, file: pathlib.Path, scaler: Scaler | Decoded) -> Result:
        try:
            content, pixels = TASKS[self._work.task](scaler, file, self._work)
            return Result(picture.source, picture.target, content, pixels)
        except (HCFlowError, MemoryError) as error:
            reason = str(error).replace(f"{file}: ", "").replace(str(file), picture.source)
            return Result(picture.source, picture.target, error=reason or "not enough memory for this image")


def upscale(scaler: Scaler, file: pathlib.Path, work: Work) -> tuple[bytes, int]:
    """The enlarged picture as a PNG file, and its pixels."""
    from hcflow_tf.inference.pictures import upscale_file

    target = file.with_name("result.png")
    upscale_file(scaler, file, [target], temperature=work.temperature, seed=seed_of(file.name, work.seed), bits=8)
    header = read_header(target)
    return target.read_bytes(), header.width * header.height


def downscale(scaler: Scaler, file: pathlib.Path, work: Work) -> tuple[bytes, int]:
    """The shrunk picture as a PNG file, and the pixels of the large one."""
    from hcflow_tf.inference.pictures import downscale_file

    target = file.with_name("result.png")
    done = downscale_file(scaler, file, target)
    return target.read_bytes(), done.original[0] * done.original[1]


def evaluate(scaler: Scaler, file: pathlib.Path, work: Work) -> tuple[bytes, int]:
    """The figures of `hcflow evaluate --hr`, as JSON, and the picture's pixels."""
    from hcflow_tf.data.pairs import Pair, load_pair
    from hcflow_tf.inference.evaluation import Evaluation
    from hcflow_tf.inference.measurement import check_measurable

    hr, lr = load_pair(Pair(file), scaler.scale)
    check_measurable(file, hr, scaler.scale)
    evaluation = Evaluation(scaler, hr, lr, seed=seed_of(file.name, work.seed))
    figures = evaluation.sample(work.temperature, 1)[1]
    text = json.dumps({"image": file.name, "temperature": work.temperature} | figures, indent=1) + "\n"
    return text.encode(), hr.shape[0] * hr.shape[1]


TASKS: dict[str, Callable[[Any, pathlib.Path, Work], tuple[bytes, int]]] = {
    "upscale": upscale,
    "downscale": downscale,
    "evaluate": evaluate,
}


class Decoded:
    """Stands in for a `Scaler` whose picture is there already."""

    def __init__(self, scaler: Scaler, hr: np.ndarray):
        self.runtime, self.scale, self._hr = scaler.runtime, scaler.scale, hr

    def upscale(self, lr: np.ndarray, temperature: float = 0.0, seed: int = 0) -> np.ndarray:
        """The picture that was decoded with the others."""
        return self._hr


def decode_together(scaler: Scaler, files: Sequence[pathlib.Path], work: Work) -> dict[pathlib.Path, Decoded]:
    """Decodes pictures of one size in one call each; those that are alone, large or bad are left to be done one by one."""
    by_size: dict[tuple[int, int], list[pathlib.Path]] = defaultdict(list)
    for file in files:
        try:
            header = read_header(file)
        except ImageError:
            continue
        by_size[header.height, header.width].append(file)
    ready: dict[pathlib.Path, Decoded] = {}
    for (height, width), group in by_size.items():
        together = TOGETHER_PIXELS // (height * width)
        if together < 2 or scaler.runtime.fixed_lr_size or scaler._tile_size(height, width) != (height, width):
            continue
        for start in range(0, len(group), together):
            ready |= _decode_group(scaler, group[start : start + together], work)
    return ready


def _decode_group(scaler: Scaler, files: Sequence[pathlib.Path], work: Work) -> dict[pathlib.Path, Decoded]:
    images, latents, kept = [], [], []
    for file in files:
        try:
            loaded = read_image(file)
        except ImageError:
            continue
        image = bleed(loaded.rgb, loaded.alpha).astype(np.float32) / np.float32(np.iinfo(loaded.rgb.dtype).max)
        height, width = image.shape[:2]
        latents.append(scaler._draw_latents(height, width, work.temperature, seed_of(file.name, work.seed)))
        images.append(image)
        kept.append(file)
    if len(kept) < 2:
        return {}
    decoded = scaler.runtime.decode(np.stack(images), [np.stack(level) for level in zip(*latents, strict=True)])
    if not np.isfinite(decoded).all():
        return {}  # which picture it is, shows one by one
    return {file: Decoded(scaler, hr.clip(0.0, 1.0)) for file, hr in zip(kept, decoded, strict=True)}


class Plan(beam.DoFn):
    """(target, sources) -> the `Picture` to be made; sources that would be written to the same file go to `failed`."""

    def __init__(self):
        self._failed, self._skipped = counter("failed"), counter("skipped")

    def process(self, item: tuple[str, Iterable[str]]) -> Iterator[Any]:
        """Reads the first source by name, unless its result is there already."""
        target, found = item
        first, *others = sorted(set(found))
        for source in others:
            self._failed.inc()
            yield beam.pvalue.TaggedOutput("failed", Result(source, target, error=f"{first} is written to {target}, too"))
        if FileSystems.exists(target):
            self._skipped.inc()
            return
        try:
            with FileSystems.open(first, compression_type="uncompressed") as file:
                yield Picture(first, target, file.read())
        except Exception as error:  # every file system has its own exceptions
            self._failed.inc()
            yield beam.pvalue.TaggedOutput("failed", Result(first, target, error=f"cannot be read: {error}"))


class Write(beam.DoFn):
    """Writes results, completely or not at all; those without content go to `failed`."""

    def __init__(self):
        self._counters = {name: counter(name) for name in COUNTERS}

    def process(self, prediction: PredictionResult) -> Iterator[Any]:
        """Writes one."""
        result = prediction.inference
        if result.error:
            self._counters["failed"].inc()
            yield beam.pvalue.TaggedOutput("failed", result)
            return
        temporary = f"{result.target}.partial"
        with FileSystems.create(temporary, compression_type="uncompressed") as file:
            file.write(result.content)
        FileSystems.rename([temporary], [result.target])
        self._counters["pictures"].inc()
        self._counters["pixels"].inc(result.pixels)
        yield result.target


def counter(name: str) -> Any:
    """One of `COUNTERS`."""
    return Metrics.counter(NAMESPACE, name)


def to_json(result: Result) -> str:
    """A line of the dead-letter file."""
    return json.dumps({"input": result.source, "reason": result.error}, ensure_ascii=False)


def build(root: beam.Pipeline, patterns: Sequence[str], work: Work, dead_letter: str | None, batch_size: int) -> None:
    """Puts the pipeline together."""
    planned = (
        root
        | "patterns" >> beam.Create(list(patterns))
        | "match" >> fileio.MatchAll(fileio.EmptyMatchTreatment.DISALLOW)
        | "by target" >> beam.Map(lambda found: (target_of(found.path, work), found.path))
        | "group" >> beam.GroupByKey()
        | "read" >> beam.ParDo(Plan()).with_outputs("failed", main="pictures")
    )
    written = (
        planned.pictures
        | "spread" >> beam.Reshuffle()
        | "model" >> RunInference(PictureHandler(work, batch_size))
        | "write" >> beam.ParDo(Write()).with_outputs("failed", main="targets")
    )
    failed = (planned.failed, written.failed) | "failed" >> beam.Flatten() | "to JSON" >> beam.Map(to_json)
    if dead_letter:
        _ = failed | "dead letters" >> beam.io.WriteToText(dead_letter, num_shards=1, shard_name_template="")


def counts(result: Any) -> dict[str, int]:
    """The counters of a finished run, by name; empty where the runner tells none."""
    found = dict.fromkeys(COUNTERS, 0)
    for entry in result.metrics().query(beam.metrics.MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        found[entry.key.metric.name] = entry.committed if entry.committed is not None else entry.attempted
    return found
