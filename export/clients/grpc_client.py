"""Draws a sample from a TF Serving model over gRPC: grpc_client.py IMAGE OUTPUT.png [--temperature T] [--seed N].

Needs tensorflow-serving-api and Pillow; sends pixels to the signature sample.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import grpc
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MAX_MESSAGE_BYTES = 256 * 2**20


def call(
    address: str, model: str, signature: str, inputs: dict[str, np.ndarray], timeout: float = 600.0
) -> dict[str, np.ndarray]:
    """Returns the outputs of a signature.

    Raises:
      grpc.RpcError: the server refuses or cannot be reached.
    """
    limits = [("grpc.max_send_message_length", MAX_MESSAGE_BYTES), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(address, options=limits) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def main() -> None:
    """Runs the client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--address", default="localhost:8500")
    parser.add_argument("--model", default="hcflow")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    args = parser.parse_args()
    if args.output.exists() and not args.overwrite:
        parser.error(f"{args.output} exists already; --overwrite replaces it")
    inputs = {
        "image": np.asarray(Image.open(args.image).convert("RGB"))[None],
        "temperature": np.array([args.temperature], np.float32),
        "seed": np.array([args.seed], np.int64),
    }
    try:
        image = call(args.address, args.model, "sample", inputs)["image"][0]
    except grpc.RpcError as error:
        sys.exit(f"grpc_client.py: {error.code().name}: {error.details()}")
    Image.fromarray(image).save(args.output)


if __name__ == "__main__":
    main()
