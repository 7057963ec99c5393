"""TrialConfig: the vocabulary of a study. Everything that determines one training run, as frozen, typed values.

Every field declares the values it accepts, so that the space reader, the tables and the documentation agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `open_low` / `open_high` exclude the end itself."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


def within(low: float, high: float, *, open_low: bool = False, open_high: bool = False, **default: Any) -> Any:
    """A dataclass field whose value (or each item of it) must lie in the range; `default=` makes it optional."""
    return field(metadata={"range": Range(low, high, open_low, open_high)}, **default)


@dataclass(frozen=True)
class ResNet:
    """Residual network (He et al. 2016, arXiv:1512.03385) of basic blocks with a 3×3 stem, for 28×28 images."""

    name: str = "resnet18"
    blocks: tuple[int, ...] = within(1, 50, default=(2, 2, 2, 2))  # basic blocks in each stage
    widths: tuple[int, ...] = within(1, 2048, default=(64, 128, 256, 512))  # channels of each stage
    stem: int = within(1, 2048, default=64)  # channels of the first convolution
    shortcut: bool = True  # False leaves the residual connections out


@dataclass(frozen=True)
class FashionCNN:
    """Blocks of convolutions with pooling, hidden layers, dropout; by default the second source's network."""

    name: str = "fashion_cnn"
    channels: tuple[int, ...] = within(1, 2048, default=(32, 64, 128))  # of each block
    convolutions: int = within(1, 4, default=1)  # in each block
    kernel: int = within(1, 7, default=3)  # side in pixels, odd
    hidden: tuple[int, ...] = within(1, 8192, default=(256, 128))
    dropout: float = within(0, 1, open_high=True, default=0.25)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent; `momentum` 0 is plain SGD, `nesterov` needs momentum above 0."""

    name: str = "sgd"
    lr: float = within(0, 100, open_low=True, default=0.1)
    momentum: float = within(0, 1, open_high=True, default=0.9)
    nesterov: bool = False
    weight_decay: float = within(0, 1, default=0.0)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), `weight_decay` added to the gradient (L2)."""

    name: str = "adam"
    lr: float = within(0, 100, open_low=True, default=1e-3)
    weight_decay: float = within(0, 1, default=0.0)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: str = "adamw"
    lr: float = within(0, 100, open_low=True, default=1e-3)
    weight_decay: float = within(0, 1, default=0.01)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5), `weight_decay` added to the gradient (L2)."""

    name: str = "rmsprop"
    lr: float = within(0, 100, open_low=True, default=1e-3)
    alpha: float = within(0, 1, open_high=True, default=0.99)  # decay of the mean square
    momentum: float = within(0, 1, open_high=True, default=0.0)
    weight_decay: float = within(0, 1, default=0.0)


@dataclass(frozen=True)
class Constant:
    """The learning rate stays as it is, after `warmup`: a share of all steps in which it rises linearly."""

    name: str = "none"
    warmup: float = within(0, 1, open_high=True, default=0.0)


@dataclass(frozen=True)
class Step:
    """StepLR: times `gamma` every `step_size` epochs."""

    name: str = "step"
    step_size: int = within(1, 10_000, default=5)
    gamma: float = within(0, 1, open_low=True, default=0.1)
    warmup: float = within(0, 1, open_high=True, default=0.0)


@dataclass(frozen=True)
class Cosine:
    """Cosine annealing from the learning rate to 0 at the last step (Loshchilov & Hutter 2017)."""

    name: str = "cosine"
    warmup: float = within(0, 1, open_high=True, default=0.0)


@dataclass(frozen=True)
class OneCycle:
    """One cycle (Smith & Topin 2019, arXiv:1708.07120): up to the learning rate by a cosine, and down by another.

    `warmup` is the share of all steps in which it rises, from a 25th. It ends at the start divided by `final_division`.
    """

    name: str = "one_cycle"
    warmup: float = within(0, 1, open_low=True, open_high=True, default=0.3)
    final_division: float = within(1, 1e6, default=1e4)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to each training image; the maxima and probabilities are multiplied by `strength`."""

    strength: float = within(0, 1, default=0.0)
    rotation: float = within(0, 180, default=0.0)  # degrees, drawn from ±
    translation: float = within(0, 1, default=0.0)  # fraction of the side, drawn from ±, both directions
    scale: float = within(0, 1, open_high=True, default=0.0)  # factor drawn from 1 ±
    shear: float = within(0, 89, default=0.0)  # degrees, horizontal, drawn from ±
    flip: float = within(0, 1, default=0.0)  # probability of a horizontal flip
    erasing: float = within(0, 1, default=0.0)  # probability of erasing a rectangle
    crop: int = within(0, 27, default=0)  # whole pixels, drawn from ±, both directions
    reflect: bool = False  # what a crop moves in is the mirror image, else black
    whole_pixels: bool = False  # translate by whole pixels after the other changes, as torchvision's two transforms do

    @property
    def idle(self) -> bool:
        """Whether it changes no image."""
        return self.strength == 0 or not any(getattr(self, name) for name in MAXIMA)


MAXIMA = ("rotation", "translation", "scale", "shear", "flip", "erasing", "crop")  # and probabilities, of augmentation


Model = ResNet | FashionCNN
Optimizer = SGD | Adam | AdamW | RMSprop
Schedule = Constant | Step | Cosine | OneCycle

MODELS: dict[str, Model] = {
    "resnet": ResNet(name="resnet"),
    "resnet18": ResNet(),
    "three_block": ResNet(name="three_block", blocks=(1, 1, 1), widths=(128, 256, 512)),
    "fashion_cnn": FashionCNN(),
}
# A name that stands for certain sizes keeps them; networks of other sizes go by the name of their family.
FIXED_SIZES = dict.fromkeys(("resnet18", "three_block"), ("blocks", "widths", "stem"))
SIZES = ("widths", "stem", "channels", "hidden")  # what a width multiplier multiplies
OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(), "adam": Adam(), "adamw": AdamW(), "rmsprop": RMSprop()}
SCHEDULES: dict[str, Schedule] = {"none": Constant(), "step": Step(), "cosine": Cosine(), "one_cycle": OneCycle()}


@dataclass(frozen=True)
class TrialConfig:
    """One configuration: with a seed and the data split it determines a training run completely."""

    model: Model = ResNet()
    optimizer: Optimizer = SGD()
    schedule: Schedule = Constant()
    augmentation: Augmentation = Augmentation()
    epochs: int = within(1, 10_000, default=15)
    batch_size: int = within(2, 60_000, default=128)
    label_smoothing: float = within(0, 1, open_high=True, default=0.0)
    mixup: float = within(0, 10, default=0.0)  # α of the mixing ratio; 0 mixes nothing
    cutmix: float = within(0, 10, default=0.0)
    ema: float = within(0, 1, open_high=True, default=0.0)  # decay of averaged weights a step; 0 averages nothing
    flip_test: bool = False  # predict with the mean of the logits of an image and its mirror image
    mean: float = within(0, 1, default=0.2860)  # pixels in [0, 1] are normalised as (x - mean) / std
    std: float = within(0, 1, open_low=True, default=0.3530)

    @property
    def config_id(self) -> str:
        """Ten hexadecimal digits that name this configuration: equal for equal values, on every machine."""
        return hashlib.sha256(json.dumps(_identity(to_dict(self)), sort_keys=True).encode()).hexdigest()[:10]

    @property
    def label(self) -> str:
        """How a person meets it in a list: `resnet18 sgd lr=0.03 step`; of other sizes, `resnet 1-1 sgd lr=0.1`."""
        model = self.model.name
        if isinstance(self.model, ResNet) and model not in FIXED_SIZES:
            model += f" {'-'.join(map(str, self.model.blocks))}"
        schedule = "" if isinstance(self.schedule, Constant) else f" {self.schedule.name}"
        return f"{model} {self.optimizer.name} lr={self.optimizer.lr:.2g}{schedule}"


# Fields that configurations had not at first, with their defaults.
LATER: dict[str, Any] = {
    "convolutions": 1, "kernel": 3, "warmup": 0.0, "crop": 0, "reflect": False, "whole_pixels": False, "mixup": 0.0,
    "cutmix": 0.0, "ema": 0.0, "flip_test": False,
}  # fmt: skip

COMPONENTS: dict[str, dict[str, Any]] = {"model": MODELS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}


def to_dict(config: Any) -> dict[str, Any]:
    """A config (or one of its parts) as JSON-ready values: tuples become lists."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without those that came later and are at their default, so that ids stay as they were."""
    parts = {key: _identity(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in parts.items() if key not in LATER or value != LATER[key]}


def from_dict(values: dict[str, Any]) -> TrialConfig:
    """The TrialConfig that `to_dict` wrote. Raises ValueError, naming the key, on anything else."""
    try:
        parts: dict[str, Any] = dict(values)
        for key, known in COMPONENTS.items():
            parts[key] = _build(known[values[key]["name"]], values[key])
        parts["augmentation"] = _build(Augmentation(), values["augmentation"])
        return _build(TrialConfig(), parts)
    except (KeyError, TypeError) as error:
        raise ValueError(f"trial config: got {values!r}, must be what to_dict wrote ({error!r})") from error


def _build(prototype: T, values: dict[str, Any]) -> T:
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return dataclasses.replace(prototype, **tuples)  # type: ignore[type-var]


def hyperparameters(config: TrialConfig) -> dict[str, bool | int | float | str]:
    """The flat view that tables show: `hp_lr`, `hp_optimizer`, …; keys that do not apply are absent.

    Lists are written as text, `64-128-256`. Augmentation maxima carry their part's name, `hp_augmentation_rotation`.
    """
    flat: dict[str, Any] = {}
    for key, value in dataclasses.asdict(config).items():
        if key == "model":
            flat |= {f"hp_{k}": v for k, v in value.items() if k != "name"}
        elif key in COMPONENTS:
            flat |= {f"hp_{key}" if k == "name" else f"hp_{k}": v for k, v in value.items()}
        elif key == "augmentation":
            flat |= {f"hp_augmentation_{k}": v for k, v in value.items()}
        else:
            flat[f"hp_{key}"] = value
    return {k: "-".join(map(str, v)) if isinstance(v, tuple) else v for k, v in flat.items()}


def scaled(size: T, width: float) -> T:
    """Channels or units, one number or several, times a width multiplier; at least 1 (Howard et al. 2017,
    arXiv:1704.04861). Other values stay."""
    if isinstance(size, tuple):
        return tuple(scaled(one, width) for one in size)  # type: ignore[return-value]
    return max(1, round(size * width)) if isinstance(size, int) else size  # type: ignore[return-value]


def narrowed(model: Model, width: float) -> Model:
    """The model with its sizes scaled; one whose name stands for certain sizes goes by its family's, `resnet`."""
    if width == 1:
        return model
    sizes = {key: scaled(value, width) for key, value in vars(model).items() if key in SIZES}
    name = "resnet" if model.name in FIXED_SIZES else model.name
    return dataclasses.replace(model, **{**sizes, "name": name})


FIELDS = types.MappingProxyType({f.name: f for f in dataclasses.fields(TrialConfig)})
