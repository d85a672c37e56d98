"""The photographs inside the scikit-image wheel: training data for the quickstart, without a download.

Most are in the public domain or CC0; scikit-image's `data` module says where each comes from.
"""

from __future__ import annotations

import importlib.util
import pathlib

from hcflow_tf.support.errors import HCFlowError

# The motorcycle is a stereo pair, one scene, so both halves stand on one side. Left out are pictures that are no
# photographs, the ones that are mostly black (Hubble), and those that scikit-image downloads on demand.
_TRAINING = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
_HELD_OUT = ("chelsea.png", "coffee.png", "rocket.jpg")


def training_photographs() -> tuple[pathlib.Path, ...]:
    """Files to train on: astronaut, brick, camera, coins, grass, gravel, ihc, motorcycle (left, right); 384 to 741 pixels wide.

    Raises:
      HCFlowError: scikit-image is not installed, or no longer ships one of them.
    """
    return _files(_TRAINING)


def held_out_photographs() -> tuple[pathlib.Path, ...]:
    """Files to measure on, of other scenes than the training ones: chelsea (a cat), coffee, rocket; 451 to 640 pixels wide.

    Raises:
      HCFlowError: scikit-image is not installed, or no longer ships one of them.
    """
    return _files(_HELD_OUT)


def _files(names: tuple[str, ...]) -> tuple[pathlib.Path, ...]:
    package = importlib.util.find_spec("skimage")  # found, not imported: the import takes longer than reading the files
    if package is None or package.origin is None:
        raise HCFlowError(
            "data.sample_photographs: they come with scikit-image, which is not installed: pip install scikit-image"
        )
    folder = pathlib.Path(package.origin).parent / "data"
    for name in names:
        if not (folder / name).is_file():
            raise HCFlowError(f"data.sample_photographs: this scikit-image does not ship {name} (looked in {folder})")
    return tuple(folder / name for name in names)
