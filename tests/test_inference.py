"""Tiles, runtimes and pictures: any size, any bit depth, the same image whatever the tiles are."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms
from tiny import photograph, tiny_model

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import ImageError, quantize, read_image, write_image
from hcflow_tf.inference import memory, scaling
from hcflow_tf.inference.heat_map import Spread, heat_map
from hcflow_tf.inference.pictures import ORIGINAL_KEY, Original, downscale_file, upscale_file
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.inference.tiles import spans
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.models.complexity import measure
from hcflow_tf.models.flow_model import LR_LOG_STD, gaussian_log_prob, latent_log_prob
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.runtimes.bicubic import BicubicRuntime
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.latents import halving_latents
from hcflow_tf.weights.store import load_model, save_model


class BoxRuntime(Runtime):
    """Scale 4: a 5x5 box blur of lr, enlarged, plus the latents; all that it sees lies within 2 LR pixels."""

    name, task, scale, latents = "box", "super_resolution", 4, halving_latents((3, 3))
    overlap = 4

    def __init__(self, *, memory_for: int | None = None, fixed: tuple[int, int] | None = None):
        self.fixed_lr_size, self._memory_for, self.sizes = fixed, memory_for, []

    def decode(self, lr, latents):
        self.sizes.append(lr.shape[1:3])
        if self._memory_for and max(lr.shape[1:3]) > self._memory_for:
            raise MemoryError
        enlarged = [array.repeat(factor, 1).repeat(factor, 2) for array, factor in zip((lr, *latents), (4, 2, 4), strict=True)]
        return _box(enlarged[0], 4) + 0.1 * enlarged[1] + 0.05 * enlarged[2]

    def encode(self, hr):
        return _box(hr, 4)[:, ::4, ::4], []

    def log_prob(self, hr, lr):
        return np.array([lr.sum() - hr.sum()])


def _box(image, step):
    padded = np.pad(image, [(0, 0), (2 * step, 2 * step), (2 * step, 2 * step), (0, 0)])
    height, width = image.shape[1:3]
    shifts = [(step * row, step * column) for row in range(5) for column in range(5)]
    return sum(padded[:, top : top + height, left : left + width] for top, left in shifts) / 25


@pytest.fixture(scope="module", params=["super_resolution", "rescaling"])
def model_directory(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    save_model(tiny_model(request.param), directory)
    return directory


@pytest.fixture(scope="module")
def runtime(model_directory):
    return KerasRuntime(model_directory, guard=False)  # its weights are random: what it computes is what is tested


@pytest.fixture(scope="session")
def rescaler(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rescaler")
    save_model(tiny_model("rescaling"), directory)
    return KerasRuntime(directory)


def to_float(image):
    return image.astype(np.float32) / 255


# Tiles.


@pytest.mark.parametrize("length", [1, 16, 17, 31, 50, 199])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (16, 4), (24, 6), (200, 8)])
def test_weights_of_the_tiles_sum_to_one(length, tile, overlap):
    for exact in (False, True):
        total, plan = np.zeros(length * 3), spans(length, min(tile, length), overlap, exact=exact)
        (size,) = {span.stop - span.start for span in plan}
        assert size == min(tile, length) if exact else size <= min(tile, length)
        for span in plan:
            assert all(shared in (0, *range(2 * min(overlap, tile // 4), tile)) for shared in (span.head, span.tail))
            total[span.start * 3 : span.stop * 3] += span.weights(3)
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_tiles_are_no_larger_than_their_number_needs():
    plan = spans(1000, 256, 18)
    assert len(plan) == len(spans(1000, 256, 18, exact=True)) == 5
    assert [span.head for span in plan][1:] == [36, 36, 37, 36]


@pytest.mark.parametrize("size", [(40, 57), (16, 16), (1, 90), (33, 17)])
@pytest.mark.parametrize("tile", [16, 24])
def test_tiles_equal_the_whole_where_the_overlap_covers_the_receptive_field(size, tile):
    lr = to_float(photograph(*size))
    whole = Scaler(BoxRuntime(), 0).upscale(lr, 0.8, seed=3)
    np.testing.assert_allclose(Scaler(BoxRuntime(), tile).upscale(lr, 0.8, seed=3), whole, atol=1e-6)
    hr = to_float(photograph(4 * size[0], 4 * size[1]))
    np.testing.assert_allclose(Scaler(BoxRuntime(), tile).downscale(hr), Scaler(BoxRuntime(), 0).downscale(hr), atol=1e-6)


def test_tiles_of_a_model_agree_with_the_whole(runtime):
    """The overlap is less than the receptive field: agreement to half a grey level, see docs/usage.md."""
    lr = to_float(photograph(61, 84))
    whole = Scaler(runtime, 0).upscale(lr, 0.8, seed=3)
    tiled = Scaler(runtime, 56).upscale(lr, 0.8, seed=3)
    assert 0 < np.abs(tiled - whole).max() < 0.5 / 255


def test_a_tile_too_small_for_its_overlap_is_said_once(runtime, capsys):
    lr, enough = to_float(photograph(20, 90)), 4 * runtime.overlap
    scaler = Scaler(runtime, 24)
    scaler.upscale(lr[:, :24])  # in one piece
    assert not capsys.readouterr().err
    scaler.upscale(lr)
    scaler.upscale(lr)
    assert capsys.readouterr().err == (
        f"hcflow: note: --tile 24: seams may show, {runtime.name} needs tiles of {enough} LR pixels to hide them\n"
    )
    Scaler(runtime, enough).upscale(lr)
    assert not capsys.readouterr().err


def test_fixed_size_runtime_gets_its_size_only():
    lr = to_float(photograph(40, 57))
    runtime = BoxRuntime(fixed=(24, 32))
    np.testing.assert_allclose(Scaler(runtime).upscale(lr, 0.8, 1), Scaler(BoxRuntime(), 0).upscale(lr, 0.8, 1), atol=1e-6)
    assert set(runtime.sizes) == {(24, 32)}
    small = Scaler(runtime).upscale(lr[:5, :7], 0.8, 1)
    assert small.shape == (20, 28, 3)
    with pytest.raises(UsageError, match="only takes tiles of 24 x 32"):
        Scaler(runtime, 64)


def test_running_out_of_memory_halves_the_tiles(capsys, monkeypatch):
    monkeypatch.setattr(scaling, "modest_tile", lambda *sizes: 1024)
    lr, runtime = to_float(photograph(70, 90)), BoxRuntime(memory_for=50)
    scaler = Scaler(runtime)
    np.testing.assert_allclose(scaler.upscale(lr, 0.8, 1), Scaler(BoxRuntime(), 0).upscale(lr, 0.8, 1), atol=1e-6)
    assert runtime.sizes[:2] == [(70, 90), (39, 36)]
    assert "tiles of 45 LR pixels" in capsys.readouterr().err
    with pytest.raises(HCFlowError, match="out of memory for a tile of 70 x 80 LR pixels; try --tile 40"):
        Scaler(runtime, 80).upscale(lr)
    with pytest.raises(HCFlowError, match="box: out of memory"):
        Scaler(BoxRuntime(memory_for=4)).upscale(lr)
    with pytest.raises(MemoryError):  # no tile makes the image itself smaller
        Scaler(BoxRuntime(), 64).upscale(np.broadcast_to(np.float32(0), (2**26, 2**26, 3)))


def test_log_prob_counts_each_tile_once_when_memory_runs_out(monkeypatch, capsys):
    """Memory runs out once, after a tile was counted; the likelihood of the box model is the number of its pixels."""
    monkeypatch.setattr(scaling, "modest_tile", lambda *sizes: 48)
    runtime, calls = BoxRuntime(), []

    def log_prob(hr, lr):
        calls.append(lr.shape)
        if len(calls) == 2:
            raise MemoryError
        return np.asarray([float(np.prod(lr.shape[1:3]))])

    runtime.log_prob = log_prob
    lr, hr = to_float(photograph(70, 90)), to_float(photograph(70 * runtime.scale, 90 * runtime.scale))
    assert Scaler(runtime).log_prob(hr, lr) == 70 * 90
    assert "out of memory: going on with tiles of 24 LR pixels" in capsys.readouterr().err


def test_out_of_memory_is_recognised():
    assert scaling._is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    assert not scaling._is_out_of_memory(ValueError("other"))


def test_tile_side_follows_memory(monkeypatch):
    assert memory.largest_tile(10_000, 2 * 10_000 * 400**2) == 384
    assert memory.largest_tile(10_000, 0) == memory.SIDES[0]
    assert memory.modest_tile(10_000, 2**40, overlap=16) == 320  # of a small network, a gigabyte at most
    assert memory.modest_tile(10_000, 2 * 10_000 * 100**2, overlap=16) == 96
    assert memory.modest_tile(100_000, 2**36, overlap=32) == 512  # of a large one, as memory allows
    assert 0 < memory.available_memory() < 2**50
    monkeypatch.setattr(scaling, "available_memory", lambda: 2 * BoxRuntime.decode_bytes * 65**2)
    runtime = BoxRuntime()
    Scaler(runtime).upscale(to_float(photograph(70, 90)))
    assert set(runtime.sizes) == {(39, 49)}  # two by two, of at most 64


def test_log_prob_of_tiles_covers_every_pixel_once():
    lr, hr = to_float(photograph(40, 57)), to_float(photograph(160, 228))
    expected = BoxRuntime().log_prob(hr, lr)[0]
    assert Scaler(BoxRuntime(), 24).log_prob(hr, lr) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tile", [-1, 8])
def test_bad_tile(tile):
    with pytest.raises(UsageError, match="give at least 16"):
        Scaler(BoxRuntime(), tile)


# Runtimes.


def test_keras_runtime_is_the_model(runtime, model_directory):
    model, image = load_model(model_directory), to_float(photograph(48, 36))[None]
    (lr, *latents), log_det = model.flow.forward_and_log_det(image)
    encoded, encoded_latents = runtime.encode(image)
    np.testing.assert_allclose(encoded, lr, atol=2e-5)
    np.testing.assert_allclose(runtime.downscale(image), lr, atol=2e-5)
    for z, expected in zip(encoded_latents, latents, strict=True):
        np.testing.assert_allclose(z, expected, atol=1e-4)
    expected = gaussian_log_prob(lr, lr, LR_LOG_STD) + latent_log_prob(latents) + log_det
    np.testing.assert_allclose(runtime.log_prob(image, lr), expected, rtol=1e-5)
    sample = model.flow.inverse_and_log_det([lr, *model.draw_latents(lr.shape, 0.8, seed=9)])[0][0]
    upscaled = Scaler(runtime).upscale(lr[0].numpy(), 0.8, seed=9)
    np.testing.assert_allclose(upscaled, np.clip(sample, 0, 1), atol=2e-5)


def test_downscaling_computes_no_feature_extractor(runtime):
    """TensorFlow prunes it: the encoder's LR image costs the main steps only."""
    assert _convolutions(runtime._downscale) < 0.5 * _convolutions(runtime._encode)


def _convolutions(function):
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = convert_variables_to_constants_v2(function.get_concrete_function()).graph.as_graph_def()
    return sum(node.op == "Conv2D" for node in graph.node)


def test_bicubic_runtime_is_matlabs():
    lr = photograph(20, 30)
    np.testing.assert_array_equal(quantize(BicubicRuntime(4).decode(to_float(lr)[None])[0]), imresize(lr, 4))
    np.testing.assert_array_equal(quantize(BicubicRuntime(2).encode(to_float(lr)[None])[0][0]), imresize(lr, 0.5))
    deep = np.random.default_rng(0).random((8, 8, 3), np.float32)
    np.testing.assert_allclose(BicubicRuntime(4).decode(deep[None])[0], imresize(deep, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no model at nowhere"),
        ("nowhere.onnx", "there is no such file"),
        ("nowhere.tflite", "there is no such file"),
        ("weights.pth", "run `hcflow convert` on it first"),
        ("notes.txt", "is not a model directory, a SavedModel directory, a .tflite or an .onnx file"),
        ("empty", "expected a directory with config.yaml and weights.npz"),
    ],
)
def test_what_is_no_model_is_told_in_one_line(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for file in ("weights.pth", "notes.txt"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(HCFlowError, match=message) as caught:
        open_runtime(name)
    assert "\n" not in str(caught.value)


def test_scale_of_a_model_is_checked(model_directory):
    assert open_runtime("bicubic", scale=8).scale == 8
    with pytest.raises(UsageError, match="is a model for x4"):
        open_runtime(model_directory, scale=8)


# Cost.


@pytest.mark.parametrize("task", ["super_resolution", "rescaling"])
@pytest.mark.parametrize("scale", [2, 4])
def test_cost_agrees_with_the_graph(task, scale):
    model = tiny_model(task, scale=scale)
    cost = measure(model.config, {name: weight.shape for name, weight in model.named_weights().items()})
    assert sum(cost.parameters.values()) == model.count_params()
    image = tf.TensorSpec([1, 16, 16, 3], tf.float32)
    flow = InferenceModel(model).flow
    graph = tf.function(flow.forward_and_log_det, autograph=False).get_concrete_function(image).graph
    adds = 0  # the products of matrices are among weights, once for all pixels
    for op in graph.get_operations():
        if op.type == "Conv2D":
            adds += np.prod(op.outputs[0].shape[1:3]) * np.prod(op.inputs[1].shape)
    assert sum(cost.multiply_adds.values()) == adds / 16**2


@pytest.mark.parametrize("task", ["super_resolution", "rescaling"])
def test_receptive_field_is_a_bound_and_near(task):
    model = tiny_model(task, dtype="float64")  # what comes from far is faint
    cost = measure(model.config, {name: weight.shape for name, weight in model.named_weights().items()})
    width = 2 * cost.decode_radius + 9
    lr = tf.constant(np.random.default_rng(0).random((1, 3, width, 3)))
    latents = model.draw_latents(lr.shape, 0.5, seed=0)
    with tf.GradientTape() as tape:
        tape.watch(lr)
        pixel = tf.reduce_sum(model.flow.inverse_and_log_det([lr, *latents])[0][0, :, width // 2 * 4])
    gradient = np.abs(tape.gradient(pixel, lr)[0]).max(axis=(0, 2))
    assert np.isfinite(gradient).all()
    reached = np.nonzero(gradient)[0]
    radius = max(width // 2 - reached.min(), reached.max() - width // 2)
    assert cost.decode_radius - 4 <= radius <= cost.decode_radius


@pytest.mark.parametrize("task", ["super_resolution", "rescaling"])
def test_receptive_field_of_downscaling_is_a_bound_and_near(task):
    model = tiny_model(task, dtype="float64")
    cost = measure(model.config, {name: weight.shape for name, weight in model.named_weights().items()})
    block = cost.downscale_radius // 4 + 2  # the LR pixel; it covers HR pixels 4 block to 4 block + 3
    hr = tf.constant(np.random.default_rng(0).random((1, 4, 4 * (2 * block + 1), 3)))
    with tf.GradientTape() as tape:
        tape.watch(hr)
        pixel = tf.reduce_sum(model.flow.forward_and_log_det(hr)[0][0][0, :, block])
    reached = np.nonzero(np.abs(tape.gradient(pixel, hr)[0]).max(axis=(0, 2)))[0]
    radius = max(4 * block - reached.min(), reached.max() - (4 * block + 3))
    # The last coupling of a level does not change the channels that go on: 1 of the 2 steps counts for super-resolution.
    assert cost.downscale_radius / 2 <= radius <= cost.downscale_radius


# Pictures.


@pytest.mark.parametrize("size", [(13, 22), (1, 9), (9, 1), (1, 1)])
def test_any_size_is_enlarged_exactly(runtime, tmp_path, size):
    write_image(tmp_path / "in.png", photograph(*size))
    upscale_file(Scaler(runtime), tmp_path / "in.png", [tmp_path / "out.png"], temperature=0.8)
    assert read_image(tmp_path / "out.png").rgb.shape == (4 * size[0], 4 * size[1], 3)


@pytest.mark.parametrize("size", [(48, 64), (50, 67), (1, 9), (3, 3)])
def test_downscale_then_upscale_restores_the_size(rescaler, tmp_path, size):
    scaler = Scaler(rescaler)
    write_image(tmp_path / "in.png", photograph(*size))
    downscale_file(scaler, tmp_path / "in.png", tmp_path / "lr.png")
    lr = read_image(tmp_path / "lr.png")
    assert lr.rgb.shape[:2] == tuple(-(-side // 4) for side in size)
    upscale_file(scaler, tmp_path / "lr.png", [tmp_path / "out.png"])
    assert read_image(tmp_path / "out.png").rgb.shape[:2] == size


def test_round_trip_through_files_is_encode_and_decode(rescaler, tmp_path):
    hr = photograph(48, 64)
    write_image(tmp_path / "in.png", hr)
    downscale_file(Scaler(rescaler), tmp_path / "in.png", tmp_path / "lr.png")
    upscale_file(Scaler(rescaler), tmp_path / "lr.png", [tmp_path / "out.png"])
    lr, latents = rescaler.encode(to_float(hr)[None])
    restored = rescaler.decode(to_float(quantize(lr)), [np.zeros_like(z) for z in latents])[0]
    assert psnr(read_image(tmp_path / "out.png").rgb, hr) == pytest.approx(psnr(quantize(restored), hr), abs=1e-3)


def test_original_size_of_another_scale_or_crop_is_ignored(rescaler, tmp_path):
    for entry in ('{"width": 30, "height": 30, "scale": 8, "gray": false}', '{"width": 99}', "no json", "[]"):
        write_image(tmp_path / "lr.png", photograph(8, 8), text={ORIGINAL_KEY: entry})
        upscale_file(Scaler(rescaler), tmp_path / "lr.png", [tmp_path / "out.png"])
        assert read_image(tmp_path / "out.png").rgb.shape == (32, 32, 3)


def test_same_seed_same_bytes(runtime, tmp_path):
    write_image(tmp_path / "in.png", photograph(11, 14))
    names = [tmp_path / f"{name}.png" for name in "abcd"]
    upscale_file(Scaler(runtime), tmp_path / "in.png", names[:2], temperature=0.8, seed=4)
    upscale_file(Scaler(runtime), tmp_path / "in.png", names[2:], temperature=0.8, seed=5)
    a, b, c, d = (name.read_bytes() for name in names)
    assert b == c  # sample i is drawn with seed + i
    assert len({a, b, d}) == 3


def test_alpha_profile_and_orientation(tmp_path):
    rgb, alpha = photograph(10, 16), photograph(10, 16, seed=1)[..., 0]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_image(tmp_path / "in.png", rgb, alpha=alpha, icc_profile=profile)
    upscale_file(Scaler(BicubicRuntime(4)), tmp_path / "in.png", [tmp_path / "out.png"])
    out = read_image(tmp_path / "out.png")
    np.testing.assert_array_equal(out.alpha, imresize(alpha, 4))
    np.testing.assert_array_equal(out.rgb, imresize(rgb, 4))
    assert out.icc_profile == profile
    upscale_file(Scaler(BicubicRuntime(4)), tmp_path / "in.png", [tmp_path / "deep.png"], bits=16)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").alpha, imresize(alpha, 4).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "turned.webp", lossless=True, exif=exif)
    upscale_file(Scaler(BicubicRuntime(4)), tmp_path / "turned.webp", [tmp_path / "out.png"])
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").rgb, imresize(np.rot90(rgb, -1), 4))


def test_transparency_survives_downscaling(rescaler, tmp_path):
    write_image(tmp_path / "in.png", photograph(10, 15), alpha=photograph(10, 15, seed=1)[..., 0])
    downscale_file(Scaler(rescaler), tmp_path / "in.png", tmp_path / "lr.png")
    assert read_image(tmp_path / "lr.png").alpha.shape == (3, 4)
    upscale_file(Scaler(rescaler), tmp_path / "lr.png", [tmp_path / "out.png"])
    assert read_image(tmp_path / "out.png").alpha.shape == (10, 15)
    with pytest.raises(HCFlowError, match="JPEG cannot hold transparency"):
        upscale_file(Scaler(rescaler), tmp_path / "lr.png", [tmp_path / "out.jpg"])


def test_bit_depth(runtime, tmp_path):
    deep = photograph(9, 8).astype(np.uint16) * 257 + 100
    write_image(tmp_path / "deep.png", deep, alpha=deep[..., 0])
    outputs = {bits: tmp_path / f"{bits}.png" for bits in (None, 8, 16)}
    for bits, path in outputs.items():
        upscale_file(Scaler(runtime), tmp_path / "deep.png", [path], bits=bits)
    automatic, eight, sixteen = (read_image(path) for path in outputs.values())
    assert (automatic.bit_depth, eight.bit_depth, sixteen.bit_depth) == (16, 8, 16)
    np.testing.assert_array_equal(automatic.rgb, sixteen.rgb)
    assert np.abs(sixteen.rgb / 257 - eight.rgb).max() <= 0.51
    expected = Scaler(runtime).upscale(deep.astype(np.float32) / 65535)
    np.testing.assert_array_equal(sixteen.rgb, quantize(expected, 16))


def test_gray_stays_gray(rescaler, tmp_path):
    Image.fromarray(photograph(10, 16)[..., 0]).save(tmp_path / "in.png")
    upscale_file(Scaler(rescaler), tmp_path / "in.png", [tmp_path / "out.png"])
    assert not np.ptp(read_image(tmp_path / "out.png").rgb, axis=2).any()
    downscale_file(Scaler(rescaler), tmp_path / "in.png", tmp_path / "lr.png")
    upscale_file(Scaler(rescaler), tmp_path / "lr.png", [tmp_path / "out.png"])
    assert not np.ptp(read_image(tmp_path / "out.png").rgb, axis=2).any()


def test_output_cap(rescaler, tmp_path):
    write_image(tmp_path / "in.png", photograph(10, 16))
    with pytest.raises(ImageError, match="64 x 40 pixels after upscaling are more than the cap of 2,559 pixels"):
        upscale_file(Scaler(rescaler), tmp_path / "in.png", [tmp_path / "out.png"], max_pixels=2559)
    upscale_file(Scaler(rescaler), tmp_path / "in.png", [tmp_path / "out.png"], max_pixels=2560)
    with pytest.raises(ImageError, match="more than the cap"):
        downscale_file(Scaler(rescaler), tmp_path / "in.png", tmp_path / "out.png", max_pixels=159)


def test_uncertainty_is_the_standard_deviation(runtime, tmp_path):
    write_image(tmp_path / "in.png", photograph(12, 12))
    targets = [tmp_path / f"{index}.png" for index in range(3)]
    made = upscale_file(Scaler(runtime), tmp_path / "in.png", targets, temperature=0.8, uncertainty=tmp_path / "map.png")
    samples = np.stack([read_image(target).rgb.astype(np.float64) for target in targets])
    expected = samples.std(axis=0).mean(axis=2)
    assert float(made.note().split("deviation ")[1].split(",")[0]) == pytest.approx(expected.mean(), abs=0.1)
    picture = read_image(tmp_path / "map.png")
    assert picture.rgb.shape == (48, 48, 3)
    brightness = picture.rgb.sum(axis=2)
    assert np.corrcoef(brightness.ravel(), expected.ravel())[0, 1] > 0.95
    assert picture.text["hcflow_uncertainty"].startswith("brightest = ")


def test_spread_and_heat_map():
    images = np.random.default_rng(0).random((5, 4, 6, 3), np.float32)
    spread = Spread()
    for image in images:
        spread.add(image)
    np.testing.assert_allclose(spread.deviation(), 255 * images.std(axis=0).mean(axis=2), rtol=1e-4)
    np.testing.assert_array_equal(heat_map(np.array([[0.0, 2.0, 9.0]]), 2.0)[0, :, 0], [0, 255, 255])
    assert not heat_map(np.zeros((2, 2)), 0.0).max() > 4


@pytest.mark.parametrize(
    "entry",
    [
        '{"width": 40.0, "height": 28, "scale": 4, "gray": false}',
        '{"width": "40", "height": 28, "scale": 4, "gray": false}',
        '{"width": true, "height": 28, "scale": 4, "gray": false}',
        '{"width": NaN, "height": 28, "scale": 4, "gray": false}',
        '{"width": 1000000, "height": 28, "scale": 4, "gray": false}',
        '{"width": -40, "height": 28, "scale": 4, "gray": false}',
        '{"width": 40, "height": 28, "scale": 4}',
        "[" * 100_000,
        "null",
    ],
)
def test_an_original_that_lies_is_not_believed(entry, tmp_path):
    assert Original.from_text({ORIGINAL_KEY: entry}, (7, 10), 4) is None
    honest = Original(40, 28, 4, gray=False)
    assert Original.from_text(honest.to_text(), (7, 10), 4) == honest


@pytest.mark.parametrize("weights_are_bad", [False, True])
def test_what_is_not_finite_writes_nothing_and_is_told_with_its_cause(weights_are_bad, tmp_path):
    def spoilt(values, image):
        return values * (np.inf if weights_are_bad or np.ptp(image) > 0 else 1)

    class Exploding(BoxRuntime):
        def decode(self, lr, latents):
            return spoilt(super().decode(lr, latents), lr)

        def downscale(self, hr):
            return spoilt(super().downscale(hr), hr)

        def log_prob(self, hr, lr):
            return spoilt(super().log_prob(hr, lr), hr)

    cause = ": so it does of a gray picture, its weights are" if weights_are_bad else ": the picture is too unlike"
    buffer = io.BytesIO()
    Image.fromarray(photograph(8, 8)).save(buffer, "PNG")
    (tmp_path / "in.png").write_bytes(buffer.getvalue())
    with pytest.raises(HCFlowError, match=f"box computes no finite likelihood{cause}"):
        Scaler(Exploding()).log_prob(to_float(photograph(32, 32)), to_float(photograph(8, 8)))
    with pytest.raises(HCFlowError, match=f"box computes values that are not finite{cause}"):
        Scaler(Exploding()).downscale(to_float(photograph(32, 32)))
    for temperature in (0.0, 0.8):
        with pytest.raises(HCFlowError, match=f"box computes values that are not finite{cause}") as error:
            upscale_file(Scaler(Exploding()), tmp_path / "in.png", [tmp_path / "out.png"], temperature=temperature)
        assert ("--temperature" in str(error.value)) == (temperature > 0 and not weights_are_bad)
    assert not (tmp_path / "out.png").exists()
