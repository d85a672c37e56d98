"""Finding images in folders, pairing HR with LR images, and cutting a pair to the scale."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import unicodedata

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.formats import READ_SUFFIXES
from hcflow_tf.images.images import ImageError, read_header, read_image
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import expand_user, is_folder, natural_order, status, why_unreachable


@dataclasses.dataclass(frozen=True)
class Pair:
    """One HR file, and its LR file unless LR is computed."""

    hr: pathlib.Path
    lr: pathlib.Path | None = None


def find_images(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The images directly inside a folder (not in its subfolders), by suffix, in natural order: 2.png before 10.png.

    Hidden files are passed over. The suffixes are those of `formats.READ_SUFFIXES`, upper or lower case.

    Raises:
      HCFlowError: there is no such folder, it cannot be read, or no image is in it.
    """
    folder = expand_user(folder)
    if not is_folder(folder):
        reason = "is a file, not a folder" if status(folder) else why_unreachable(folder, "no such folder")
        raise HCFlowError(f"{folder}: {reason}")
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() in READ_SUFFIXES and not path.name.startswith(".")]
    except OSError as error:  # it may not be read, or has just vanished
        raise HCFlowError(f"{folder}: {error.strerror}") from error
    if not files:
        raise HCFlowError(f"{folder}: no images in this folder (looked for {', '.join(READ_SUFFIXES)})")
    return sorted(files, key=natural_order)


def pair_names(hr_folder: str | os.PathLike, lr_folder: str | os.PathLike, scale: int) -> list[Pair]:
    """Pairs two folders by file name: same stem but for upper and lower case, LR optionally ending in x4 (the scale).

    So `0001.png` pairs with `0001.png`, `0001x4.png`, `0001_x4.jpg`. Accents count as the same composed or decomposed.

    Raises:
      HCFlowError: images without a partner or with two; the first five are named.
    """
    hr_images = _by_stem(find_images(hr_folder))
    lr_images = _by_stem(find_images(lr_folder), hr_images, scale)
    for kind, here, there, folder in (("HR", hr_images, lr_images, lr_folder), ("LR", lr_images, hr_images, hr_folder)):
        alone = [path.name for stem, path in here.items() if stem not in there]
        if alone:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            raise HCFlowError(f"{len(alone)} {kind} images have no partner in {folder}: {', '.join(alone[:5])}{more}")
    return [Pair(path, lr_images[stem]) for stem, path in hr_images.items()]


def pair_folders(hr_folder: str | os.PathLike, lr_folder: str | os.PathLike, scale: int) -> list[Pair]:
    """`pair_names`, and checks by the headers that the sizes of every pair fit the scale.

    Raises:
      HCFlowError: as `pair_names`; an unreadable image; sizes that do not fit.
    """
    pairs = pair_names(hr_folder, lr_folder, scale)
    for pair in pairs:
        assert pair.lr is not None  # each HR image has a partner
        check_sizes(pair, read_header(pair.hr).size, read_header(pair.lr).size, scale)
    return pairs


def check_sizes(pair: Pair, hr: tuple[int, int], lr: tuple[int, int], scale: int) -> None:
    """An LR side must be HR / scale, rounded down (HR cropped before downscaling) or up (MATLAB's imresize).

    Args:
      pair: for the message.
      hr: width and height of the HR image.
      lr: the same of the LR image.
      scale: HR pixels per LR pixel.

    Raises:
      HCFlowError: it is not; names the file and both sizes.
    """
    if any(small not in (big // scale, -(-big // scale)) for big, small in zip(hr, lr, strict=True)):
        raise HCFlowError(f"{pair.lr}: {lr[0]} x {lr[1]} is not 1/{scale} of its HR image {pair.hr} with {hr[0]} x {hr[1]}")


def fit_to_scale(hr: np.ndarray, lr: np.ndarray | None, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts HR at the right and bottom to a multiple of the scale, and LR to match; without LR, computes it.

    Args:
      hr: [height, width, 3] uint8.
      lr: [ceil or floor of height / scale, the same of width, 3] uint8, or None for MATLAB's bicubic of the cut HR.
      scale: at most the shorter side of `hr`.

    Returns:
      hr [h * scale, w * scale, 3] and lr [h, w, 3]; pixel grids aligned.
    """
    height, width = (side // scale for side in hr.shape[:2])
    hr = hr[: height * scale, : width * scale]
    return hr, imresize(hr, 1 / scale) if lr is None else lr[:height, :width]


def load_files(pair: Pair, scale: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the files of a pair as uint8 RGB, whole; LR is None if it is to be computed. Transparency is ignored.

    Raises:
      ImageError: a file is unreadable, or HR is smaller than one LR pixel.
      HCFlowError: the sizes do not fit the scale.
    """
    hr = read_image(pair.hr).rgb_uint8
    lr = read_image(pair.lr).rgb_uint8 if pair.lr else None
    if min(hr.shape[:2]) < scale:
        raise ImageError(f"{pair.hr}: {hr.shape[1]} x {hr.shape[0]} is smaller than one LR pixel at scale {scale}")
    if lr is not None:
        check_sizes(pair, hr.shape[1::-1], lr.shape[1::-1], scale)
    return hr, lr


def load_pair(pair: Pair, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a pair as uint8 RGB, cut to the scale, LR computed if it has no file; see `load_files`, `fit_to_scale`."""
    return fit_to_scale(*load_files(pair, scale), scale)


def stem_key(path: pathlib.Path) -> str:
    """The stem by which files are paired: equal for upper and lower case, and for accents composed or decomposed."""
    return unicodedata.normalize("NFC", path.stem.casefold())


def _by_stem(files: list[pathlib.Path], partners: dict | None = None, scale: int = 1) -> dict[str, pathlib.Path]:
    """Stem in lower case -> file; for LR files the ending x4 is cut off, unless a partner bears it too."""
    images: dict[str, pathlib.Path] = {}
    for path in files:
        stem = stem_key(path)
        if partners is not None and stem not in partners:
            stem = re.sub(rf"[_-]?x{scale}$", "", stem)
        if stem in images:
            raise HCFlowError(f"{path.parent}: {images[stem].name} and {path.name} have the same name; keep one of them")
        images[stem] = path
    return images
