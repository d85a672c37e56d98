"""The files beside a SavedModel that TF Serving and its operator need."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Iterable, Sequence

import tensorflow as tf

from hcflow_tf.runtimes.export_frame import model_name
from hcflow_tf.runtimes.exported import latent_names
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.latents import Latent, latent_shapes

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
WARMUP_SIZE = 16
"""LR pixels of the warm-up images."""

BATCHING = """\
# Requests that arrive within the timeout and have equal image sizes run together. On a CPU, batches save little: raise
# num_batch_threads to the number of requests that memory allows at a time (docs/export.md says what one takes).
max_batch_size { value: 8 }
batch_timeout_micros { value: 5000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 }
"""

COMPOSE = """\
services:
  {name}:
    image: tensorflow/serving:2.20.0
    command:
      - --enable_batching=true
      - --batching_parameters_file=/models/{name}/batching_parameters.txt
    environment:
      MODEL_NAME: {name}
    volumes:
      - .:/models/{name}:ro
    ports:
      - "8500:8500" # gRPC
      - "8501:8501" # REST
    restart: unless-stopped
"""


def docker_run(directory: pathlib.Path) -> str:
    """The command that serves the directory of versions."""
    name = model_name(directory)
    volume = shlex.quote(f"{directory.resolve()}:/models/{name}:ro")
    return (
        f"docker run --rm -p 8500:8500 -p 8501:8501 -v {volume} -e MODEL_NAME={name} "
        f"tensorflow/serving:2.20.0 --enable_batching=true --batching_parameters_file=/models/{name}/batching_parameters.txt"
    )


def warmup_inputs(scale: int, latents: Sequence[Latent], signatures: Iterable[str]) -> dict[str, dict[str, tf.Tensor]]:
    """Inputs of one request to each of these signatures."""
    lr, hr = WARMUP_SIZE, WARMUP_SIZE * scale
    image, large = tf.fill([1, lr, lr, 3], tf.constant(128, tf.uint8)), tf.fill([1, hr, hr, 3], tf.constant(128, tf.uint8))
    shapes = latent_shapes(lr, lr, scale, latents)
    zeros = {name: tf.zeros([1, *shape]) for name, shape in zip(latent_names(len(shapes)), shapes, strict=True)}
    requests = {
        "serving_default": {"image": image},
        "upscale": {"image": image},
        "sample": {"image": image, "temperature": tf.constant([0.8]), "seed": tf.constant([0], tf.int64)},
        "upscale_bytes": {"image_bytes": tf.io.encode_png(image)},
        "encode": {"hr": tf.fill([1, hr, hr, 3], 0.5)},
        "decode": {"lr": tf.fill([1, lr, lr, 3], 0.5), **zeros},
        "log_prob": {"hr": tf.fill([1, hr, hr, 3], 0.5), "lr": tf.fill([1, lr, lr, 3], 0.5)},
        "downscale": {"image": large},
        "downscale_bytes": {"image_bytes": tf.io.encode_png(large)},
    }
    return {name: requests[name] for name in signatures}


def write_warmup(directory: pathlib.Path, name: str, inputs: dict[str, dict[str, tf.Tensor]]) -> None:
    """Writes the requests that TF Serving replays when it loads the version in `directory`.

    Raises:
      HCFlowError: tensorflow-serving-api is not installed.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError as error:
        raise HCFlowError("needs tensorflow-serving-api: pip install hcflow_tf[export]") from error
    file = directory / WARMUP_FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, tensors in inputs.items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, value in tensors.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
            writer.write(log.SerializeToString())


def write_server_files(directory: pathlib.Path) -> None:
    """Writes the batching parameters and the compose file into the directory of versions, where they are missing."""
    for file, text in (("batching_parameters.txt", BATCHING), ("compose.yaml", COMPOSE.format(name=model_name(directory)))):
        if not (directory / file).exists():
            (directory / file).write_text(text, encoding="utf-8")
