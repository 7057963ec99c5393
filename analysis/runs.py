"""Which confirmed runs of a study can be compared for a claim: arms that are alike but for what it is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.effects import Effect
from analysis.statistics import confirmed, is_candidate, lost_seeds, planned
from analysis.words import start
from study.config import SGD, Adam, Step, TrialConfig, hyperparameters
from study.records import Weights

OPTIMIZATION = ("hp_optimizer", "hp_lr", "hp_momentum", "hp_nesterov", "hp_schedule", "hp_step_size", "hp_gamma")
OPTIMIZERS, SCHEDULES = ("sgd", "adam"), ("none", "step", "cosine")
# The settings of the ResNet source's two runs; a network may be narrower, and a preview have fewer epochs.
BASELINE = TrialConfig(optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4), epochs=15, mean=0.5, std=0.5)
IMPROVED = dataclasses.replace(BASELINE, optimizer=Adam(lr=1e-3), schedule=Step(step_size=5, gamma=0.1))
WIDTHS, PREVIEWED = ("hp_widths", "hp_stem"), ("hp_epochs",)


class NotTested(Exception):
    """Why the runs of a study cannot test a claim."""


class NoRows(NotTested):
    """The arms are there, what is to be measured of them is not."""


def _nothing() -> pd.DataFrame:
    """Return a table without rows, as of what a study did not keep."""
    return pd.DataFrame(columns=["stage", "arm", "seed", "trial_id"])


@dataclass(frozen=True)
class Runs:
    """The tables of a study that claims are judged by, as `tables.read` gives them."""

    trials: pd.DataFrame
    epochs: pd.DataFrame
    predictions: pd.DataFrame
    images: pd.DataFrame
    attention: pd.DataFrame
    attention_checks: pd.DataFrame
    stress: pd.DataFrame
    calibration: pd.DataFrame
    cue_conflict: pd.DataFrame = field(default_factory=_nothing)
    last_predictions: pd.DataFrame = field(default_factory=_nothing)  # `predictions` are by the best epoch's weights
    arms: pd.DataFrame = field(init=False)  # of the arms to be confirmed, by name: the model and the hp_* columns
    lost: dict[str, str] = field(init=False)  # by arm, what became of seeds that failed or diverged: `lost_seeds`
    used: set[str] = field(init=False, default_factory=set)  # the arms whose rows were asked for

    def __post_init__(self) -> None:
        confirm = planned(self.trials)
        arms = confirm[~confirm.arm.fillna("").map(is_candidate).astype(bool)]
        object.__setattr__(self, "arms", arms.groupby("arm").first().filter(regex="^(model$|hp_)"))
        object.__setattr__(self, "lost", lost_seeds(self.trials))

    @property
    def weights(self) -> Weights:
        """The weights by which the sources' numbers are judged: the last epoch's, if all completed runs kept them."""
        done = self.completed
        return "last" if len(done) and done.test_accuracy_last.notna().all() else "best"

    def predicted(self, weights: Weights) -> pd.DataFrame:
        """Return the predictions with the weights of the best validation epoch or of the last; empty if not kept."""
        return {"best": self.predictions, "last": self.last_predictions}[weights]

    @property
    def completed(self) -> pd.DataFrame:
        """The confirm trials that were completed."""
        return self.trials[(self.trials.stage == "confirm") & (self.trials.status == "completed")]

    def of(self, arm: str, table: str = "trials") -> pd.DataFrame:
        """The rows of an arm's completed confirm trials, in a table with a trial's key. Raises NoRows."""
        self.used.add(arm)
        done, all_rows = self.completed, getattr(self, table)
        rows: pd.DataFrame = all_rows[all_rows.trial_id.isin(done[done.arm == arm].trial_id)]
        if rows.empty:
            raise NoRows(f"it takes the table {table} of {arm}, which has no rows")
        return rows

    def by_seed(self, arm: str, value: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
        """A value of each completed trial of the arm, by seed."""
        return value(self.of(arm).set_index("seed")).astype(float)

    def note(self, what: str, effect: Callable[..., Effect], *given: Any) -> str:
        """The sentence of `effect(*given)`, on which no verdict rests: what is lost of its arms is said here alone."""
        before = set(self.used)
        try:
            said = effect(*given).sentence
        except NotTested as reason:
            said = f"{start(what)} is not tested: {reason}."
        lost = [f"{self.lost[arm]} ({arm}): " for arm in sorted((self.used - before) & self.lost.keys())]
        self.used.clear()
        self.used.update(before)
        return "".join(lost) + said

    def alike(self, *columns: str) -> list[pd.DataFrame]:
        """Groups of arms that differ in nothing but hyperparameters whose names begin with one of `columns`."""
        differ = self.arms.columns.str.startswith(columns)
        same = ["|".join(map(str, row)) for row in self.arms.loc[:, ~differ].itertuples(index=False)]
        return [arms for _, arms in self.arms.groupby(same, sort=False) if len(arms) > 1]

    def augmentation(self) -> tuple[str, str]:
        """The arm without augmentation, and the most augmented of those that are the same but for that."""
        for arms in self.alike("hp_augmentation_"):
            strength = arms.hp_augmentation_strength.astype(float)
            if strength.min() == 0 < strength.max():
                return str(strength.idxmin()), str(strength.idxmax())
        raise NotTested("it takes two arms that differ in augmentation alone")

    def sources(self) -> tuple[str, str]:
        """The ResNet source's two settings, all of them, on one network: SGD at a constant rate, Adam with StepLR."""
        free = (*WIDTHS, *PREVIEWED) if (self.trials.fidelity == "preview").any() else WIDTHS
        for arms in self.alike(*OPTIMIZATION, "hp_weight_decay"):
            found = []
            for config in (BASELINE, IMPROVED):
                wanted = {name: value for name, value in hyperparameters(config).items() if name not in free}
                same = [(arms[name] == value).fillna(False).astype(bool) for name, value in wanted.items()]
                found.append(arms.index[np.logical_and.reduce(same)])
            if all(map(len, found)):
                before, after = (str(arms[0]) for arms in found)
                self._must_step(before, after)
                return before, after
        raise NotTested("it takes the source's two arms, SGD at a constant rate and Adam with StepLR")

    def narrower(self) -> str:
        """Return in words which channels the arms in use have, if they are ResNets of other ones than the source's."""
        channels = self.arms.hp_widths.reindex([*self.used]).dropna().unique()
        source = hyperparameters(BASELINE)["hp_widths"]
        return "; ".join(
            f"networks of {own} channels, where the source's has {source}" for own in channels if own != source
        )

    def _must_step(self, *names: str) -> None:
        """Raise NotTested where an arm has StepLR and ends before it lowers the learning rate, as a preview may."""
        for arm in self.arms.loc[[*names]].query("hp_schedule == 'step'").itertuples():
            if arm.hp_step_size >= arm.hp_epochs:
                steps = f"StepLR of {arm.Index} first lowers the learning rate after {arm.hp_step_size:.0f} epochs"
                raise NotTested(f"{steps}, and it has {arm.hp_epochs:.0f}")

    def factorial(self) -> dict[tuple[str, str], str]:
        """The arms of {SGD, Adam} × {none, step, cosine}, all else equal, by optimizer and schedule."""
        for arms in self.alike(*OPTIMIZATION):
            arms = arms[arms.hp_optimizer.isin(OPTIMIZERS)]
            held = {
                "hp_optimizer": ["hp_lr", "hp_momentum", "hp_nesterov"],
                "hp_schedule": ["hp_step_size", "hp_gamma"],
            }
            if any((arms.groupby(by)[columns].nunique() > 1).to_numpy().any() for by, columns in held.items()):
                continue
            cells = {(str(a.hp_optimizer), str(a.hp_schedule)): str(a.Index) for a in arms.itertuples()}
            wanted = {(optimizer, schedule) for optimizer in OPTIMIZERS for schedule in SCHEDULES}
            if wanted <= cells.keys():
                self._must_step(*cells.values())
                return {cell: cells[cell] for cell in sorted(wanted)}
        raise NotTested(
            "it takes arms of SGD and Adam, each at one rate with no schedule, StepLR and cosine, all else equal"
        )

    def shortcuts(self) -> list[tuple[str, str]]:
        """Pairs of arms without shortcuts and with them, all else equal; the shallowest first."""
        known = [arms[arms.hp_shortcut.notna()].reset_index() for arms in self.alike("hp_shortcut")]
        groups = [arms.groupby(arms.hp_shortcut.astype(bool)).first() for arms in known]
        pairs = [of for of in groups if set(of.index) == {False, True}]
        if not pairs:
            raise NotTested("it takes two arms that differ in their shortcuts alone")
        pairs.sort(key=lambda of: sum(map(int, of.hp_blocks.iloc[0].split("-"))))
        return [(str(of.arm[False]), str(of.arm[True])) for of in pairs]

    def reference(self) -> str:
        """The arm whose failures are looked at: the one without augmentation, else the best as `confirmed` ranks."""
        if self.arms.empty:
            raise NotTested("it takes a confirmed arm")
        try:
            return self.augmentation()[0]
        except NotTested:
            ranked = [standing.name for standing in confirmed(self.trials) if not standing.is_candidate]
            return str([*ranked, *self.arms.index][0])
