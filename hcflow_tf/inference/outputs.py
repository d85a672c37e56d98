"""Measuring what another program has written: its images are matched with HR and LR images by name."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcflow_tf.data.pairs import Pair, find_images, fit_to_scale, load_files, pair_names, stem_key
from hcflow_tf.images.images import ImageError, read_image
from hcflow_tf.inference.measurement import Measurement, Metrics, check_measurable
from hcflow_tf.metrics.lpips import Lpips
from hcflow_tf.support.errors import HCFlowError

_LISTED = 5
"""Names that an error lists."""


@dataclasses.dataclass(frozen=True)
class Output:
    """One image of another program and what it is measured against."""

    sr: pathlib.Path
    pair: Pair


def match_outputs(
    folder: str | os.PathLike, hr_folder: str | os.PathLike, lr_folder: str | os.PathLike | None, scale: int
) -> list[Output]:
    """Finds the image of every HR image: the same stem but for upper and lower case, or that and a suffix.

    A suffix begins with no letter or digit, or is x4 (the scale): `0001.png` is matched by `0001.png`, `0001x4.png`,
    `0001_x4_SRGAN.png`, `0001_out.jpg`, `0001-sr.png`; of several HR images, the one of the longest name has it.

    Raises:
      HCFlowError: HR images without one or with two, images that belong to none; as `pairs.pair_names`.
    """
    found: dict[str, pathlib.Path] = {}
    pairs = pair_names(hr_folder, lr_folder, scale) if lr_folder else [Pair(path) for path in find_images(hr_folder)]
    by_stem = {stem_key(pair.hr): pair for pair in pairs}
    strange = []
    for path in find_images(folder):
        key = _owner(stem_key(path), by_stem, scale)
        if key is None:
            strange.append(path.name)
        elif key in found:
            raise HCFlowError(f"{folder}: {found[key].name} and {path.name} both belong to {by_stem[key].hr.name}; keep one")
        else:
            found[key] = path
    missing = [pair.hr.name for key, pair in by_stem.items() if key not in found]
    if missing:
        raise HCFlowError(f"{folder}: {len(missing)} of {len(pairs)} HR images have no image here: {_listed(missing)}")
    if strange:
        raise HCFlowError(f"{folder}: {len(strange)} images belong to no HR image in {hr_folder}: {_listed(strange)}")
    return [Output(found[key], pair) for key, pair in by_stem.items()]


def measure_output(
    output: Output,
    scale: int,
    metrics: Sequence[str],
    lpips: Mapping[str, Lpips] | None = None,
    undefined: Callable[[str], object] | None = None,
) -> Metrics:
    """The figures of one image: those of `report.image_metrics`, consistency and, with an LR image, ntire_lr_psnr.

    `undefined` is told of figures that have no value for it. Compared is the part of HR that is a multiple of the scale, as when
    a model is evaluated.

    Raises:
      ImageError: a file is unreadable, of another size, gray beside colour, or too small to measure.
      HCFlowError: HR and LR do not fit together.
    """
    whole, lr = load_files(output.pair, scale)
    hr, lr_cut = fit_to_scale(whole, lr, scale)
    check_measurable(output.pair.hr, hr, scale)
    image = read_image(output.sr)
    sr = image.rgb_uint8
    if sr.shape not in (whole.shape, hr.shape):
        expected = " or ".join(dict.fromkeys(f"{width} x {height}" for height, width, _ in (hr.shape, whole.shape)))
        raise ImageError(f"{output.sr}: expected {expected} pixels as {output.pair.hr}, found {sr.shape[1]} x {sr.shape[0]}")
    if image.is_gray and not _is_gray(hr):
        raise ImageError(f"{output.sr}: expected colours as in {output.pair.hr}, found a gray image")
    restored = [sr[: hr.shape[0], : hr.shape[1]]]
    measurement = Measurement(hr, None if lr is None else lr_cut, scale, metrics, lpips, undefined)
    return measurement.restored(restored) | measurement.ntire(restored)


def _owner(stem: str, owners: dict[str, Pair], scale: int) -> str | None:
    """The longest beginning of `stem` in `owners` that is followed by a suffix or nothing."""
    for length in range(len(stem), 0, -1):
        rest = stem[length:]
        if stem[:length] in owners and (not rest or re.match(rf"[\W_]|x{scale}(?![^\W_])", rest)):
            return stem[:length]
    return None


def _is_gray(rgb: np.ndarray) -> bool:
    return bool((rgb == rgb[..., :1]).all())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
