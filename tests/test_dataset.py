"""Training crops: alignment, order, resuming; the caches; the scan; validation pairs; the prepare command."""

from __future__ import annotations

import collections
import os
import shutil
import sys

import numpy as np
import pytest

from hcflow_tf.config import parse_config
from hcflow_tf.data import cache as cache_module
from hcflow_tf.data import samples
from hcflow_tf.data.cache import DiskCache, MemoryCache, NoCache
from hcflow_tf.data.dataset import TrainingData, validation_pairs
from hcflow_tf.data.graphics import KINDS, Graphics, draw
from hcflow_tf.data.pairs import Pair, fit_to_scale, load_pair
from hcflow_tf.data.resize import imresize
from hcflow_tf.data.scan import scan
from hcflow_tf.images.images import read_header, write_image
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError

CROP, SCALE = 16, 4


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Five images of different sizes, none a multiple of the scale."""
    for index in range(5):
        write_image(tmp_path / "hr" / f"{index}.png", noise(33 + index, 50 - 3 * index, index))
    return tmp_path / "hr"


@pytest.fixture
def config(folder):
    """Makes a config over `folder`, with a disk cache beside it."""

    def make(**data):
        settings = {"crop_size": CROP, "cache": "memory", "cache_dir": str(folder.parent / "cache"), **data}
        settings.setdefault("train", {"hr": str(folder)})
        text = f"model: {{scale: {SCALE}}}\ndata: {settings!r}\n".replace("True", "true").replace("False", "false")
        return parse_config(text.replace("None", "null"))

    return make


def place_of(crop: np.ndarray, image: np.ndarray) -> tuple[int, int]:
    """Where a crop lies in its (noise) image."""
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)[:, :, 0]
    ((top, left),) = np.argwhere((windows == crop).all(axis=(2, 3, 4)))
    return int(top), int(left)


def batches(data: TrainingData, start_step: int, steps: int, batch_size: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(data.dataset(start_step, batch_size).take(steps).as_numpy_iterator())


# ---- crops


def test_lr_is_the_same_region_of_the_whole_reduced_image(config):
    data = TrainingData(config(flip=False))
    wholes = [load_pair(pair, SCALE) for pair in data.report.good]
    images_seen, places = set(), set()
    for index in range(60):
        hr, lr = data.example(index)
        assert (hr.shape, lr.shape, hr.dtype, lr.dtype) == ((CROP, CROP, 3), (4, 4, 3), np.uint8, np.uint8)
        for number, (whole_hr, whole_lr) in enumerate(wholes):
            np.testing.assert_array_equal(whole_lr, imresize(whole_hr, 1 / SCALE))
            if (np.lib.stride_tricks.sliding_window_view(whole_hr, hr.shape) == hr).all(axis=(3, 4, 5)).any():
                top, left = place_of(hr, whole_hr)
                assert (top % SCALE, left % SCALE) == (0, 0)
                np.testing.assert_array_equal(lr, whole_lr[top // 4 : top // 4 + 4, left // 4 : left // 4 + 4])
                images_seen.add(number)
                places.add((number, top, left))
    assert len(images_seen) == 5
    assert len(places) > 40


def test_every_position_is_drawn_including_the_last(config, folder):
    for path in folder.iterdir():
        path.unlink()
    write_image(folder / "a.png", noise(CROP + 4, CROP + 8, 0))
    data = TrainingData(config(flip=False))
    drawn = collections.Counter(place_of(data.example(index)[0], noise(CROP + 4, CROP + 8, 0)) for index in range(600))
    assert set(drawn) == {(top, left) for top in (0, 4) for left in (0, 4, 8)}
    # 600 draws over 6 places: 100 each with standard deviation 9.1, so 5 of them either way.
    assert all(abs(count - 100) < 46 for count in drawn.values())


@pytest.mark.parametrize(
    ("flip", "rotate", "orientations"), [(False, False, 1), (True, False, 2), (False, True, 4), (True, True, 8)]
)
def test_flips_and_rotations_keep_hr_and_lr_together(config, folder, flip, rotate, orientations):
    for path in folder.iterdir():
        path.unlink()
    image = noise(CROP, CROP, 1)
    write_image(folder / "a.png", image)
    data = TrainingData(config(flip=flip, rotate=rotate))
    small = imresize(image, 1 / SCALE)
    expected = {}
    for turns in range(4):
        for mirror in (False, True):
            pair = [np.rot90(x[:, ::-1] if mirror else x, turns) for x in (image, small)]
            expected[pair[0].tobytes()] = (pair[1], mirror, turns)
    seen = set()
    for index in range(100):
        hr, lr = data.example(index)
        want, mirror, turns = expected[hr.tobytes()]
        np.testing.assert_array_equal(lr, want)
        seen.add((mirror, turns))
    assert len(seen) == orientations
    assert (True, 0) in seen or not flip


def test_each_epoch_visits_every_image_once_in_its_own_order(config):
    data = TrainingData(config(crop_size=32, flip=False))
    wholes = [load_pair(pair, SCALE)[0] for pair in data.report.good]

    def image_of(index: int) -> int:
        hr = data.example(index)[0]
        windows = [np.lib.stride_tricks.sliding_window_view(whole, hr.shape) for whole in wholes]
        return next(number for number, window in enumerate(windows) if (window == hr).all(axis=(3, 4, 5)).any())

    epochs = [[image_of(5 * epoch + position) for position in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_the_draw_never_changes_between_releases(config):
    """A run resumed by a later release sees the data it would have seen: values written down from the first release."""
    data = TrainingData(config())
    assert [data._order(epoch).tolist() for epoch in range(2)] == [[3, 2, 1, 0, 4], [4, 3, 1, 0, 2]]
    sums = [int(data.example(index)[0].astype(np.int64).sum()) for index in (0, 7, 123_456_789_012)]
    assert sums == [94499, 95965, 96052]


# ---- generated graphics


def test_graphics_take_their_share_and_leave_the_photographs_alone(config):
    plain, mixed, again = (TrainingData(config(graphics_share=share)) for share in (0.0, 0.3, 0.3))
    changed = 0
    for index in range(400):
        hr, lr = mixed.example(index)
        np.testing.assert_array_equal(hr, again.example(index)[0])
        np.testing.assert_array_equal(lr, again.example(index)[1])
        changed += not np.array_equal(hr, plain.example(index)[0])
    assert 84 <= changed <= 156  # 120 expected, standard deviation 9.2


def test_graphics_are_aligned_pictures_of_every_kind():
    one, same, other = Graphics(0, 20, SCALE, 24), Graphics(0, 20, SCALE, 24), Graphics(1, 20, SCALE, 24)
    assert len(one) == 24
    for index in range(24):
        hr, lr = one.get(index)
        assert hr.dtype == lr.dtype == np.uint8 and hr.shape == (192, 192, 3) and lr.shape == (48, 48, 3)
        np.testing.assert_array_equal(lr, imresize(hr, 1 / SCALE))
        np.testing.assert_array_equal(hr, same.get(index)[0])
    assert sum(not np.array_equal(one.get(i)[0], other.get(i)[0]) for i in range(24)) == 24
    flat = [draw(np.random.default_rng(seed), 96, KINDS[5]) for seed in range(40)]
    assert any(np.ptp(picture, axis=(0, 1)).max() == 0 for picture in flat)
    assert {0, 255} <= set(np.concatenate(flat).ravel().tolist())
    assert Graphics(0, 258, SCALE, 1).get(0)[0].shape == (260, 260, 3)


# ---- resuming


def test_resumed_run_sees_the_same_batches(config):
    data = TrainingData(config(rotate=True))
    whole = batches(data, 0, 7)
    resumed = batches(TrainingData(config(rotate=True)), 4, 3)
    for (hr, lr), (hr_again, lr_again) in zip(whole[4:], resumed, strict=True):
        np.testing.assert_array_equal(hr, hr_again)
        np.testing.assert_array_equal(lr, lr_again)
    assert not np.array_equal(whole[0][0], whole[5][0])


def test_batches_are_the_examples_as_floats(config):
    data = TrainingData(config())
    (_, (hr, lr)) = batches(data, 0, 2)
    assert hr.dtype == lr.dtype == np.float32
    for position in range(3):
        for batch, crop in zip((hr, lr), data.example(3 + position), strict=True):
            np.testing.assert_allclose(batch[position], crop / 255, rtol=0, atol=1e-7)
    spec = data.dataset(0, 3).element_spec
    assert [part.shape.as_list() for part in spec] == [[3, CROP, CROP, 3], [3, 4, 4, 3]]


def test_order_depends_on_neither_workers_nor_cache(config):
    first = batches(TrainingData(config(workers=1)), 0, 4)
    for options in ({"workers": 8}, {"cache": "disk"}, {"cache": "none", "workers": 3}):
        for (hr, lr), (other_hr, other_lr) in zip(first, batches(TrainingData(config(**options)), 0, 4), strict=True):
            np.testing.assert_array_equal(hr, other_hr)
            np.testing.assert_array_equal(lr, other_lr)


def test_seed_matters(config):
    one, other = config(), config()
    other = other.model_copy(update={"training": other.training.model_copy(update={"seed": 1})})
    assert not np.array_equal(batches(TrainingData(one), 0, 1)[0][0], batches(TrainingData(other), 0, 1)[0][0])


# ---- paired folders and several folders


def test_lr_folder_is_used(config, folder):
    for path in folder.iterdir():
        hr = noise(33 + int(path.stem), 50 - 3 * int(path.stem), int(path.stem))
        write_image(folder.parent / "lr" / f"{path.stem}x4.png", 255 - imresize(hr, 1 / SCALE))
    data = TrainingData(config(train={"hr": str(folder), "lr": str(folder.parent / "lr")}, flip=False))
    for index in range(10):
        hr, lr = data.example(index)
        whole_hr, whole_lr = next(
            whole
            for whole in (load_pair(pair, SCALE) for pair in data.report.good)
            if (np.lib.stride_tricks.sliding_window_view(whole[0], hr.shape) == hr).all(axis=(3, 4, 5)).any()
        )
        top, left = (side // SCALE for side in place_of(hr, whole_hr))
        np.testing.assert_array_equal(lr, whole_lr[top : top + 4, left : left + 4])


def test_lr_of_the_wrong_size_stops_the_scan(config, folder):
    shutil.copytree(folder, folder.parent / "lr")
    with pytest.raises(HCFlowError, match=r"lr/\d\.png: .* is not 1/4 of its HR image .*hr/\d\.png with"):
        TrainingData(config(train={"hr": str(folder), "lr": str(folder.parent / "lr")}))


def test_several_folders(config, folder):
    write_image(folder.parent / "more" / "0.png", noise(40, 40, 9))
    data = TrainingData(config(train={"hr": [str(folder), str(folder.parent / "more")]}))
    assert len(data) == 6


def test_no_folder_and_missing_folder(config, tmp_path):
    with pytest.raises(UsageError, match=r"data\.train\.hr: names no folder"):
        TrainingData(config(train={}))
    with pytest.raises(HCFlowError, match=r"data\.train\.hr: .*nowhere: no such folder"):
        TrainingData(config(train={"hr": str(tmp_path / "nowhere")}))


# ---- scan


def test_bad_images_are_left_out_and_named(config, folder):
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:900])
    (folder / "text.png").write_text("x")
    write_image(folder / "small.png", noise(CROP - 1, 40, 0))
    report = TrainingData(config(max_bad_share=0.5)).report
    assert len(report.good) == 5
    assert [reason.split(": ")[0].rsplit("/", 1)[1] for reason in report.bad] == ["bad.png", "small.png", "text.png"]
    assert "15 pixels are too small for data.crop_size 16" in report.bad[1]
    assert report.pixels == sum((33 + index) * (50 - 3 * index) for index in range(5))
    assert "5 images" in report.lines()[0]
    assert "3 left out" in report.lines()[0]
    with pytest.raises(HCFlowError, match=r"3 of 8 training images are unusable, .*0\.3 allows: .*bad\.png.*small.*text"):
        TrainingData(config(max_bad_share=0.3))


def test_only_bad_images_is_an_error_at_any_share(config, folder):
    with pytest.raises(HCFlowError, match=r"5 of 5 training images are unusable.*0\.png"):
        TrainingData(config(crop_size=64, max_bad_share=1.0))


@pytest.mark.parametrize("workers", [1, 7])
def test_scan_is_the_same_for_any_number_of_workers(folder, workers):
    for index in range(20):
        (folder / f"bad{index}.png").write_text("x")
    pairs = [Pair(path) for path in sorted(folder.iterdir())]
    report = scan(pairs, MemoryCache(SCALE), CROP, max_bad_share=0.9, workers=workers)
    assert [pair.hr.name for pair in report.good] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert list(report.bad) == sorted(report.bad)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(terminal, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    scan([Pair(path) for path in sorted(folder.iterdir())], NoCache(SCALE), CROP, max_bad_share=0, show_progress=True)
    shown = capsys.readouterr().err
    assert ("decoding: 100%|" in shown) if terminal else shown == ""


def test_a_cache_that_cannot_be_written_is_no_bad_image(config, folder):
    (folder.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(HCFlowError, match=r"^cannot write"):
        TrainingData(config(cache="disk", max_bad_share=1.0))


def test_a_full_disk_is_seen_before_decoding(config, folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(HCFlowError, match=r"data\.cache_dir: the decoded images need 0\.0 GB more"):
        TrainingData(config(cache="disk"))
    assert not (folder.parent / "cache").exists()


# ---- caches


@pytest.fixture
def decodings(monkeypatch):
    """Counts how many pairs are decoded."""
    seen = []

    def load_files(pair, scale):
        seen.append(pair.hr.name)
        return original(pair, scale)

    original = cache_module.load_files
    monkeypatch.setattr(cache_module, "load_files", load_files)
    return seen


def test_disk_cache_hits_and_misses(folder, tmp_path, decodings):
    pair, expected = Pair(folder / "0.png"), load_pair(Pair(folder / "0.png"), SCALE)

    def fetch(scale: int = SCALE) -> None:
        for array, want in zip(DiskCache(scale, tmp_path / "c").get(pair), fit_to_scale(expected_hr, None, scale), strict=True):
            np.testing.assert_array_equal(array, want)

    expected_hr = noise(33, 50, 0)
    np.testing.assert_array_equal(expected[0], expected_hr[:32, :48])
    assert not DiskCache(SCALE, tmp_path / "c").holds(pair)
    fetch()
    assert DiskCache(SCALE, tmp_path / "c").holds(pair)
    fetch()
    assert decodings == ["0.png"]
    fetch(scale=2)  # another scale: HR comes from the cache, LR is computed
    assert decodings == ["0.png"]
    os.utime(pair.hr, ns=(1, 1))  # the file was replaced
    assert not DiskCache(SCALE, tmp_path / "c").holds(pair)
    fetch()
    assert decodings == ["0.png", "0.png"]


@pytest.mark.parametrize("number", [0, 1], ids=["hr", "lr"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other size", "missing"])
def test_corrupted_cache_files_are_written_again(folder, tmp_path, damage, number):
    pair = Pair(folder / "0.png")
    cache = DiskCache(SCALE, tmp_path / "c")
    cache.get(pair)
    file = cache._names(pair)[number]
    file.write_bytes({"cut": file.read_bytes()[:-1], "text": b"hello"}.get(damage, b""))
    if damage == "other size":
        cache_module._write_array(file, np.zeros((99, 99, 3), np.uint8))
    elif damage == "missing":
        file.unlink()
    cache = DiskCache(SCALE, tmp_path / "c")
    assert not cache.holds(pair)
    for array, want in zip(cache.get(pair), load_pair(pair, SCALE), strict=True):
        np.testing.assert_array_equal(array, want)


def test_disk_cache_maps_files_instead_of_reading_them(folder, tmp_path):
    hr, lr = DiskCache(SCALE, tmp_path / "c").get(Pair(folder / "0.png"))
    assert isinstance(hr, np.memmap)
    assert isinstance(lr, np.memmap)
    assert not hr.flags.writeable


def test_memory_cache_decodes_once_and_no_cache_always(folder, monkeypatch):
    pair, calls = Pair(folder / "0.png"), []
    monkeypatch.setattr(cache_module, "load_pair", lambda *args: calls.append(args) or load_pair(*args))
    memory = MemoryCache(SCALE)
    first, again = memory.get(pair), memory.get(pair)
    assert first is again
    assert (memory.holds(pair), len(calls)) == (True, 1)
    none = NoCache(SCALE)
    none.get(pair)
    none.get(pair)
    assert (none.holds(pair), len(calls)) == (False, 3)


# ---- validation, samples, prepare


def test_validation_pairs(config, folder):
    found = list(validation_pairs(config(validation={"hr": str(folder)}, validation_images=3)))
    assert [name for name, _, _ in found] == ["0", "1", "2"]
    for index, (_, hr, lr) in enumerate(found):
        height, width = (33 + index) // 4 * 4, (50 - 3 * index) // 4 * 4
        np.testing.assert_array_equal(hr, noise(33 + index, 50 - 3 * index, index)[:height, :width])
        np.testing.assert_array_equal(lr, imresize(hr, 1 / SCALE))
    assert list(validation_pairs(config())) == []
    with pytest.raises(HCFlowError, match=r"data\.validation\.hr: .*no such folder"):
        list(validation_pairs(config(validation={"hr": str(folder / "x")})))


def test_sample_photographs_are_there_and_disjoint(config):
    training, held_out = samples.training_photographs(), samples.held_out_photographs()
    scenes = [{path.stem.split("_")[0] for path in paths} for paths in (training, held_out)]
    assert not scenes[0] & scenes[1]
    assert all(min(read_header(path).size) >= 300 for path in training + held_out)
    sample_config = config(train={}, sample_photographs=True)
    assert len(TrainingData(sample_config)) == len(training)
    assert [name for name, _, _ in validation_pairs(sample_config)] == [path.stem for path in held_out]


def test_prepare_fills_the_cache_and_goes_on_where_it_was(folder, tmp_path, capsys, decodings):
    (tmp_path / "c.yaml").write_text(
        f"data: {{train: {{hr: {folder}}}, crop_size: 16, cache_dir: {tmp_path / 'cache'}, max_bad_share: 0.5}}"
    )
    (folder / "bad.png").write_text("x")
    assert cli.execute("prepare", ["--config", str(tmp_path / "c.yaml")]) == 0
    output = capsys.readouterr().out
    assert "training images    5\n" in output
    assert f"left out: {folder / 'bad.png'}: not a PNG" in output
    assert len(decodings) == 5
    next(iter((tmp_path / "cache").iterdir())).unlink()
    assert cli.execute("prepare", ["--config", str(tmp_path / "c.yaml")]) == 0
    assert len(decodings) <= 6
    assert len(list((tmp_path / "cache").iterdir())) == 10
    assert cli.execute("prepare", ["--config", str(tmp_path / "c.yaml"), "--set", "data.cache=memory"]) == 2
    assert "leaves nothing to prepare" in capsys.readouterr().err
