"""Two confirmed configurations side by side: what the one mends and the other breaks, and images that show it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.failures import CATEGORIES, Change, mended_and_broken, sample
from analysis.statistics import Standing

SHOWN = 3  # of the worst and of the others, in each category
OWN = 6  # of the best configuration's errors, of the worst and of the others


@dataclass(frozen=True)
class Pair:
    """Configurations `a` and `b`, and a network of each, of the same seed, whose predictions and maps are shown.

    `decks` holds for each category the images on show, as `failures.sample` gives them: of the errors in it that
    either of the two networks makes. "mended" are errors of a's network that b's gets right, "broken" the other way.
    """

    a: Standing
    b: Standing
    trials: tuple[str, str]
    seed: int
    change: Change
    decks: dict[str, pd.DataFrame]

    @property
    def images(self) -> set[int]:
        return {int(image) for deck in self.decks.values() for image in deck.image}


def pairs(predictions: pd.DataFrame, failed: pd.DataFrame, standings: Sequence[Standing]) -> list[Pair]:
    """Every two of the standings that have a seed in common. predictions, failed: the tables of these configurations.

    A pair's first is the one with the lower validation accuracy, so that "mended" reads from worse to better.
    """
    found = []
    for better, worse in itertools.combinations(standings, 2):
        shared = sorted(set(better.trials.seed) & set(worse.trials.seed))
        if shared:
            of = [s.trials.set_index("seed").trial_id[shared[0]] for s in (worse, better)]
            change = mended_and_broken(predictions, worse.name, better.name)
            found.append(Pair(worse, better, (of[0], of[1]), shared[0], change, _decks(failed, of[0], of[1])))
    return found


def own_errors(failed: pd.DataFrame, trial: str) -> pd.DataFrame:
    """The errors of one network that are shown with all their maps, as `failures.sample` gives them."""
    return sample(failed[failed.trial_id == trial], OWN)


def on_show(two: Sequence[Pair], failed: pd.DataFrame, best: str | None) -> dict[str, set[int]]:
    """By trial, the images that cards show: of the pairs, and the errors of `best`, a trial, whatever the pairs."""
    found = {} if best is None else {best: set(own_errors(failed, best).image.astype(int))}
    for pair in two:
        for trial in pair.trials:
            found[trial] = found.get(trial, set()) | pair.images
    return found


def _decks(failed: pd.DataFrame, a: str, b: str) -> dict[str, pd.DataFrame]:
    ours, theirs = (failed[failed.trial_id == trial] for trial in (a, b))
    both = pd.concat([ours, theirs])
    rows = {
        "mended": ours[~ours.image.isin(theirs.image)],
        "broken": theirs[~theirs.image.isin(ours.image)],
        **{name: both[both[name]] for name in CATEGORIES},
    }
    return {name: sample(of, SHOWN) for name, of in rows.items()}
