"""The model.py of a Triton model repository (Python backend): uint8 images in, enlarged uint8 images out.

Copied as it is by `hcflow export triton`; needs NumPy and ONNX Runtime only. Requests that Triton's dynamic batcher hands
over together and whose images have one size are decoded in one call.
"""

from __future__ import annotations

import collections
import os
import pathlib

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the import

import onnxruntime


class TritonPythonModel:
    """What Triton loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens decoder.onnx, which lies beside this file."""
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        self._session = onnxruntime.InferenceSession(str(folder / "decoder.onnx"), providers=["CPUExecutionProvider"])
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self._channels = [shapes[f"latents_{number}"][3] for number in range(1, len(shapes))]
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._scale, self._divisors = int(metadata["scale"]), [int(text) for text in metadata["latent_divisors"].split()]

    def execute(self, requests: list) -> list:
        """One response for each request."""
        together = collections.defaultdict(list)
        for index, request in enumerate(requests):
            together[_tensor(request, "image").shape[1:]].append(index)
        responses: list = [None] * len(requests)
        for indices in together.values():
            try:
                images = self._enlarge([requests[index] for index in indices])
            except Exception as error:
                for index in indices:
                    responses[index] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
                continue
            for index, image in zip(indices, images, strict=True):
                responses[index] = pb_utils.InferenceResponse([pb_utils.Tensor("enlarged", image)])
        return responses

    def _enlarge(self, requests: list) -> list[np.ndarray]:
        """Decodes requests of one image size together."""
        images = [_tensor(request, "image") for request in requests]
        _, height, width, _ = images[0].shape
        # Mirrored to a size that the model takes: its coarsest latents may be smaller than the image.
        multiple = max([1, *(divisor // self._scale for divisor in self._divisors)])
        missing = [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)]
        counts = [len(image) for image in images]
        temperatures = np.concatenate(
            [_optional(request, "temperature", len(i)) for request, i in zip(requests, images, strict=True)]
        )
        seeds = np.concatenate([_optional(request, "seed", len(i)) for request, i in zip(requests, images, strict=True)])
        lr = np.pad(np.concatenate(images), missing, mode="symmetric").astype(np.float32) / np.float32(255)
        inputs = {"lr": lr}
        for number, (channels, divisor) in enumerate(zip(self._channels, self._divisors, strict=True), start=1):
            shape = (*(side * self._scale // divisor for side in lr.shape[1:3]), channels)
            pairs = zip(seeds, temperatures, strict=True)
            inputs[f"latents_{number}"] = np.stack([draw_latents(int(seed), number, shape, float(t)) for seed, t in pairs])
        (hr,) = self._session.run(["hr"], inputs)
        hr = hr[:, : height * self._scale, : width * self._scale]
        enlarged = np.floor(hr.clip(0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        return np.split(enlarged, np.cumsum(counts)[:-1])


def _tensor(request: object, name: str) -> np.ndarray:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _optional(request: object, name: str, count: int) -> np.ndarray:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return np.zeros(count) if tensor is None else tensor.as_numpy().reshape(count)


def draw_latents(seed: int, level: int, shape: tuple[int, ...], temperature: float) -> np.ndarray:
    """The values of `hcflow_tf.models.latents.draw_latents`: Philox 4x32-10, TensorFlow's stateless seeding, Box-Muller."""
    if temperature == 0:
        return np.zeros(shape, np.float32)
    count = int(np.prod(shape))
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, level, 0]
    mix = _philox([np.array([word], np.uint64) for word in words], (0x3EC8F720, 0x02461E29))
    groups = np.arange(-(-count // 4), dtype=np.uint64)
    counter = [groups & np.uint64(0xFFFFFFFF), groups >> np.uint64(32), *(np.broadcast_to(mix[i], groups.shape) for i in (2, 3))]
    bits = np.stack(_philox(counter, (int(mix[0][0]), int(mix[1][0]))), axis=1).astype(np.uint32)
    uniform = ((bits & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    radius = np.sqrt(np.float32(-2) * np.log(np.maximum(uniform[:, 0::2], np.float32(1e-7))))
    angle = (2 * np.pi * uniform[:, 1::2].astype(np.float64)).astype(np.float32)
    normal = np.stack([np.sin(angle) * radius, np.cos(angle) * radius], axis=2).reshape(-1)[:count]
    return (np.float32(temperature) * normal).reshape(shape)


def _philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Ten rounds on four words of 32 bits, held in 64."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> shift) ^ c1 ^ np.uint64(k0), b & low, (a >> shift) ^ c3 ^ np.uint64(k1), a & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]
