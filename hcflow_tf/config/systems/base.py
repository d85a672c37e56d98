"""What the model sections of all systems offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from hcflow_tf.config.types import Section

Task = Literal["super_resolution", "rescaling"]


class Inside(NamedTuple):
    """A model of another system, or some of its layers, as a part of one.

    Attributes:
      keys: of the section of the model around it: what its own section says of that, and what it would have to say.
      rename: the name of one of its weights -> that in the model around it; None for layers that are no part of it.
    """

    keys: Mapping[str, tuple[object, object]]
    rename: Callable[[str], str | None]


class SystemConfig(Section):
    """What the sections of all systems offer; callers ask these, never which system it is."""

    has_likelihood: ClassVar[bool] = True
    """Whether the model says how likely an image is, so that it can be trained by its negative log-likelihood."""
    DEFAULT_LOSSES: ClassVar[dict[str, float]] = {}
    """Keys of the section losses where a config leaves the section out."""
    GROWING: ClassVar[tuple[str, ...]] = ()
    """Keys in which a model may be larger than the one whose weights it starts from; see `training.growth`."""
    FREE: ClassVar[tuple[str, ...]] = ()
    """Keys in which it may differ from that one."""
    CAN_FREEZE: ClassVar[bool] = False
    """Whether `training.frozen_steps` has a part to leave as it is."""

    if TYPE_CHECKING:  # a key of some sections, and the same for all models of others

        @property
        def system(self) -> str:
            """Its name in configs."""

        @property
        def scale(self) -> int:
            """Width of hr over width of lr."""

        @property
        def task(self) -> Task:
            """What it is for."""

    @property
    def makes_lr(self) -> bool:
        """Whether the model makes the LR images that it restores; else it takes those of MATLAB's bicubic."""
        return self.task == "rescaling"

    @property
    def hr_multiple(self) -> int:
        """What height and width of HR images are to be divisible by."""
        return self.scale

    @property
    def repeats_border(self) -> bool:
        """Whether convolutions see the pixels at the border again outside the image, not zeros."""
        return False

    @property
    def min_weights(self) -> int:
        """Some number of weights (arrays) that any such model exceeds, known without making one."""
        raise NotImplementedError

    def inside(self, other: SystemConfig) -> Inside | None:
        """A model of another system as a part of this one, which may start from it; None: of no model of that system."""
        del other
        return None

    def describe(self) -> dict[str, str]:
        """Its size in words: what -> how much."""
        raise NotImplementedError

    def problems(self) -> Iterator[str]:
        """Combinations of values that are no model, each as one line "model.key: reason"."""
        yield from ()
