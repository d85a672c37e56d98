"""Where the samples of one image differ, as a picture."""

from __future__ import annotations

import numpy as np

# Black, violet, red, orange, yellow, white: lightness rises evenly, so the map reads in gray, too.
_COLOURS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191], [255, 255, 255]], np.float32)


class Spread:
    """The standard deviation of images that come one after the other, without keeping them (Welford 1962)."""

    def __init__(self):
        self._count = 0
        self._mean: np.ndarray | None = None
        self._squares: np.ndarray | None = None

    def add(self, image: np.ndarray) -> None:
        """Adds an image [h, w, 3] in [0, 1]."""
        if self._mean is None or self._squares is None:
            self._mean, self._squares = np.zeros_like(image), np.zeros_like(image)
        self._count += 1
        before = image - self._mean
        self._mean += before / self._count
        self._squares += before * (image - self._mean)

    def deviation(self) -> np.ndarray:
        """[h, w]: population standard deviation at each pixel, mean over the channels, on the 0..255 scale."""
        assert self._squares is not None, "no image was added"
        return 255 * np.sqrt(self._squares / self._count).mean(axis=2)


def heat_map(deviation: np.ndarray, top: float) -> np.ndarray:
    """[h, w, 3] uint8: black for 0, over violet, red and yellow to white for `top` and above.

    Args:
      deviation: [h, w].
      top: what white stands for; an all-zero image is black whatever it is.
    """
    position = np.clip(deviation / max(top, 1e-12), 0, 1)
    stops = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(position, stops, _COLOURS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
