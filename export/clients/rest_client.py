"""Enlarges an image by a TF Serving model over REST: rest_client.py IMAGE OUTPUT.png [--url URL] [--model NAME].

Needs the standard library only; sends the file as it is (PNG or JPEG) to the signature upscale_bytes.
"""

from __future__ import annotations

import argparse
import base64
import json
import pathlib
import sys
import urllib.error
import urllib.request


def call(url: str, model: str, image: bytes, signature: str = "upscale_bytes", timeout: float = 600.0) -> bytes:
    """Returns the PNG file that the server makes of a PNG or JPEG file.

    Raises:
      RuntimeError: the server refuses, with its own words.
    """
    body = {"signature_name": signature, "instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}}]}
    request = urllib.request.Request(
        f"{url}/v1/models/{model}:predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            prediction = json.load(response)["predictions"][0]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {error.read().decode(errors='replace')}") from error
    return base64.b64decode(prediction["b64"] if "b64" in prediction else prediction["image_bytes"]["b64"])


def main() -> None:
    """Runs the client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--url", default="http://localhost:8501")
    parser.add_argument("--model", default="hcflow")
    parser.add_argument("--signature", default="upscale_bytes", choices=("upscale_bytes", "downscale_bytes"))
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    args = parser.parse_args()
    if args.output.exists() and not args.overwrite:
        parser.error(f"{args.output} exists already; --overwrite replaces it")
    try:
        args.output.write_bytes(call(args.url, args.model, args.image.read_bytes(), args.signature))
    except (OSError, RuntimeError) as error:
        sys.exit(f"rest_client.py: {error}")


if __name__ == "__main__":
    main()
