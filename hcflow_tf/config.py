"""The typed schema of a run's YAML config, its validation, and `--set` overrides."""

from __future__ import annotations

import difflib
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml

from hcflow_tf.errors import UsageError
from hcflow_tf.files import write_atomically

FORMAT_VERSION = 1
"""Version of the model directory format, stored as `format_version` in its config.yaml."""

Positive = Annotated[int, pydantic.Field(ge=1)]
NonNegative = Annotated[int, pydantic.Field(ge=0)]
Weight = Annotated[float, pydantic.Field(ge=0.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, pydantic.Field(gt=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Hyperparameters of the network (paper section 4.1); L = log2(scale)."""

    task: Literal["super_resolution", "rescaling"] = "super_resolution"
    scale: Literal[2, 4, 8, 16] = 4
    main_steps: Positive = 13
    """K, flow steps per level on the image path."""
    conditional_steps: NonNegative = 13
    """P, conditional flow steps per level on the latent path."""
    main_width: Positive = 64
    """Hidden width of the FCN (super_resolution) or growth of the DenseBlock (rescaling)."""
    conditional_width: Positive = 64
    rrdb_blocks: tuple[Positive, Positive] = (7, 7)
    """RRDB blocks in trunk A and trunk B of each level's feature extractor."""
    rrdb_features: Positive = 64
    rrdb_growth: Positive = 32

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return int(math.log2(self.scale))


class ImageFolders(_Section):
    """HR folders and, in the same order, LR folders; without LR, it is computed by MATLAB's bicubic."""

    hr: tuple[str, ...] = ()
    lr: tuple[str, ...] | None = None

    @pydantic.field_validator("hr", "lr", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _paired(self) -> ImageFolders:
        if self.lr is not None and len(self.lr) != len(self.hr):
            raise ValueError(f"lr names {len(self.lr)} folders and hr {len(self.hr)}: give one LR folder for each HR folder")
        return self


class DataConfig(_Section):
    """Where the images are and how crops are drawn from them."""

    train: ImageFolders = ImageFolders()
    validation: ImageFolders = ImageFolders()
    validation_images: Positive = 10
    """At most this many validation images are used, the first by name."""
    sample_photographs: bool = False
    """Use the photographs that scikit-image ships instead of folders (quickstart)."""
    crop_size: Positive = 160
    """HR pixels; divisible by the scale."""
    flip: bool = True
    rotate: bool = False
    cache: Literal["memory", "disk", "none"] = "disk"
    cache_dir: str = "~/.cache/hcflow_tf"
    max_bad_share: Fraction = 0.01
    """Training stops before it starts if a larger share of the images is unreadable or too small."""
    workers: Positive = 4


class LossConfig(_Section):
    """Weights of the losses (paper section 3.4 and 4.1); 0 switches one off."""

    nll: Weight = 1.0
    quantization_levels: Positive = 256
    """q of the dequantisation noise u / q, u ~ U[0, 1)."""
    lr_log_std: float = -6.0
    """log standard deviation of the Gaussian around the true LR image."""
    pixel: Weight = 0.0
    pixel_temperature: Weight = 0.0
    lr: Weight = 0.0
    """L2 between the encoder's LR image and the bicubic one (rescaling)."""
    latent: Weight = 0.0
    """L2 of the latents (rescaling)."""
    perceptual: Weight = 0.0
    adversarial: Weight = 0.0
    sample_temperature: Weight = 0.9
    """Temperature of the sample that the perceptual and the adversarial loss see."""
    separate_updates: bool = True
    """One optimiser step each for NLL, pixel, perceptual + adversarial, as in the released SR recipe."""
    vgg_weights: str | None = None
    """File of VGG19 weights; None downloads the ones of keras.applications."""


class OptimizerConfig(_Section):
    """Adam with a learning rate that is halved at given steps, and gradient clipping."""

    learning_rate: PositiveFloat = 2.5e-4
    halve_at: tuple[Positive, ...] = ()
    """Steps at which the learning rate is halved."""
    warmup_steps: NonNegative = 0
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.99
    clip_value: PositiveFloat | None = 5.0
    clip_norm: PositiveFloat | None = 100.0
    discriminator_learning_rate: PositiveFloat = 5e-5
    discriminator_warmup_steps: NonNegative = 1500
    """The discriminator alone trains for this many steps first."""


class TrainingConfig(_Section):
    """Length, batch, seed, intervals and options of a training run."""

    steps: Positive = 300_000
    batch_size: Positive = 16
    """Over all replicas."""
    seed: NonNegative = 0
    start_from: str | None = None
    """Model directory whose weights to fine-tune."""
    validate_every: Positive = 5000
    checkpoint_every: Positive = 1000
    log_every: Positive = 100
    max_skipped_steps: Positive = 50
    """The run stops after this many non-finite steps in a row."""
    mixed_precision: bool = False
    """bfloat16 in the feature extractors, float32 in the flow."""
    recompute: bool = False
    """Recompute the feature extractors' activations in the backward pass to save memory."""
    xla: bool = False
    ema: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of the exponential moving average of the weights; 0 is off."""


class Config(_Section):
    """A whole run: what `configs/*.yaml` holds."""

    format_version: int = FORMAT_VERSION
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    losses: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    @pydantic.model_validator(mode="after")
    def _combinations(self) -> Config:
        scale, losses = self.model.scale, self.losses
        if self.data.crop_size % scale:
            below = self.data.crop_size // scale * scale
            nearest = " or ".join(str(size) for size in (below, below + scale) if size)
            raise ValueError(f"data.crop_size: {self.data.crop_size} is not divisible by model.scale {scale}; use {nearest}")
        if self.model.task == "rescaling" and losses.nll and losses.pixel:
            raise ValueError(
                "losses.nll: a rescaling model is trained without NLL (REFERENCE: pixel, lr and latent); set it to 0"
            )
        if not any((losses.nll, losses.pixel, losses.perceptual, losses.adversarial)):
            raise ValueError("losses: every weight is 0, nothing would be trained")
        if (losses.perceptual or losses.adversarial) and not self.training.start_from:
            raise ValueError(
                "training.start_from: perceptual and adversarial losses diverge from scratch; "
                "name the run directory of an HCFlow model to fine-tune"
            )
        if losses.adversarial and self.data.crop_size != 160:
            raise ValueError("data.crop_size: the discriminator takes 160 x 160 crops; set it to 160 or losses.adversarial to 0")
        if self.data.sample_photographs and (self.data.train.hr or self.data.validation.hr):
            raise ValueError("data.sample_photographs: give either this or folders, not both")
        if any(step >= self.training.steps for step in self.optimizer.halve_at):
            raise ValueError(f"optimizer.halve_at: a step lies at or beyond training.steps = {self.training.steps}")
        return self


def load_config(path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a YAML config, applies `section.key=value` overrides and validates.

    Raises:
      UsageError: one line per problem, with the key, the reason and the nearest valid name.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = _nearest_file(path)
        raise UsageError(f"cannot read config {path}: {getattr(error, 'strerror', None) or error}{near}") from error
    return parse_config(text, overrides, source=str(path))


def parse_config(text: str, overrides: list[str] | tuple[str, ...] = (), *, source: str = "config") -> Config:
    """Parses and validates YAML text; see `load_config`."""
    try:
        tree = _load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{source}: expected sections (model, data, losses, optimizer, training), got {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    version = tree.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{source}: format_version is {version!r}, this program reads {FORMAT_VERSION}; "
            "use the hcflow_tf release that wrote it, or convert or train the model again"
        )
    try:
        return Config.model_validate(tree)
    except pydantic.ValidationError as error:
        raise UsageError("\n".join(f"{source}: {_explain(problem)}" for problem in error.errors())) from error


def dump_config(config: Config, sections: Sequence[str] | None = None) -> str:
    """The config, or some of its sections, as YAML text that `parse_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json", include=set(sections) if sections else None), sort_keys=False)


def save_config(config: Config, path: str | os.PathLike) -> None:
    """Writes the config as YAML, beside first and then renamed."""
    write_atomically(path, dump_config(config).encode())


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key_node.value!r} is given twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _apply_override(tree: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(f"--set {override}: expected section.key=value")
    try:
        value = _load_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: {text!r} is not a YAML value") from error
    for name in path[:-1]:
        child = tree.setdefault(name, {})
        if not isinstance(child, dict):
            raise UsageError(f"--set {override}: {name} is a value, not a section")
        tree = child
    tree[path[-1]] = value


def _explain(problem: dict) -> str:
    """One line for one pydantic error: key, reason, nearest valid name."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = list(_section_at(problem["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(valid)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "value_error":
        return ": ".join(part for part in (key, str(problem["ctx"]["error"])) if part)
    return f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _section_at(path: tuple) -> type[pydantic.BaseModel]:
    section: type[pydantic.BaseModel] = Config
    for name in path:
        section = section.model_fields[name].annotation
    return section


def _nearest_file(path: pathlib.Path) -> str:
    names = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
