"""A model directory of rescaling whose LR images are fitted to each HR image, which takes gradients."""

from __future__ import annotations

import os

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.support.errors import UsageError

MEMORY = 10
"""How many times the memory of decoding its gradient takes."""


class RefiningRuntime(KerasRuntime):
    """A `KerasRuntime` that refines its LR images (`hcflow_tf.models.refinement`)."""

    def __init__(self, path_or_name: str | os.PathLike, steps: int):
        """Args: path_or_name, as `KerasRuntime`; steps, of gradient descent for each image, or tile of one.

        Raises:
          UsageError: the model makes no LR images of its own.
          HCFlowError: as `hcflow_tf.load_model`.
        """
        # As in training, before TensorFlow starts: where it leaves oneDNN alone, gradients take 0.64 of the time with it.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        super().__init__(path_or_name)
        if not self.makes_lr:
            raise UsageError(f"--refine {steps}: is for rescaling models, which make their own LR images; {self.name} is none")
        from hcflow_tf.models.refinement import Refinement

        self._refine, self._steps = Refinement(self._inference), steps
        self.decode_bytes *= MEMORY

    def downscale(self, hr: np.ndarray) -> np.ndarray:
        """The refined LR images, of 8-bit values."""
        encoded, refined = super().downscale(hr), []
        for image, lr in zip(hr, encoded, strict=True):
            bicubic = imresize(image, 1 / self.scale).astype(np.float32)
            refined.append(self._refine(image[None], lr[None], bicubic[None], self._steps)[0])
        return np.stack(refined)
