"""The typed schema of a run's config: its sections, and which of their values go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic

from hcflow_tf.config.models import SECTIONS, AnyModelConfig, system_of
from hcflow_tf.config.systems.hcflow import ModelConfig
from hcflow_tf.config.types import (
    Channels,
    Decay,
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Quality,
    Section,
    Switch,
    UpToThousands,
    Weight,
)

FORMAT_VERSION = 1
"""Version of the model directory format, stored as `format_version` in its config.yaml."""


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


class Degradation(Section):
    """What happens to LR images of super-resolution before they are enlarged in training; see `data.degradation`."""

    share: Fraction = 0.0
    """Of the crops."""
    blur: Annotated[Weight, pydantic.Field(le=100.0)] = 0.0
    """Largest standard deviation of a Gaussian blur, LR pixels."""
    noise: Annotated[Weight, pydantic.Field(le=255.0)] = 0.0
    """Largest standard deviation of normal noise, of 255."""
    jpeg: tuple[Quality, Quality] | None = None
    """JPEG's worst and best quality; None for no compression."""


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
    degradation: Degradation = Degradation()
    """Blur, noise and JPEG of the LR images that the pixel loss and those on samples enlarge, each strength drawn evenly from
    none to this; the likelihood keeps the clean LR image, which alone is a function of the HR image."""
    crop_size: Positive = 160
    """HR pixels; divisible by the scale."""
    flip: Switch = True
    rotate: Switch = False
    cache: Literal["memory", "disk", "none"] = "disk"
    cache_dir: str = "~/.cache/hcflow_tf"
    max_bad_share: Fraction = 0.01
    """Training stops before it starts if a larger share of the images is unreadable or too small."""
    workers: UpToThousands = 4


DIVERGING = "these losses (pixel beside nll, perceptual, lpips, adversarial)"
"""Those that need a trained flow."""


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
    """L1 between features of the sample and of the HR image, see `perceptual_features`."""
    perceptual_features: Literal["vgg19", "efficientnet_lite0"] = "vgg19"
    """VGG19's last convolution of block 5 before its ReLU, as the released recipes, or four depths of EfficientNet-Lite0, a far
    smaller network whose weights the package index has: the mean of the four, not to the scale of the former."""
    lpips: Weight = 0.0
    """LPIPS between the sample and the HR image."""
    adversarial: Weight = 0.0
    """GAN with logits."""
    adversarial_kind: Literal["vanilla", "relativistic"] = "vanilla"
    """Relativistic: logits count by how much they are above the mean of the other kind's (ESRGAN)."""
    discriminator_width: Channels = 64
    """Channels of the discriminator's first convolutions; the later ones have up to eight times as many."""
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

    @property
    def diverge_from_scratch(self) -> bool:
        """Whether a flow must have been trained before these losses; see `DIVERGING`."""
        return bool(self.perceptual or self.lpips or self.adversarial or (self.nll and self.pixel))


class OptimizerConfig(Section):
    """Adam or Muon, with a learning rate that is halved at given steps or follows a cosine, and gradient clipping."""

    kind: Literal["adam", "muon"] = "adam"
    """Muon takes steps of orthogonalised momentum in convolution kernels, Adam's in all other weights and the discriminator."""
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
    """Model directory whose weights to fine-tune. A smaller model's are taken up by a larger one that starts as its equal, an
    `rrdb` model's by a part of an HCFlow or SRFlow model (docs/training.md)."""
    frozen_steps: NonNegative = 0
    """In this many first steps a part of the model is not trained: SRFlow's RRDB network, which starts from a trained one, or
    HCFlow's flow steps, so that its feature extractors and Gaussians learn from the pixel loss alone what the flow keeps."""
    validate_every: Positive = 5000
    checkpoint_every: Positive = 1000
    log_every: Positive = 100
    max_skipped_steps: Positive = 50
    """After this many non-finite steps in a row the run goes back to its last checkpoint, at half the learning rate."""
    max_rollbacks: NonNegative = 3
    """The run stops instead of going back more often than this."""
    mixed_precision: Switch = False
    """bfloat16 in feature extractors and HCFlow's coupling networks, float32 in the flow; on a CPU that does not emulate it."""
    recompute: Literal["auto", True, False] = "auto"
    """Recompute activations (RRDBs, flow steps) in the backward pass: less than half the memory, more time; auto: where a step
    would not fit the memory otherwise."""
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

    def in_vain(self) -> Iterator[str]:
        """What would do nothing, and a new run is not begun with; earlier releases did, and their runs are still read."""
        data, losses = self.data, self.losses
        if data.degradation.share and not (losses.pixel or losses.perceptual or losses.lpips or losses.adversarial):
            yield "data.degradation: the likelihood keeps the clean LR image, and no other loss is on; set share to 0"
        if losses.adversarial and self.training.batch_size * (data.crop_size // 32) ** 2 == 1:
            yield (
                "data.crop_size: the discriminator normalises over the batch, and of one crop of 32 a single value is left, "
                "which teaches it nothing; take larger crops or batches"
            )
        if losses.vgg_weights and losses.perceptual_features != "vgg19":
            yield f"losses.vgg_weights: perceptual_features {losses.perceptual_features} does not read it; set it to null"

    def _data_problems(self) -> Iterator[str]:
        data, multiple = self.data, self.model.hr_multiple
        if data.crop_size % multiple:
            below = data.crop_size // multiple * multiple
            nearest = " or ".join(str(size) for size in (below, below + multiple) if size)
            divisor = f"model.scale {multiple}" if multiple == self.model.scale else f"{multiple}, as this model needs"
            yield f"data.crop_size: {data.crop_size} is not divisible by {divisor}; use {nearest}"
        degradation = data.degradation
        if degradation.share and self.model.makes_lr:
            yield "data.degradation: a rescaling model makes its LR images itself; set share to 0"
        if degradation.share and not (degradation.blur or degradation.noise or degradation.jpeg):
            yield "data.degradation: share is above 0, but blur, noise and jpeg are all off"
        if degradation.jpeg and degradation.jpeg[0] > degradation.jpeg[1]:
            yield f"data.degradation.jpeg: expected the worst quality first, got {list(degradation.jpeg)}"
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
        if not self.training.start_from and losses.diverge_from_scratch:
            yield (
                f"training.start_from: {DIVERGING} diverge from scratch; "
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
        if self.training.frozen_steps and not self.model.CAN_FREEZE:
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
