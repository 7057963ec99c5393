"""The effect of searching: how it varies from search to search, and what is left of it between ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import tables
from analysis.blocks import Table
from analysis.failures import Flags
from analysis.statistics import Interval, Standing, best_two, confirmed, estimate, over_images, paired
from analysis.words import interval, number, points
from study.files import RecordError, refuse_links
from study.records import read_study

SAME = ("space_sha256", "fidelity", "split", "budget")


@dataclass(frozen=True)
class Gain:
    """What a search's winner gains over an arm: points of test accuracy, mean over seeds."""

    study: str
    winner: str
    points: float


@dataclass(frozen=True)
class Ensembles:
    """Test accuracies, in %, of the mean probabilities of each configuration's networks, and their difference."""

    first: Standing
    second: Standing
    accuracies: tuple[float, float]
    difference: Interval  # points, over test images

    @property
    def sentence(self) -> str:
        each = [
            f"{number(accuracy)} % by the mean probabilities of {len(standing.trials)} networks of {standing.title}"
            for accuracy, standing in zip(self.accuracies, (self.first, self.second), strict=True)
        ]
        low, high = self.difference.low, self.difference.high
        between = "" if low is None or high is None else f", 95 % interval over images {number(low)} to {number(high)}"
        less = points(self.accuracies[0] - self.accuracies[1])
        return f"As ensembles: {each[0]}, {each[1]} ({less} points{between})."


def ensemble(predictions: pd.DataFrame, standing: Standing) -> Flags:
    """Return whether the mean probabilities of a configuration's networks are right, (N,) by image."""
    rows = predictions[predictions.trial_id.isin(standing.trials.trial_id)]
    columns = [f"p_{k}" for k in range(10)]
    mean = rows.groupby("image")[columns].mean().to_numpy()
    labels = rows.groupby("image").label.first().cat.codes.to_numpy()
    return np.asarray(mean.argmax(axis=1) == labels)


def ensembles(predictions: pd.DataFrame, standings: Sequence[Standing]) -> Ensembles | None:
    """Return the two best configurations as ensembles; None where there are not two of several networks."""
    best = best_two(standings)
    if len(best) < 2 or predictions.empty or min(len(s.trials) for s in best) < 2:
        return None
    right = [ensemble(predictions, standing) for standing in best]
    if len(right[0]) != len(right[1]):
        return None
    found = over_images(right[0].astype(float) - right[1])
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    value = None if found.value is None else 100 * found.value
    accuracies = (100 * float(right[0].mean()), 100 * float(right[1].mean()))
    return Ensembles(best[0], best[1], accuracies, Interval(value, low, high))


def gains(folder: Path, about: dict[str, Any], standings: Sequence[Standing], arm: str | None = None) -> list[Gain]:
    """Return what the winner of this search, and of each other of the same space beside it, gains over an arm.

    Where no `arm` is named, it is the best by validation accuracy in this study.
    """
    best = best_two(standings)
    if len(best) < 2 or not best[0].is_candidate or best[1].is_candidate:
        return []
    found, arm, seeds = [], arm or best[1].name, {about.get("seed")}
    for path in [folder, *(p.parent for p in sorted(folder.parent.glob("*/study.json")) if p.parent != folder)]:
        with suppress(RecordError, OSError):
            if path == folder:
                other, others = about, standings
            else:
                refuse_links(path)
                other = read_study(path)
                if other.get("seed") in seeds or _search(other) != _search(about):
                    continue
                others = confirmed(tables.earlier(path, "trials"))
            winner = next((s for s in others if s.is_candidate), None)
            reference = next((s for s in others if s.name == arm), None)
            if winner and reference and len(less := paired(winner, reference)):
                found.append(Gain(path.name, winner.title, 100 * float(less.mean())))
                seeds.add(other.get("seed"))
    return found


def table(folder: Path, about: dict[str, Any], standings: Sequence[Standing]) -> list[Table]:
    """Return the gain over each arm, over searches; no table where there is one search, or none."""
    rows = []
    for arm in (s for s in standings if not s.is_candidate):
        found = gains(folder, about, standings, arm.name)
        if len(found) > 1:
            over = estimate([gain.points for gain in found])
            each = ", ".join(f"{gain.study} {points(gain.points)}" for gain in found)
            rows.append([arm.title, points(over.mean), interval(over, signed=True), str(over.n), each])
    caption = (
        "What the winner of each search, its best candidate by validation accuracy, gains over each arm in test "
        "accuracy, points: mean, and Student's t interval over searches of this space with different seeds. Where "
        "these have seeds of confirm in common, they share the arm's networks, and the interval leaves out how far "
        "others would move it. Table: trials, of each study."
    )
    columns = ["arm", "gain", "95 % interval", "searches", "each"]
    return [Table(columns, rows, caption)] if rows else []


def _search(about: dict[str, Any]) -> list[Any]:
    """Return what two studies have in common whose searches differ in their seed alone."""
    settings = about.get("settings") or {}
    return [*map(about.get, SAME), settings.get("rule"), settings.get("time_budget_s")]


def sentence(found: Sequence[Gain]) -> str:
    """Return how much the gain varies from search to search, in words; empty where nothing was searched."""
    if not found:
        return ""
    if len(found) == 1:
        return "This is one search: how much its winner depends on its seed is not in the interval."
    over = estimate([gain.points for gain in found])
    between = (
        "" if over.low is None or over.high is None else f" (95 % interval {number(over.low)} to {number(over.high)})"
    )
    each = ", ".join(f"{gain.study} {points(gain.points)}" for gain in found)
    return f"Over {len(found)} searches of this space, winners gain {points(over.mean)} points{between}: {each}."
