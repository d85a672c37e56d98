"""LPIPS of 8-bit images, and the diversity score that the NTIRE 2021 challenge computes from it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hcflow_tf.metrics.images import UndefinedError, check_pair
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import cache_folder

if TYPE_CHECKING:
    from hcflow_tf.networks.lpips import LPIPS

NETWORK = {"lpips": "alex", "lpips_vgg": "vgg"}
"""Metric -> backbone."""
FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
"""torchvision's, named after the first digits of their SHA-256."""
ADDRESS = "https://download.pytorch.org/models/"


class Lpips:
    """One of the two distances, ready to measure; a callable like the other metrics of pairs."""

    def __init__(self, network: str, state: dict[str, np.ndarray], dtype: str = "float32"):
        """Args: network and state as `networks.lpips.LPIPS` takes them; dtype, of the computation.

        Raises:
          HCFlowError: the state is not of this network.
        """
        from hcflow_tf.networks.lpips import LPIPS, MIN_SIDE

        self._layer, self._min_side = LPIPS(network, state, dtype=dtype), MIN_SIDE[network]
        self._last: tuple[np.ndarray, list] | None = None
        """The last reference and its features: the samples of an image are compared with one HR image."""

    def __call__(self, image: np.ndarray, reference: np.ndarray) -> float:
        """LPIPS of two images [H, W, 3] RGB, uint8 or float on the 0..255 scale, whole, no border cropped.

        Raises:
          HCFlowError: not such images, or their shapes differ.
          UndefinedError: they are too small for the network.
        """
        return float(self._layer.distance(*self._features(image, reference))[0])

    def spatial(self, image: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The distance at each pixel, [H, W]; arguments and errors as for a call."""
        return self._layer.spatial(*self._features(image, reference), image.shape[:2])[0].numpy()

    def _features(self, image: np.ndarray, reference: np.ndarray) -> tuple[list, list]:
        self._check(image, reference)
        if self._last is None or not np.array_equal(self._last[0], reference):
            self._last = np.array(reference), self._layer.features(self._scaled(reference))
        return self._layer.features(self._scaled(image)), self._last[1]

    def _scaled(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(image)[None].astype(self._layer.compute_dtype) / 255

    def _check(self, image: np.ndarray, reference: np.ndarray) -> None:
        image, reference = check_pair(image, reference)
        if image.ndim != 3 or image.shape[-1] != 3:
            raise HCFlowError(f"expected an RGB image [H, W, 3], got shape {image.shape}")
        if min(image.shape[:2]) < self._min_side:
            side, (height, width) = self._min_side, image.shape[:2]
            raise UndefinedError(f"LPIPS needs at least {side} x {side} pixels, got {height} x {width}")


def ntire_diversity(samples: Sequence[np.ndarray], reference: np.ndarray, lpips: Lpips) -> float:
    """How much better the best of the samples is when chosen at each pixel than as a whole, in percent.

    100 (g - l) / g with the least mean distance of a sample g, and l the mean over the pixels of the least distance there
    (Lugmayr, Danelljan and Timofte, NTIRE 2021 Learning the Super-Resolution Space Challenge, section 2.2; 10 samples).

    Args:
      samples: at least two images [H, W, 3].
      reference: the HR image, [H, W, 3].
      lpips: with AlexNet, as the challenge has it.

    Raises:
      HCFlowError: fewer than two samples; as `Lpips`.
    """
    if len(samples) < 2:
        raise HCFlowError(f"the diversity score needs at least two images, got {len(samples)}")
    maps = np.stack([lpips.spatial(sample, reference) for sample in samples]).astype(np.float64)
    best = maps.mean(axis=(1, 2)).min()
    return float(100 * (best - maps.min(axis=0).mean()) / best) if best else 0.0


def open_lpips(metrics: Sequence[str], files: Sequence[str | os.PathLike] = ()) -> dict[str, Lpips]:
    """The measures that are among `metrics`, backbones from `files` or, for those not there, downloaded once.

    Raises:
      UsageError: a file that no metric needs.
      HCFlowError: a file cannot be read or is of another network; no network connection.
    """
    from hcflow_tf.support.quiet import start_tensorflow
    from hcflow_tf.support.state_dict import read_state_dict

    wanted = {NETWORK[name]: name for name in metrics if name in NETWORK}
    if not wanted and not files:
        return {}
    states: dict[str, tuple[pathlib.Path, dict[str, np.ndarray]]] = {}
    for file in map(pathlib.Path, files):
        network, state = _read_backbone(file)
        if network not in wanted:
            raise UsageError(f"--lpips-weights {file}: is for {_metric(network)}, which --metrics does not name")
        states[network] = file, state
    for network in wanted.keys() - states.keys():
        states[network] = (file := _download(network)), read_state_dict(file)
    start_tensorflow()  # only now: a wrong file is told at once
    opened = {}
    for network, name in wanted.items():
        file, state = states[network]
        try:
            opened[name] = Lpips(network, state)
        except HCFlowError as error:
            raise HCFlowError(f"{file}: {error}") from error
    return opened


def loss_layer(file: str | os.PathLike | None) -> LPIPS:
    """The Keras layer with torchvision's AlexNet or VGG16 from a file, or AlexNet downloaded once.

    Raises:
      HCFlowError: the file cannot be read or is of another network; no network connection.
    """
    from hcflow_tf.networks.lpips import LPIPS

    path = pathlib.Path(file) if file else _download("alex")
    network, state = _read_backbone(path)
    try:
        return LPIPS(network, state)
    except HCFlowError as error:
        raise HCFlowError(f"{path}: {error}") from error


def _read_backbone(file: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    from hcflow_tf.networks.lpips import network_of
    from hcflow_tf.support.state_dict import read_state_dict

    state = read_state_dict(file)
    network = network_of(state)
    if network is None:
        found = f"found {len(state)} entries such as {next(iter(state), 'none')[:80]}"
        raise HCFlowError(f"{file}: expected torchvision's AlexNet or VGG16 with features.0.weight, {found}")
    return network, state


def _download(network: str) -> pathlib.Path:
    from hcflow_tf.support.download import digest, fetch

    name = FILES[network]
    try:
        path = fetch(ADDRESS + name, cache_folder() / name)
    except HCFlowError as error:
        raise HCFlowError(f"{_metric(network)} needs {name}: {error}; or give the file as --lpips-weights") from error
    start, actual = pathlib.Path(name).stem.rpartition("-")[2], digest(path)
    if not actual.startswith(start):
        raise HCFlowError(f"{path} has SHA-256 {actual}, expected one that begins with {start}; delete it and try again")
    return path


def _metric(network: str) -> str:
    return next(name for name, backbone in NETWORK.items() if backbone == network)
