"""Every shipped config loads, and every bad one is refused in one line that names the key, the reason and the way out."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys
import time

import pytest

from hcflow_tf.config import Config, ModelConfig, dump_config, load_config, parse_config, save_config
from hcflow_tf.config.packaged import packaged_configs
from hcflow_tf.config.systems.hcflow import LOG_STD_BOUND
from hcflow_tf.support.errors import UsageError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
RECIPES = (
    "sr_x4", "sr_x4_plus", "sr_x4_plusplus", "face_x8", "face_x8_plus", "face_x8_plusplus", "rescale_x4", "quickstart",
    "sr_x4_compact", "sr_x4_compact_nll", "sr_x4_compact_2_features", "sr_x4_compact_2_plus", "sr_x4_compact_2",
    "sr_x4_compact_3",
    "rescale_x4_compact", "face_x8_compact_nll",
    "face_x8_compact", "face_x8_compact_plusplus", "irn_x4", "irn_x2", "rrdb_x4", "esrgan_x4",
    "srflow_x4", "srflow_x8",
)  # fmt: skip
START_FROM = (
    "training.start_from: these losses (pixel beside nll, perceptual, lpips, adversarial) diverge from scratch; "
    "name the directory of a trained or converted model to fine-tune"
)


def message(text: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_config(text, overrides, source="c.yaml")
    return str(caught.value)


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_config_loads_and_says_what_to_expect(name):
    path = CONFIGS / f"{name}.yaml"
    assert load_config(path)
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    for promise in (f"python -m hcflow_tf.train --config configs/{name}.yaml", "Expected time:", "Expected score"):
        assert promise in header


def test_the_comparison_has_a_config_for_each_stage():
    spec = importlib.util.spec_from_file_location("comparison", CONFIGS.parent / "benchmarks/comparison.py")
    comparison = importlib.util.module_from_spec(spec)
    sys.modules["comparison"] = comparison  # dataclasses look there for the types of their fields
    spec.loader.exec_module(comparison)
    stages = [stage for row in comparison.ROWS for stage in row.stages]
    assert {name for name, _ in stages} == {path.stem for path in (CONFIGS / "comparison").glob("*.yaml")}
    assert all(sum(share for _, share in row.stages) == 1 for row in comparison.ROWS)
    configs = {name: load_config(CONFIGS / f"comparison/{name}.yaml") for name, _ in stages}
    for row in comparison.ROWS:
        assert configs[row.stages[-1][0]].model.makes_lr == row.own_lr
    # What is not the system's own is the same for all: data but for rescaling's crops, batches, schedule.
    shared = {str(config.data.model_dump(exclude={"crop_size", "validation"})) for config in configs.values()}
    assert len(shared) == 1
    assert len({str(config.training.model_dump(exclude={"start_from"})) for config in configs.values()}) == 1


def test_no_config_is_forgotten():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("kind", ["sr_x4", "face_x8"])
def test_fine_tuning_keeps_the_model_and_starts_from_its_run(kind):
    first, plus, plusplus = (load_config(CONFIGS / f"{kind}{suffix}.yaml") for suffix in ("", "_plus", "_plusplus"))
    assert first.model == plus.model == plusplus.model
    assert plus.training.start_from == plusplus.training.start_from == f"runs/{kind}"
    assert (plus.losses.nll, plus.losses.pixel, plus.losses.adversarial) == (2e-3, 1, 0)
    assert (plusplus.losses.perceptual, plusplus.losses.adversarial) == (5e-2, 0.5)
    assert plusplus.losses.sample_temperature == (0.9 if kind == "sr_x4" else 0.8)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_super_resolution_is_bounded_and_says_so(path):
    model = load_config(path).model
    other = model.makes_lr or not isinstance(model, ModelConfig)
    assert other or (model.log_std_bound == LOG_STD_BOUND and "log_std_bound: 0.5 #" in path.read_text())


def test_new_super_resolution_models_are_bounded_and_older_ones_stay_as_they_were():
    assert parse_config("model: {scale: 2}").model.log_std_bound == Config().model.log_std_bound == LOG_STD_BOUND
    assert parse_config("model: {log_std_bound: null}").model.log_std_bound is None
    assert parse_config("model: {task: rescaling}").model.log_std_bound is None
    assert parse_config("format_version: 1\nmodel: {scale: 4}").model.log_std_bound is None  # written before there was the key
    assert parse_config(dump_config(parse_config("model: {scale: 4}"))).model.log_std_bound == LOG_STD_BOUND
    assert parse_config(dump_config(parse_config("model: {log_std_bound: null}"))).model.log_std_bound is None


def test_round_trip(tmp_path):
    config = load_config(
        CONFIGS / "sr_x4_plusplus.yaml", ["losses.latent=1e-5", "data.train.lr=[a, b]", "optimizer.clip_norm=null"]
    )
    assert parse_config(dump_config(config)) == config
    save_config(config, tmp_path / "new/config.yaml")
    assert load_config(tmp_path / "new/config.yaml") == config
    assert parse_config(dump_config(config, sections=("format_version", "model"))) == Config(model=config.model)


def test_empty_config_is_the_default():
    assert parse_config("") == parse_config("# nothing\n") == Config()


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("2.5e-4", 2.5e-4), ("1E-4", 1e-4), ("1.e-4", 1e-4), ("0.001", 1e-3), ("3e2", 300)]
)
def test_numbers_with_an_exponent(text, value):
    assert parse_config(f"optimizer: {{learning_rate: {text}}}").optimizer.learning_rate == value
    assert parse_config("", [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == value


def test_words_that_look_like_exponents_stay_words():
    assert parse_config("training: {start_from: 1e-4x}").training.start_from == "1e-4x"


def test_overrides_reach_every_level():
    config = parse_config(
        "optimizer: {halve_at: [1, 2, 3]}\nlosses:",
        ["optimizer.halve_at=[10, 20]", "data.train.hr=[a, b]", "data.train.lr=null", "losses.nll=0.5",
         "training.start_from=runs/a=b", "model.rrdb_blocks=[2, 1]", "training.start_from=runs/a=c"],
    )  # fmt: skip
    assert config.optimizer.halve_at == (10, 20)
    assert config.data.train.hr == ("a", "b")
    assert config.losses.nll == 0.5
    assert config.model.rrdb_blocks == (2, 1)
    assert config.training.start_from == "runs/a=c"
    assert parse_config("data: {train: {hr: one}}").data.train.hr == ("one",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # Unknown keys: the nearest name in the section, the same name in another, or all names.
        ("modle: {scale: 4}", "modle: unknown key; did you mean model?"),
        ("model: {scael: 4}", "model.scael: unknown key; did you mean model.scale?"),
        ("data: {train: {hrr: a}}", "data.train.hrr: unknown key; did you mean data.train.hr?"),
        ("data: {batch_size: 3}", "data.batch_size: unknown key; did you mean training.batch_size?"),
        ("qqq: 1", "qqq: unknown key; valid keys: format_version, model, data, losses, optimizer, training"),
        # Wrong types and values.
        ("model: {scale: 3}", "model.scale: input should be 2, 4, 8 or 16, got 3"),
        ("model: {task: rescalling}", "model.task: input should be 'super_resolution' or 'rescaling', got 'rescalling'"),
        ("model: {rrdb_blocks: 7}", "model.rrdb_blocks: input should be a list, got 7"),
        ("model: {rrdb_blocks: [7]}", "model.rrdb_blocks.1: field required, got [7]"),
        ("model: {main_steps: 0}", "model.main_steps: input should be greater than or equal to 1, got 0"),
        ("model: 3", "model: expected a section of keys, got 3"),
        ("model:", "model: expected a section of keys, got nothing"),
        ("data: {flip: 1}", "data.flip: input should be a valid boolean, got 1"),
        ("data: {cache: ram}", "data.cache: input should be 'memory', 'disk' or 'none', got 'ram'"),
        ("training: {batch_size: true}", "training.batch_size: expected a number, got True"),
        ("training: {batch_size: '16'}", "training.batch_size: expected a number, got '16'"),
        (
            "training: {steps: 3.5}",
            "training.steps: input should be a valid integer, got a number with a fractional part, got 3.5",
        ),
        ("optimizer: {learning_rate: .inf}", "optimizer.learning_rate: input should be a finite number, got inf"),
        ("optimizer: {beta_2: 1}", "optimizer.beta_2: input should be less than 1, got 1"),
        # Impossible combinations.
        ("data: {crop_size: 161}", "data.crop_size: 161 is not divisible by model.scale 4; use 160 or 164"),
        ("data: {crop_size: 2}", "data.crop_size: 2 is not divisible by model.scale 4; use 4"),
        (
            "data: {sample_photographs: true, train: {hr: a}}",
            "data.sample_photographs: give either this or folders, not both",
        ),
        (
            "data: {train: {hr: [a, b], lr: c}}",
            "data.train: lr names 1 folders and hr 2: give one LR folder for each HR folder",
        ),
        ("losses: {nll: 0}", "losses: nll, pixel, perceptual, lpips and adversarial are all 0, nothing would be trained"),
        ("losses: {pixel: 1}", START_FROM),
        ("losses: {perceptual: 5e-2}", START_FROM),
        ("losses: {adversarial: 0.5}", START_FROM),
        (
            "model: {task: rescaling}\nlosses: {pixel: 1}",
            "losses.nll: a rescaling model is trained without NLL (its losses are pixel, lr and latent); set it to 0",
        ),
        (
            "training: {start_from: a}\nlosses: {adversarial: 1}\ndata: {crop_size: 72}",
            "data.crop_size: the discriminator takes crops divisible by 32, got 72; the recipes' is 160 (ESRGAN: 128)",
        ),
        (
            "training: {start_from: a, steps: 1500}\nlosses: {adversarial: 1}",
            "optimizer.discriminator_warmup_steps: 1500 is not below training.steps 1500, the model itself would not be trained",
        ),
        (
            "training: {steps: 10}\noptimizer: {halve_at: [5, 10]}",
            "optimizer.halve_at: 10 is not below training.steps 10; shorten the list, for example --set optimizer.halve_at=[]",
        ),
        ("optimizer: {halve_at: [20, 10]}", "optimizer.halve_at: the steps must increase, got [20, 10]"),
        (
            "format_version: 2",
            "format_version is 2, this program reads 1; "
            "use the hcflow_tf release that wrote it, or convert or train the model again",
        ),
        ("[model, data]", "expected sections (model, data, losses, optimizer, training), got list"),
    ],
)
def test_bad_config_is_refused(text, reason):
    assert message(text) == f"c.yaml: {reason}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {scale: 4}\nmodel: {scale: 8}", "c.yaml line 2: not valid YAML: key 'model' is given twice"),
        ("model:\n  scale: 4\n  scale: 8\n", "c.yaml line 3: not valid YAML: key 'scale' is given twice"),
        ("model: [", "c.yaml line 1: not valid YAML: expected the node content, but found '<stream end>'"),
        ("a: b: c", "c.yaml line 1: not valid YAML: mapping values are not allowed here"),
        ("? [a]\n: 2", "c.yaml line 1: not valid YAML: found unhashable key"),
        ("a: \x00", "c.yaml: not valid YAML: unacceptable character #x0000: special characters are not allowed"),
        ("a: !!python/object/apply:os.getcwd []", "c.yaml line 1: not valid YAML: could not determine a constructor for"),
        ("a: &x [1]\nb: *x", "c.yaml line 2: not valid YAML: aliases (*x) are not read here"),
        ("model: &m {<<: *m}", "c.yaml line 1: not valid YAML: aliases (*m) are not read here"),
        ("a: 2020-13-45", "c.yaml line 1: not valid YAML: not a value that can be read (month must be in 1..12)"),
        ("\na: !!int abc", "c.yaml line 2: not valid YAML: not a value that can be read (invalid literal for int()"),
        ("a: !!bool perhaps", "c.yaml line 1: not valid YAML: not a value that can be read"),
        (
            "training: {steps: " + "9" * 5000 + "}",
            "c.yaml line 1: not valid YAML: not a value that can be read (Exceeds the limit",
        ),
        ('data: {cache_dir: "a\\0b"}', "c.yaml line 1: not valid YAML: a text holds the character NUL"),
        ("[" * 100_000, "c.yaml: not valid YAML: nested too deeply"),
    ],
)
def test_bad_yaml_is_named_with_its_line(text, expected):
    found = message(text)
    assert found.startswith(expected)
    assert "\n" not in found


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.steps", "--set training.steps: expected section.key=value"),
        ("training..steps=1", "--set training..steps=1: expected section.key=value"),
        ("=1", "--set =1: expected section.key=value"),
        ("training.steps=[", "--set training.steps=[: '[' is not a YAML value"),
        ("model.scale.x=1", "--set model.scale.x=1: scale is a value, not a section"),
        ("training.stps=1", "c.yaml: training.stps: unknown key; did you mean training.steps?"),
    ],
)
def test_bad_override_is_refused(override, expected):
    assert message("model: {scale: 4}", override) == expected


def test_a_list_that_stands_for_billions_of_values_is_refused_at_once():
    lines = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    begin = time.process_time()
    assert "aliases (*a0) are not read here" in message("\n".join(lines))
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: {main_width: 1000000}", "model.main_width: input should be less than or equal to 4096, got 1000000"),
        ("model: {rrdb_blocks: [7, 5000]}", "model.rrdb_blocks.1: input should be less than or equal to 1000, got 5000"),
        ("training: {batch_size: 1000000}", "training.batch_size: input should be less than or equal to 65536, got 1000000"),
        ("training: {seed: 4294967296}", "training.seed: input should be less than or equal to 2147483647, got 4294967296"),
    ],
)
def test_sizes_that_no_machine_has_are_refused(text, reason):
    assert message(text) == f"c.yaml: {reason}"


def test_a_wrong_value_is_shown_in_short():
    shown = message(f"data: {{flip: {'x' * 100_000}}}")
    assert shown.startswith("c.yaml: data.flip: input should be a valid boolean, got 'xxx")
    assert len(shown) < 250
    assert message("training: {steps: 0x" + "f" * 9000 + "}").endswith("got a number of thousands of digits")


def test_only_the_first_problems_are_listed():
    lines = message("".join(f"key{number}: 1\n" for number in range(500))).splitlines()
    assert (len(lines), lines[-1]) == (21, "c.yaml: and 480 more")


def test_a_pipe_and_a_large_file_are_no_configs(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    for name, reason in (("pipe.yaml", "is a pipe, a socket or a device"), ("large.yaml", "has 1,048,577 bytes")):
        with pytest.raises(UsageError, match=f"cannot read config .*{name}: {reason}"):
            load_config(tmp_path / name)
    with pytest.raises(UsageError, match="cannot read config /dev/zero: is a pipe, a socket or a device"):
        load_config("/dev/zero")


def test_each_problem_has_its_line():
    assert message("model: {scael: 4}\ntraining: {steps: 0}").splitlines() == [
        "c.yaml: model.scael: unknown key; did you mean model.scale?",
        "c.yaml: training.steps: input should be greater than or equal to 1, got 0",
    ]


def test_unreadable_file_is_named(tmp_path):
    (tmp_path / "sr_x4.yaml").write_text("")
    (tmp_path / "latin.yaml").write_bytes(b"# \xe9")
    with pytest.raises(
        UsageError, match=r"cannot read config .*sr_x5.yaml: No such file or directory; did you mean .*sr_x4.yaml\?"
    ):
        load_config(tmp_path / "sr_x5.yaml")
    with pytest.raises(UsageError, match=r"cannot read config sr_x44: No such file or directory; did you mean sr_x4\?"):
        load_config("sr_x44")
    with pytest.raises(UsageError, match=r"cannot read config .*latin.yaml: .*utf-8"):
        load_config(tmp_path / "latin.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_config(tmp_path)


def test_packaged_configs_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"quickstart", "sr_x4", "rescale_x4_compact"} <= set(packaged_configs())
    assert load_config("sr_x4", ["training.steps=300001"]).training.steps == 300_001
    (tmp_path / "sr_x4").write_text("model: {scale: 2}")  # a file of that name goes first
    assert load_config("sr_x4").model.scale == 2


def test_config_cannot_be_changed_after_validation():
    with pytest.raises(ValueError, match="frozen"):
        Config().training.steps = 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_config_in_utf_16_is_told_so(tmp_path, encoding):
    text = "\ufeffmodel: {}" if encoding.endswith("be") else "model: {}"
    (tmp_path / "a.yaml").write_text(text, encoding=encoding)
    with pytest.raises(UsageError, match=r"a\.yaml: it is in UTF-16 .*save it as UTF-8"):
        load_config(tmp_path / "a.yaml")
