"""The typed schema of a run's YAML config, its validation, and `--set` overrides."""

from __future__ import annotations

import codecs
import difflib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml

from hcflow_tf.config import strict_yaml
from hcflow_tf.config.models import SECTIONS, AnyModelConfig, system_of
from hcflow_tf.config.packaged import packaged_configs
from hcflow_tf.config.systems.base import SystemConfig
from hcflow_tf.config.systems.hcflow import WRITTEN, ModelConfig
from hcflow_tf.config.types import (
    Decay,
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    Switch,
    UpToThousands,
    Weight,
    shown,
)
from hcflow_tf.support.errors import UsageError
from hcflow_tf.support.files import is_file, is_folder, read_file, write_atomically

FORMAT_VERSION = 1
"""Version of the model directory format, stored as `format_version` in its config.yaml."""

MAX_CONFIG_BYTES = 2**20
MAX_PROBLEMS = 20
"""Problems of one config that are listed."""


class ImageFolders(Section):
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


class DataConfig(Section):
    """Where the images are and how crops are drawn from them."""

    train: ImageFolders = ImageFolders()
    validation: ImageFolders = ImageFolders()
    validation_images: Positive = 10
    """At most this many validation images are used, the first by name."""
    sample_photographs: Switch = False
    """Use the photographs that scikit-image ships instead of folders (quickstart)."""
    graphics_share: Fraction = 0.0
    """Share of the training crops that come from generated graphics: text, interfaces, charts, pixel art, flat colours."""
    crop_size: Positive = 160
    """HR pixels; divisible by the scale."""
    flip: Switch = True
    rotate: Switch = False
    cache: Literal["memory", "disk", "none"] = "disk"
    cache_dir: str = "~/.cache/hcflow_tf"
    max_bad_share: Fraction = 0.01
    """Training stops before it starts if a larger share of the images is unreadable or too small."""
    workers: UpToThousands = 4


class LossConfig(Section):
    """Weights of the losses (paper section 3.4 and 4.1); 0 switches one off."""

    nll: Weight = 1.0
    quantization_levels: Annotated[Positive, pydantic.Field(ge=2)] = 256
    """q of the dequantisation noise u / q, u ~ U[0, 1)."""
    centered_noise: Switch = False
    """Noise (u - 1/2) / q, as SRFlow's recipe."""
    pixel: Weight = 0.0
    """L1 between the HR image and the decoded one."""
    pixel_temperature: Weight = 0.0
    """Temperature of the image that the pixel loss sees: 0 for HCFlow+, 1 for rescaling."""
    pixel_epsilon: Weight = 0.0
    """The pixel loss takes sqrt(d^2 + this) for each absolute difference |d|."""
    lr: Weight = 0.0
    """L2 between the encoder's LR image and the bicubic one (rescaling)."""
    lr_chroma: PositiveFloat = 1.0
    """How much more than the luma the colour differences count in that error, before squaring; 1 is plain L2 of RGB."""
    latent: Weight = 0.0
    """L2 of the latents (rescaling)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the values of an image, in pixel, lr and latent: their mean, or their sum, as IRN's recipe. Of sums, gradients are
    as many times larger: clipping and weight decay then act otherwise."""
    perceptual: Weight = 0.0
    """L1 between VGG19 features, last convolution of block 5 before its ReLU."""
    lpips: Weight = 0.0
    """LPIPS between the sample and the HR image."""
    adversarial: Weight = 0.0
    """GAN with logits."""
    adversarial_kind: Literal["vanilla", "relativistic"] = "vanilla"
    """Relativistic: logits count by how much they are above the mean of the other kind's (ESRGAN)."""
    sample_temperature: Weight = 0.9
    """Temperature of the sample that the perceptual, the LPIPS and the adversarial loss see."""
    separate_updates: Switch = True
    """One optimiser step each for NLL, for pixel + lr + latent, and for perceptual + lpips + adversarial, as the released
    SR recipe does; false takes one step on the sum of all."""
    clip: Switch = True
    """Decoded images are clipped to [0, 1] before every loss, and rescaling's LR image before its loss and the decoder, as in
    the released recipes: no gradient where a value lies outside. False compares them as they are."""
    vgg_weights: str | None = None
    """File of VGG19 weights, of keras.applications (.h5) or torchvision (.pth); None downloads the former."""
    lpips_weights: str | None = None
    """torchvision's file (.pth) of AlexNet or VGG16; None downloads AlexNet's."""


class OptimizerConfig(Section):
    """Adam with a learning rate that is halved at given steps or follows a cosine, and gradient clipping."""

    learning_rate: PositiveFloat = 2.5e-4
    halve_at: tuple[Positive, ...] = ()
    """Steps at which the learning rate is halved, the discriminator's too."""
    cosine: Switch = False
    """Instead of halvings, the learning rate falls to 0 along half a cosine over training.steps."""
    warmup_steps: NonNegative = 0
    """The learning rate rises linearly over this many steps first."""
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    clip_value: PositiveFloat | None = 5.0
    clip_norm: PositiveFloat | None = 100.0
    weight_decay: Weight = 0.0
    """This times the weights is added to the clipped gradient (an L2 penalty; not AdamW's decay); the discriminator has none."""
    discriminator_learning_rate: PositiveFloat = 5e-5
    discriminator_warmup_steps: NonNegative = 1500
    """The discriminator alone trains for this many steps first."""


class TrainingConfig(Section):
    """Length, batch, seed, intervals and options of a training run."""

    steps: Positive = 300_000
    batch_size: UpToThousands = 16
    """Over all replicas."""
    seed: NonNegative = 0
    start_from: str | None = None
    """Model directory whose weights to fine-tune; a smaller model's are taken up by a larger one that starts as its equal."""
    frozen_steps: NonNegative = 0
    """In this many first steps an SRFlow model's RRDB network, which starts from a trained one, is not trained."""
    validate_every: Positive = 5000
    checkpoint_every: Positive = 1000
    log_every: Positive = 100
    max_skipped_steps: Positive = 50
    """After this many non-finite steps in a row the run goes back to its last checkpoint, at half the learning rate."""
    max_rollbacks: NonNegative = 3
    """The run stops instead of going back more often than this."""
    mixed_precision: Switch = False
    """bfloat16 in the feature extractors, float32 in the flow."""
    recompute: Switch = False
    """Recompute activations (RRDBs, flow steps) in the backward pass: less than half the memory, more time."""
    xla: Switch = False
    ema: Decay = 0.0
    """Decay of the exponential moving average of the weights; 0 is off."""


class Config(Section):
    """A whole run: what `configs/*.yaml` holds."""

    format_version: int = FORMAT_VERSION
    model: AnyModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    losses: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_losses(cls, tree: Any) -> Any:
        """Without a section losses, those of the system."""
        if isinstance(tree, dict) and "losses" not in tree and (section := SECTIONS.get(system_of(tree.get("model")))):
            return {**tree, "losses": section.DEFAULT_LOSSES}
        return tree

    @pydantic.model_validator(mode="after")
    def _combinations(self) -> Config:
        for problem in (*self.model.problems(), *self._data_problems(), *self._loss_problems(), *self._schedule_problems()):
            raise ValueError(problem)
        return self

    def _data_problems(self) -> Iterator[str]:
        data, multiple = self.data, self.model.hr_multiple
        if data.crop_size % multiple:
            below = data.crop_size // multiple * multiple
            nearest = " or ".join(str(size) for size in (below, below + multiple) if size)
            divisor = f"model.scale {multiple}" if multiple == self.model.scale else f"{multiple}, as this model needs"
            yield f"data.crop_size: {data.crop_size} is not divisible by {divisor}; use {nearest}"
        if data.sample_photographs and (data.train.hr or data.validation.hr):
            yield "data.sample_photographs: give either this or folders, not both"

    def _loss_problems(self) -> Iterator[str]:
        losses = self.losses
        if not any((losses.nll, losses.pixel, losses.perceptual, losses.lpips, losses.adversarial)):
            yield "losses: nll, pixel, perceptual, lpips and adversarial are all 0, nothing would be trained"
        if losses.nll and not self.model.has_likelihood:
            yield f"losses.nll: a model of system {self.model.system} has no likelihood; set it to 0"
        elif self.model.makes_lr and losses.nll and losses.pixel:
            yield "losses.nll: a rescaling model is trained without NLL (its losses are pixel, lr and latent); set it to 0"
        on_samples = losses.perceptual or losses.lpips or losses.adversarial
        if not self.training.start_from and (on_samples or (losses.nll and losses.pixel)):
            yield (
                "training.start_from: these losses (pixel beside nll, perceptual, lpips, adversarial) diverge from scratch; "
                "name the directory of a trained or converted model to fine-tune"
            )
        if losses.adversarial and self.data.crop_size % 32:
            yield (
                f"data.crop_size: the discriminator takes crops divisible by 32, got {self.data.crop_size}; "
                "the recipes' is 160 (ESRGAN: 128)"
            )
        if losses.lpips and self.data.crop_size < 31:
            yield f"data.crop_size: LPIPS takes crops of 31 x 31 or larger, got {self.data.crop_size}"

    def _schedule_problems(self) -> Iterator[str]:
        steps, optimizer = self.training.steps, self.optimizer
        if self.training.frozen_steps and not self.model.INSIDE:
            yield f"training.frozen_steps: a model of system {self.model.system} has no part to freeze; set it to 0"
        if self.training.frozen_steps and optimizer.weight_decay:
            yield "training.frozen_steps: optimizer.weight_decay would change what is frozen; set one of them to 0"
        if list(optimizer.halve_at) != sorted(set(optimizer.halve_at)):
            yield f"optimizer.halve_at: the steps must increase, got {list(optimizer.halve_at)}"
        if optimizer.cosine and optimizer.halve_at:
            yield "optimizer.cosine: the learning rate is halved at given steps already; set halve_at to [] or cosine to false"
        if optimizer.halve_at and optimizer.halve_at[-1] >= steps:
            yield (
                f"optimizer.halve_at: {optimizer.halve_at[-1]} is not below training.steps {steps}; "
                "shorten the list, for example --set optimizer.halve_at=[]"
            )
        if self.losses.adversarial and optimizer.discriminator_warmup_steps >= steps:
            yield (
                f"optimizer.discriminator_warmup_steps: {optimizer.discriminator_warmup_steps} is not below "
                f"training.steps {steps}, the model itself would not be trained"
            )


def load_config(path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a YAML file, or the packaged config of that name, applies `section.key=value` overrides and validates.

    Raises:
      UsageError: one line per problem, with the key, the reason and the nearest valid name.
    """
    path = pathlib.Path(path)
    packaged = packaged_configs()
    if not is_file(path):
        path = packaged.get(str(path), path)
    try:
        content = read_file(path, limit=MAX_CONFIG_BYTES)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UsageError(f"cannot read config {path}: it is in UTF-16 (Windows calls that Unicode); save it as UTF-8")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        near = _nearest_file(path, packaged)
        raise UsageError(f"cannot read config {path}: {getattr(error, 'strerror', None) or error}{near}") from error
    return parse_config(text, overrides, source=str(path))


def parse_config(text: str, overrides: list[str] | tuple[str, ...] = (), *, source: str = "config") -> Config:
    """Parses and validates YAML text; see `load_config`."""
    try:
        tree = strict_yaml.load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{source}{where}: not valid YAML: {reason}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{source}: expected sections (model, data, losses, optimizer, training), got {type(tree).__name__}")
    for override in overrides:
        strict_yaml.apply_override(tree, override)
    version = tree.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{source}: format_version is {shown(version)}, this program reads {FORMAT_VERSION}; "
            "use the hcflow_tf release that wrote it, or convert or train the model again"
        )
    try:
        return Config.model_validate(tree, context={WRITTEN: "format_version" in tree})
    except pydantic.ValidationError as error:
        problems = [f"{source}: {_explain(problem)}" for problem in error.errors()]
        more = [f"{source}: and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise UsageError(*problems[:MAX_PROBLEMS], *more) from error


def dump_config(config: Config, sections: Sequence[str] | None = None) -> str:
    """The config, or some of its sections, as YAML text that `parse_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json", include=set(sections) if sections else None), sort_keys=False)


def save_config(config: Config, path: str | os.PathLike) -> None:
    """Writes the config as YAML, beside first and then renamed."""
    write_atomically(path, dump_config(config).encode())


def _explain(problem: Mapping[str, Any]) -> str:
    """One line for one pydantic error: key, reason, nearest valid name."""
    path = problem["loc"]
    system = path[1] if path[:1] == ("model",) and len(path) > 1 else "hcflow"  # pydantic's tag of the union
    if path[:1] == ("model",):
        path = ("model", *path[2:])
    key = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_nearest_key(path, SECTIONS[system])}"
    if problem["type"] == "union_tag_invalid":
        return f"{key}.system: input should be {_either(SECTIONS)}, got '{problem['ctx']['tag']}'"
    if problem["type"] == "model_type":
        got = "nothing" if problem["input"] is None else shown(problem["input"])
        return f"{key}: expected a section of keys, got {got}"
    if problem["type"] == "value_error":
        return ": ".join(part for part in (key, str(problem["ctx"]["error"])) if part)
    reason = problem["msg"].replace("valid tuple", "list").replace("Tuple", "list").replace(" after validation", "")
    return f"{key}: {reason[0].lower()}{reason[1:]}, got {shown(problem['input'])}"


def _either(names: Iterable[str]) -> str:
    """'a', 'b' or 'c'."""
    *first, last = (f"'{name}'" for name in names)
    return f"{', '.join(first)} or {last}"


def _nearest_key(path: tuple, model_section: type[SystemConfig]) -> str:
    """The same name in another section, else the nearest name in this one, else all of this one's."""
    *parents, name = map(str, path)
    sections = {key: field.annotation for key, field in Config.model_fields.items()} | {"model": model_section}
    section: Any = sections[parents[0]] if parents else Config
    for parent in parents[1:]:
        section = section.model_fields[parent].annotation
    for other, annotation in sections.items():
        if name in getattr(annotation, "model_fields", ()):
            return f"did you mean {other}.{name}?"
    valid = list(section.model_fields)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    return f"did you mean {'.'.join([*parents, near[0]])}?" if near else f"valid keys: {', '.join(valid)}"


def _nearest_file(path: pathlib.Path, packaged: Iterable[str]) -> str:
    """The YAML file beside it or the packaged config whose name is nearest."""
    files = sorted(path.parent.glob("*.yaml")) if is_folder(path.parent) else []
    by_name = {file.name: str(file) for file in files} | {name: name for name in packaged}
    near = difflib.get_close_matches(path.name, by_name, n=1)
    return f"; did you mean {by_name[near[0]]}?" if near else ""
