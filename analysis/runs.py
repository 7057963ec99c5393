"""Which confirmed runs of a study can be compared for a claim: arms that are alike but for what it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

OPTIMIZATION = ("hp_optimizer", "hp_lr", "hp_momentum", "hp_nesterov", "hp_schedule", "hp_step_size", "hp_gamma")
OPTIMIZERS, SCHEDULES = ("sgd", "adam"), ("none", "step", "cosine")


class NotTested(Exception):
    """Why the runs of a study cannot test a claim."""


class NoRows(NotTested):
    """The arms are there, what is to be measured of them is not."""


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
    arms: pd.DataFrame = field(init=False)  # of the confirmed arms, by name: the model and the hp_* columns

    def __post_init__(self) -> None:
        done = self.trials[(self.trials.stage == "confirm") & (self.trials.status == "completed")]
        ours = done.arm.str.fullmatch(r"candidate-\d+", na=True).astype(bool)
        object.__setattr__(self, "arms", done[~ours].groupby("arm").first().filter(regex="^(model$|hp_)"))

    def of(self, arm: str, table: str = "trials") -> pd.DataFrame:
        """The rows of an arm's completed confirm trials, in a table with a trial's key. Raises NoRows."""
        rows: pd.DataFrame = getattr(self, table)
        rows = rows[(rows.stage == "confirm") & (rows.arm == arm)]
        rows = rows[rows.status == "completed"] if table == "trials" else rows
        if rows.empty:
            raise NoRows(f"it takes the table {table} of {arm}, which has no rows")
        return rows

    def by_seed(self, arm: str, value: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
        """A value of each completed trial of the arm, by seed."""
        return value(self.of(arm).set_index("seed")).astype(float)

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
        """The ResNet source's two settings on one model: SGD at a constant rate, and Adam with StepLR."""

        def arms(optimizer: str, schedule: str, lr: float, weight_decay: float) -> pd.DataFrame:
            of = self.arms[(self.arms.hp_optimizer == optimizer) & (self.arms.hp_schedule == schedule)]
            wanted = np.isclose(of[["hp_lr", "hp_weight_decay"]].astype(float), [lr, weight_decay])
            return of[wanted.all(axis=1)]

        befores, afters = arms("sgd", "none", 0.1, 5e-4), arms("adam", "step", 1e-3, 0)
        for before in befores.index:
            for after in afters.index[afters.model == befores.model[before]]:
                return str(before), str(after)
        raise NotTested("it takes the source's two arms, SGD at a constant rate and Adam with StepLR")

    def factorial(self) -> dict[tuple[str, str], str]:
        """The arms of {SGD, Adam} × {none, step, cosine}, all else equal, by optimizer and schedule."""
        for arms in self.alike(*OPTIMIZATION):
            cells = {(str(a.hp_optimizer), str(a.hp_schedule)): str(a.Index) for a in arms.itertuples()}
            wanted = {(optimizer, schedule) for optimizer in OPTIMIZERS for schedule in SCHEDULES}
            if wanted <= cells.keys():
                return {cell: cells[cell] for cell in sorted(wanted)}
        raise NotTested("it takes arms of SGD and Adam, each with no schedule, StepLR and cosine, all else equal")

    def shortcuts(self) -> list[tuple[str, str]]:
        """Pairs of arms without shortcuts and with them, all else equal."""
        groups = [
            dict(zip(arms.hp_shortcut.astype(bool), arms.index, strict=True)) for arms in self.alike("hp_shortcut")
        ]
        pairs = [(str(of[False]), str(of[True])) for of in groups if len(of) == 2]
        if not pairs:
            raise NotTested("it takes two arms that differ in their shortcuts alone")
        return pairs

    def reference(self) -> str:
        """The arm whose failures are looked at: the one without augmentation, else the best by validation accuracy."""
        if self.arms.empty:
            raise NotTested("it takes a confirmed arm")
        try:
            return self.augmentation()[0]
        except NotTested:
            return max(map(str, self.arms.index), key=lambda arm: float(self.of(arm).val_accuracy.mean()))
