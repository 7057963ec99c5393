"""A search space: frozen, typed values to draw configurations from. space_file.py reads one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial, FixedTrial

from study import config
from study.config import SIZES, Augmentation, Cosine, Model, OneCycle, Step, TrialConfig, narrowed, scaled, within

TRAINING_IMAGES = 60_000
TEST_IMAGES = 10_000

Value = bool | int | float | tuple[int, ...]
Fidelity = Literal["full", "preview"]


@dataclass(frozen=True)
class Uniform:
    """Any number in [low, high], all equally likely."""

    low: float
    high: float


@dataclass(frozen=True)
class Log:
    """Any number in [low, high], its logarithm equally likely; low is above 0."""

    low: float
    high: float


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high], both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Choice:
    """One of two or more different values of one type."""

    options: tuple[Value, ...]


Distribution = Uniform | Log | Int | Choice


@dataclass(frozen=True)
class Budget:
    """How much to spend: search trials (the arms' included), candidates to confirm, seeds for each confirmed one."""

    trials: int = within(1, 100_000)
    candidates: int = within(0, 1000)
    seeds: int = within(1, 1000)


@dataclass(frozen=True)
class Split:
    """Numbers of images, and the seed that draws the training and validation ones from the 60,000."""

    train: int = within(10, TRAINING_IMAGES, default=50_000)
    validation: int = within(10, TRAINING_IMAGES, default=10_000)
    test: int = within(10, TEST_IMAGES, default=10_000)  # fewer only in a preview
    seed: int = within(0, 999_999, default=0)
    stratified: bool = True  # else training and validation images are drawn whatever their class

    @property
    def text(self) -> str:
        how = "" if self.stratified else ", not stratified"
        return f"{self.train} train, {self.validation} validation, {self.test} test, seed {self.seed}{how}"


@dataclass(frozen=True)
class Scale:
    """How large a study is; `width` multiplies the channels and hidden units of its models."""

    split: Split
    epochs: int  # of every searched configuration, and of an arm at most
    budget: Budget
    width: float = within(0, 1, open_low=True, default=1.0)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Scale:
        """Return the scale that `asdict` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        if (epochs := values["epochs"]) not in config.FIELDS["epochs"].metadata["range"]:
            raise ValueError(f"epochs {epochs}")
        return Scale(**{**values, "split": Split(**values["split"]), "budget": Budget(**values["budget"])})


@dataclass(frozen=True)
class Preview:
    """The least and the largest scale that a preview may have: see `fit.fit`."""

    least: Scale
    most: Scale


@dataclass(frozen=True)
class Part:
    """A model, optimizer, schedule, augmentation or the plain settings: `base` holds what is fixed, `ranges` the rest.

    `label` begins the names of its Optuna parameters: `sgd` makes `sgd.lr`; a second option of that name is `sgd#2`.
    Augmentation that changes nothing is always `Augmentation()`. Of strength 0 its maxima are no parameters.
    """

    label: str
    base: Any
    ranges: dict[str, Distribution]

    def suggest(self, trial: BaseTrial) -> Any:
        chosen = self.base
        for key, distribution in self.ranges.items():
            value = _suggest(trial, self._name(key), distribution)
            if key == "strength" and value == 0:
                return Augmentation()
            chosen = dataclasses.replace(chosen, **{key: value})
        return _or_none(chosen)

    def parameters_of(self, chosen: Any) -> dict[str, Any] | None:
        """The Optuna parameters that make `suggest` return `chosen`; None where none do."""
        parameters: dict[str, Any] = {}
        for key, distribution in self.ranges.items():
            value = getattr(chosen, key, None)
            if key == "strength" and chosen == Augmentation():  # if not of strength 0, then of maxima 0
                value = self.least(key)
            if value is None or not _holds(distribution, value):
                return None
            parameters[self._name(key)] = _plain(value)
            if key == "strength" and value == 0:
                break
        return parameters if self.suggest(FixedTrial(parameters)) == chosen else None

    def options(self, key: str) -> Distribution:
        return self.ranges.get(key, Choice((getattr(self.base, key),)))

    def least(self, key: str) -> float:
        """The least value that a number can take."""
        return min(self._bounds(key))

    def greatest(self, key: str) -> float:
        """The greatest value that a number can take."""
        return max(self._bounds(key))

    def narrowed(self, width: float) -> Part:
        """A model's part with every size that it can take times `width`."""
        ranges = dict(self.ranges)
        for key in SIZES:
            match ranges.get(key):
                case Choice(options):
                    ranges[key] = Choice(tuple(dict.fromkeys(scaled(option, width) for option in options)))
                case Int(low, high):
                    ranges[key] = Int(scaled(low, width), scaled(high, width))
        return dataclasses.replace(self, base=narrowed(self.base, width), ranges=ranges)

    def capped(self, key: str, most: int) -> Part:
        """Return the part with a whole number of at most so much; a fixed one or an option above it becomes it."""
        ranges = dict(self.ranges)
        match ranges.pop(key, None):
            case Int(low, high) if low < most:
                return dataclasses.replace(self, ranges={**self.ranges, key: Int(low, min(high, most))})
            case Choice(options) if len(capped := dict.fromkeys(min(n, most) for n in options)) > 1:
                return dataclasses.replace(self, ranges={**self.ranges, key: Choice(tuple(capped))})
        value = min(int(self.least(key)), most)
        return dataclasses.replace(self, base=dataclasses.replace(self.base, **{key: value}), ranges=ranges)

    def overlaps(self, other: Part) -> bool:
        """Whether both can become the same value."""
        keys = [field.name for field in dataclasses.fields(self.base)]
        return type(self.base) is type(other.base) and all(_meet(self.options(k), other.options(k)) for k in keys)

    def conflict(self, unread: set[str]) -> tuple[str, str, str] | None:
        """What its values cannot be together, as key, got, must; values that are `unread` are not judged."""

        def options(key: str) -> tuple[Any, ...]:
            found = self.options(key)
            return found.options if isinstance(found, Choice) else (found.low,)

        match self.base:
            case config.ResNet() if not unread & {"blocks", "widths"}:
                lengths = [sorted({len(option) for option in options(key)}) for key in ("blocks", "widths")]
                if lengths[0] != lengths[1] or len(lengths[0]) > 1:
                    blocks, widths = (" or ".join(map(str, counts)) for counts in lengths)
                    got = f"{widths} width{'s' * (widths != '1')} for {blocks} block{'s' * (blocks != '1')}"
                    return "widths", got, "as many widths as blocks in every combination"
            case config.FashionCNN() if not unread & {"channels", "kernel"}:
                if (most := max(map(len, options("channels")))) > 4:
                    return "channels", f"a list of {most} items", "at most 4: each of them halves the image"
                if isinstance(self.options("kernel"), Int) or any(side % 2 == 0 for side in options("kernel")):
                    return "kernel", "a kernel that may be even", "odd: one of 1, 3, 5 and 7"
            case config.SGD() if not unread & {"momentum", "nesterov"}:
                if any(options("nesterov")) and min(options("momentum")) == 0:
                    return "nesterov", "true with momentum 0", "used with momentum above 0 only"
        return None

    @property
    def networks(self) -> int:
        """How many networks of different cost a model's choices make."""
        sizes = (d for key, d in self.ranges.items() if key != "dropout")
        return math.prod(len(d.options) for d in sizes if isinstance(d, Choice))

    @property
    def size(self) -> float:
        """Return how many different values it can take: a whole number, or inf where a range is continuous."""
        sizes = {key: len(_all(distribution)) or math.inf for key, distribution in self.ranges.items()}
        strengths, without, idle = sizes.pop("strength", 1), False, 0.0
        if isinstance(self.base, Augmentation) and self.ranges:  # what changes nothing is one value, however it is made
            without = self.least("strength") == 0
            if all(_holds(self.options(name), 0) for name in config.MAXIMA):
                idle = math.prod(size for name, size in sizes.items() if name not in config.MAXIMA)
        return (strengths - without) * (math.prod(sizes.values()) - idle) + (without or idle > 0)

    def examples(self) -> Iterator[Any]:
        """Every combination of its choices, with ranges at their middle."""
        return self.combinations(lambda d: d.options if isinstance(d, Choice) else (_middle(d),))

    def combinations(self, values: Callable[[Distribution], Sequence[Value]]) -> Iterator[Any]:
        """Return what it becomes with every combination of the values that stand for its ranges."""
        for combination in itertools.product(*map(values, self.ranges.values())):
            chosen = dict(zip(self.ranges, combination, strict=True))
            yield _or_none(dataclasses.replace(self.base, **chosen))

    def _bounds(self, key: str) -> list[float]:
        options = self.options(key)
        values = options.options if isinstance(options, Choice) else (options.low, options.high)
        return [value for value in values if isinstance(value, int | float)]

    def _name(self, key: str) -> str:
        return f"{self.label}.{key}" if self.label else key


@dataclass(frozen=True)
class Space:
    """What a study searches, confirms and spends. `space_file.load` makes it."""

    name: str  # the file's stem
    text: str  # the file, as read
    parts: dict[str, tuple[Part, ...]]  # model, optimizer, schedule, augmentation: the alternatives of each
    rest: Part  # the plain settings of a TrialConfig
    split: Split
    budget: Budget
    arms: dict[str, TrialConfig]  # in the file's order
    preview: Preview
    full: Space | None = None  # what a preview is the preview of
    width: float = 1.0  # of its models, relative to the full study's

    @property
    def fidelity(self) -> Fidelity:
        return "full" if self.full is None else "preview"

    @property
    def epochs(self) -> int:
        """The most epochs of a searched configuration; an arm's may differ."""
        return int(self.rest.greatest("epochs"))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return every number of epochs that a searched configuration can have."""
        return tuple(map(int, _all(self.rest.options("epochs"))))  # type: ignore[arg-type]

    @property
    def grace_period(self) -> int:
        """Return the epochs of the longest trial before the first rung: a third where a cycle may be searched, else 1.

        Before, accuracies under one cycle say little of those at its end, and rank it too low beside other schedules:
        see PROTOCOL.md of results.
        """
        return max(1, self.epochs // 3) if self.cycles else 1

    @property
    def cycles(self) -> bool:
        """Whether one cycle may be searched."""
        return any(isinstance(part.base, OneCycle) for part in self.parts["schedule"])

    @property
    def scale(self) -> Scale:
        """How large the study is."""
        return Scale(self.split, self.epochs, self.budget, self.width)

    def at(self, fidelity: Fidelity) -> Space:
        """Return the space at full fidelity, or as a preview: the one that it is, else the largest."""
        if fidelity == self.fidelity:
            return self
        return self.scaled(self.preview.most) if fidelity == "preview" else self.full or self

    def scaled(self, scale: Scale) -> Space:
        """Return the full study at a scale: a preview, unless it is the study's own scale.

        A preview's arms have at most as many epochs as the scale.
        """
        full = self.full or self
        if scale == full.scale:
            return full
        models = tuple(part.narrowed(scale.width) for part in full.parts["model"])
        arms = {
            name: dataclasses.replace(arm, epochs=min(arm.epochs, scale.epochs), model=narrowed(arm.model, scale.width))
            for name, arm in full.arms.items()
        }
        space = dataclasses.replace(
            full,
            parts={**full.parts, "model": models},
            rest=full.rest.capped("epochs", scale.epochs),
            split=scale.split,
            arms=arms,
            full=full,
            width=scale.width,
        )
        return space.with_budget(scale.budget)

    def reductions(self) -> list[str]:
        """What a preview has less of than the full study, in words such as `4,000 of 50,000 training images`."""
        if self.full is None:
            return []
        full = self.full.with_budget(self.full.budget)
        epochs = [full.epochs, *(arm.epochs for arm in full.arms.values())]
        counts = [
            ("training images", self.split.train, [full.split.train]),
            ("validation images", self.split.validation, [full.split.validation]),
            ("test images", self.split.test, [full.split.test]),
            ("epochs", self.epochs, epochs),
            ("trials", self.budget.trials, [full.budget.trials]),
            ("candidates", self.budget.candidates, [full.budget.candidates]),
            ("seeds", self.budget.seeds, [full.budget.seeds]),
        ]
        more = [(what, own, [f"{n:,}" for n in sorted(set(numbers)) if n > own]) for what, own, numbers in counts]
        narrower = [f"networks of {self.width:g} times the width"] if self.width < 1 else []
        return [f"{own:,} of {' or '.join(numbers)} {what}" for what, own, numbers in more if numbers] + narrower

    def with_budget(self, budget: Budget) -> Space:
        """Return the space with this budget, but no more trials and candidates than it has configurations for."""
        trials = min(budget.trials, self.most_trials)
        candidates = min(budget.candidates, self.most_trials - len(self.arms))
        budget = Budget(int(trials), int(candidates), budget.seeds)
        return self if budget == self.budget else dataclasses.replace(self, budget=budget)

    @property
    def configurations(self) -> float:
        """Return how many different ones the search can draw: a whole number, or inf where a range is continuous."""
        return math.prod(map(_different, [*self.parts.values(), (self.rest,)]))

    @property
    def most_trials(self) -> float:
        """Return how many trials the search has at most: the arms, and every other configuration once."""
        inside = {self.in_search(arm) for arm in self.arms.values() if self.parameters_in_search(arm) is not None}
        return len(self.arms) + self.configurations - len(inside)

    def combinations(self, seed: int) -> Iterator[TrialConfig]:
        """Return every combination of what the space chooses from, each continuous range at a value that is drawn."""
        rng = np.random.default_rng(seed)

        def values(distribution: Distribution) -> Sequence[Value]:
            return _all(distribution) or (_draw(distribution, rng),)

        components = [[one for part in parts for one in part.combinations(values)] for parts in self.parts.values()]
        for rest in self.rest.combinations(values):
            for chosen in itertools.product(*components):
                yield dataclasses.replace(rest, **dict(zip(self.parts, chosen, strict=True)))

    def flat_steps(self) -> list[str]:
        """Where StepLR never falls, for it would do so first when the training is over: in words, one for each."""
        steps = [p for p in self.parts["schedule"] if isinstance(p.base, Step)]
        found = [(f"search, {part.label}", part.least("step_size"), self.epochs) for part in steps]
        arms = {name: (arm.schedule, arm.epochs) for name, arm in self.arms.items()}
        found += [(f"arm {name}", s.step_size, epochs) for name, (s, epochs) in arms.items() if isinstance(s, Step)]
        said = "{}: StepLR first falls after epoch {} of {}: it never does"
        return [said.format(where, first, epochs) for where, first, epochs in found if first >= epochs]

    def suggest(self, trial: BaseTrial) -> TrialConfig:
        """Draw a configuration; a hyperparameter of an option is asked for only where that option was chosen."""
        chosen = {}
        for key, parts in self.parts.items():
            by_label = {part.label: part for part in parts}
            label = parts[0].label if len(parts) == 1 else trial.suggest_categorical(key, list(by_label))
            chosen[key] = by_label[label].suggest(trial)
        result: TrialConfig = dataclasses.replace(self.rest.suggest(trial), **chosen)
        return result

    def parameters_of(self, given: TrialConfig) -> dict[str, Any] | None:
        """The Optuna parameters that make `suggest` return this configuration; None where it lies outside the space.

        Epochs count: an arm of other epochs than the space's lies outside; its copy with the space's epochs may not.
        """
        parameters: dict[str, Any] = {}
        for key, parts in self.parts.items():
            found = ((part, part.parameters_of(getattr(given, key))) for part in parts)
            part, own = next(((part, own) for part, own in found if own is not None), (None, None))
            if part is None or own is None:
                return None
            parameters |= own if len(parts) == 1 else {key: part.label, **own}
        plain = dataclasses.replace(given, **{key: getattr(self.rest.base, key) for key in self.parts})
        own = self.rest.parameters_of(plain)
        return None if own is None else parameters | own

    def in_search(self, given: TrialConfig) -> TrialConfig:
        """Return a configuration as the search trains it: not beyond the space's epochs.

        A schedule that ends with the training, or warms up for a share of it, keeps its own: over other epochs it is
        another schedule.
        """
        if isinstance(given.schedule, Cosine | OneCycle) or given.schedule.warmup:
            return given
        return dataclasses.replace(given, epochs=min(given.epochs, self.epochs))

    def parameters_in_search(self, given: TrialConfig) -> dict[str, Any] | None:
        """`parameters_of` a configuration as the search trains it; one of fewer epochs than others lies outside."""
        return self.parameters_of(self.in_search(given))

    def distributions_of(self, parameters: dict[str, Any]) -> dict[str, BaseDistribution]:
        """Optuna's distributions of the parameters that `parameters_of` returned, for `optuna.trial.create_trial`."""
        trial = FixedTrial(parameters)
        self.suggest(trial)
        return trial.distributions

    def models(self) -> tuple[Model, ...]:
        """Every network of the space and its arms that differs in cost; dropout does not, a range is at its middle."""
        networks: dict[tuple[Any, ...], Model] = {}
        searched = (network for part in self.parts["model"] for network in part.examples())
        for network in itertools.chain(searched, (arm.model for arm in self.arms.values())):
            sizes = {**dataclasses.asdict(network), "dropout": None}
            networks.setdefault(tuple(sizes.items()), network)
        return tuple(networks.values())


def _or_none(value: Any) -> Any:
    """Return a component; of augmentation that changes nothing, that which there is without."""
    return Augmentation() if isinstance(value, Augmentation) and value.idle else value


def _suggest(trial: BaseTrial, name: str, distribution: Distribution) -> Value:
    match distribution:
        case Uniform(low, high):
            return trial.suggest_float(name, low, high)
        case Log(low, high):
            return trial.suggest_float(name, low, high, log=True)
        case Int(low, high):
            return trial.suggest_int(name, low, high)
        case Choice(options):
            texts = [_plain(option) for option in options]
            return options[texts.index(trial.suggest_categorical(name, texts))]  # type: ignore[arg-type]


def _plain(value: Value) -> bool | int | float | str:
    """The value as Optuna can store it: a list as text, `64-128-256`."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else value


def _holds(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, Choice):
        return value in distribution.options
    return bool(distribution.low <= value <= distribution.high)


def _all(distribution: Distribution) -> Sequence[Value]:
    """Return every value of a distribution; none where it is continuous."""
    match distribution:
        case Choice(options):
            return options
        case Int(low, high):
            return range(low, high + 1)
    return ()


def _draw(distribution: Distribution, rng: np.random.Generator) -> Value:
    match distribution:
        case Uniform(low, high):
            return min(rng.uniform(low, high), high)  # rounding may exceed it
        case Log(low, high):
            return float(np.clip(math.exp(rng.uniform(math.log(low), math.log(high))), low, high))
    raise TypeError(distribution)


def _different(parts: tuple[Part, ...]) -> float:
    """Return how many different values the parts have together. In a preview, narrower networks may coincide."""
    size = sum(part.size for part in parts)
    if math.isfinite(size) and any(one.overlaps(other) for one, other in itertools.combinations(parts, 2)):
        return len({value for part in parts for value in part.combinations(_all)})
    return size


def _meet(one: Distribution, other: Distribution) -> bool:
    """Whether some value lies in both."""
    if isinstance(one, Choice):
        return any(_holds(other, option) for option in one.options)
    if isinstance(other, Choice):
        return _meet(other, one)
    return one.low <= other.high and other.low <= one.high


def _middle(distribution: Uniform | Log | Int) -> float:
    if isinstance(distribution, Int):
        return (distribution.low + distribution.high) // 2
    if isinstance(distribution, Log):
        return math.sqrt(distribution.low) * math.sqrt(distribution.high)
    return (distribution.low + distribution.high) / 2
