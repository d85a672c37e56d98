"""The typed schema of a run's YAML config, its validation, and `--set` overrides."""

from __future__ import annotations

import codecs
import difflib
import math
import os
import pathlib
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml

from hcflow_tf.config import strict_yaml
from hcflow_tf.config.packaged import packaged_configs
from hcflow_tf.support.errors import UsageError
from hcflow_tf.support.files import is_file, is_folder, read_file, write_atomically

FORMAT_VERSION = 1
"""Version of the model directory format, stored as `format_version` in its config.yaml."""

MAX_CONFIG_BYTES = 2**20
MAX_PROBLEMS = 20
"""Problems of one config that are listed."""


def _refuse_look_alikes(value: Any) -> Any:
    """Pydantic would take true for 1 and "16" for 16."""
    if isinstance(value, bool | str):
        raise ValueError(f"expected a number, got {_shown(value)}")
    return value


_Number = pydantic.BeforeValidator(_refuse_look_alikes)
# Above any sensible value, below what overflows, allocates everything or never ends.
_MOST, _MOST_CHANNELS, _MOST_LAYERS, _MOST_AT_ONCE = 2**31 - 1, 4096, 1000, 2**16
Positive = Annotated[int, _Number, pydantic.Field(ge=1, le=_MOST)]
NonNegative = Annotated[int, _Number, pydantic.Field(ge=0, le=_MOST)]
Channels = Annotated[Positive, pydantic.Field(le=_MOST_CHANNELS)]
Layers = Annotated[Positive, pydantic.Field(le=_MOST_LAYERS)]
Real = Annotated[float, _Number, pydantic.Field(allow_inf_nan=False)]
Weight = Annotated[Real, pydantic.Field(ge=0.0)]
PositiveFloat = Annotated[Real, pydantic.Field(gt=0.0)]
Fraction = Annotated[Real, pydantic.Field(ge=0.0, le=1.0)]
Decay = Annotated[Real, pydantic.Field(ge=0.0, lt=1.0)]
Switch = pydantic.StrictBool
Condition = Literal["nothing", "lr", "own", "own_and_below"]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Hyperparameters of the network (paper section 4.1); L = log2(scale)."""

    task: Literal["super_resolution", "rescaling"] = "super_resolution"
    scale: Literal[2, 4, 8, 16] = 4
    main_steps: Layers = 13
    """K, flow steps per level on the image path."""
    conditional_steps: Annotated[NonNegative, pydantic.Field(le=_MOST_LAYERS)] = 13
    """P, conditional flow steps per level on the latent path."""
    main_width: Channels = 64
    """Hidden width of the FCN (super_resolution) or growth of the DenseBlock (rescaling)."""
    conditional_width: Channels = 64
    rrdb_blocks: tuple[Layers, Layers] = (7, 7)
    """RRDB blocks in trunk A and trunk B of each level's feature extractor."""
    rrdb_features: Channels = 64
    rrdb_growth: Channels = 32
    log_std_bound: Real | None = None
    """Super-resolution: smooth upper bound of the log standard deviations of the latent path; None, as in the released
    weights, leaves them free, and a sample of a picture unlike the training images may then overflow."""

    conditions: tuple[Condition, ...] | None = None
    """What conditions the latents of levels 1 (finest) to L: nothing, the given LR image, the level's own image y_l, or
    that and the conditions of all levels below it; None: the last for all levels, as HCFlow does (paper, table 5)."""
    lr_is_output: Switch = True
    """Whether the flow gives an LR image beside the latents; false makes all channels of the last level latents."""

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return int(math.log2(self.scale))

    @property
    def level_conditions(self) -> tuple[Condition, ...]:
        """`conditions`, said for each level."""
        if self.conditions is not None:
            return self.conditions
        default: Condition = "own_and_below"
        return (default,) * self.levels

    @property
    def condition_channels(self) -> int:
        """Channels of a level's condition: super-resolution concatenates what two depths of the extractor give."""
        return self.rrdb_features * (1 if self.task == "rescaling" else 2)

    @property
    def makes_lr(self) -> bool:
        """Whether the model makes the LR images that it restores; else it takes those of MATLAB's bicubic."""
        return self.task == "rescaling"


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
    workers: Annotated[Positive, pydantic.Field(le=_MOST_AT_ONCE)] = 4


class LossConfig(_Section):
    """Weights of the losses (paper section 3.4 and 4.1); 0 switches one off."""

    nll: Weight = 1.0
    quantization_levels: Annotated[Positive, pydantic.Field(ge=2)] = 256
    """q of the dequantisation noise u / q, u ~ U[0, 1)."""
    pixel: Weight = 0.0
    """L1 between the HR image and the decoded one."""
    pixel_temperature: Weight = 0.0
    """Temperature of the image that the pixel loss sees: 0 for HCFlow+, 1 for rescaling."""
    lr: Weight = 0.0
    """L2 between the encoder's LR image and the bicubic one (rescaling)."""
    lr_chroma: PositiveFloat = 1.0
    """How much more than the luma the colour differences count in that error, before squaring; 1 is plain L2 of RGB."""
    latent: Weight = 0.0
    """L2 of the latents (rescaling)."""
    perceptual: Weight = 0.0
    """L1 between VGG19 features, last convolution of block 5 before its ReLU."""
    lpips: Weight = 0.0
    """LPIPS between the sample and the HR image."""
    adversarial: Weight = 0.0
    """Vanilla GAN with logits."""
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


class OptimizerConfig(_Section):
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
    discriminator_learning_rate: PositiveFloat = 5e-5
    discriminator_warmup_steps: NonNegative = 1500
    """The discriminator alone trains for this many steps first."""


class TrainingConfig(_Section):
    """Length, batch, seed, intervals and options of a training run."""

    steps: Positive = 300_000
    batch_size: Annotated[Positive, pydantic.Field(le=_MOST_AT_ONCE)] = 16
    """Over all replicas."""
    seed: NonNegative = 0
    start_from: str | None = None
    """Model directory whose weights to fine-tune; a smaller model's are taken up by a larger one that starts as its equal."""
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
        for problem in (*self._model_problems(), *self._data_problems(), *self._loss_problems(), *self._schedule_problems()):
            raise ValueError(problem)
        return self

    def _model_problems(self) -> Iterator[str]:
        if self.model.task == "rescaling" and self.model.log_std_bound is not None:
            yield "model.log_std_bound: a rescaling model's log standard deviations are bounded already; leave it out"
        conditions, levels = self.model.level_conditions, self.model.levels
        if len(conditions) != levels:
            yield f"model.conditions: expected one for each of the {levels} levels, got {len(conditions)}"
        if self.model.task == "rescaling" and (not self.model.lr_is_output or "lr" in conditions):
            yield "model.conditions: a rescaling model makes its LR image itself; it must be an output and no condition is lr"
        if not self.model.lr_is_output and conditions[-1] in ("own", "own_and_below"):
            yield f"model.conditions: without model.lr_is_output the last level has no image of its own, got {conditions[-1]}"

    def _data_problems(self) -> Iterator[str]:
        data, scale = self.data, self.model.scale
        if data.crop_size % scale:
            below = data.crop_size // scale * scale
            nearest = " or ".join(str(size) for size in (below, below + scale) if size)
            yield f"data.crop_size: {data.crop_size} is not divisible by model.scale {scale}; use {nearest}"
        if data.sample_photographs and (data.train.hr or data.validation.hr):
            yield "data.sample_photographs: give either this or folders, not both"

    def _loss_problems(self) -> Iterator[str]:
        losses = self.losses
        if not any((losses.nll, losses.pixel, losses.perceptual, losses.lpips, losses.adversarial)):
            yield "losses: nll, pixel, perceptual, lpips and adversarial are all 0, nothing would be trained"
        if self.model.task == "rescaling" and losses.nll and losses.pixel:
            yield "losses.nll: a rescaling model is trained without NLL (its losses are pixel, lr and latent); set it to 0"
        on_samples = losses.perceptual or losses.lpips or losses.adversarial
        if not self.training.start_from and (on_samples or (losses.nll and losses.pixel)):
            yield (
                "training.start_from: these losses (pixel beside nll, perceptual, lpips, adversarial) diverge from scratch; "
                "name the directory of a trained or converted model to fine-tune"
            )
        if losses.adversarial and self.data.crop_size != 160:
            yield "data.crop_size: the discriminator takes 160 x 160 crops; set it to 160 or losses.adversarial to 0"

        if losses.lpips and self.data.crop_size < 31:
            yield f"data.crop_size: LPIPS takes crops of 31 x 31 or larger, got {self.data.crop_size}"

    def _schedule_problems(self) -> Iterator[str]:
        steps, optimizer = self.training.steps, self.optimizer
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
            f"{source}: format_version is {_shown(version)}, this program reads {FORMAT_VERSION}; "
            "use the hcflow_tf release that wrote it, or convert or train the model again"
        )
    try:
        return Config.model_validate(tree)
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
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_nearest_key(problem['loc'])}"
    if problem["type"] == "model_type":
        got = "nothing" if problem["input"] is None else _shown(problem["input"])
        return f"{key}: expected a section of keys, got {got}"
    if problem["type"] == "value_error":
        return ": ".join(part for part in (key, str(problem["ctx"]["error"])) if part)
    reason = problem["msg"].replace("valid tuple", "list").replace("Tuple", "list").replace(" after validation", "")
    return f"{key}: {reason[0].lower()}{reason[1:]}, got {_shown(problem['input'])}"


def _shown(value: Any) -> str:
    """The value as Python writes it, cut to some 100 characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to write integers of more than 4300 digits
        return "a number of thousands of digits"


def _nearest_key(path: tuple) -> str:
    """The same name in another section, else the nearest name in this one, else all of this one's."""
    *parents, name = map(str, path)
    section: Any = Config
    for parent in parents:
        section = section.model_fields[parent].annotation
    for other, field in Config.model_fields.items():
        if name in getattr(field.annotation, "model_fields", ()):
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
