"""The intervals of claims hold the truth in 95 % of simulated studies, and the page that says so is of today's."""

from __future__ import annotations

import intervals
import numpy as np
import pandas as pd
import pytest
from table import ALL

from analysis import failures
from analysis.failures import Flags

COLUMNS = ["truth", "value", "low", "high", "p", "low_alone", "high_alone"]


@pytest.fixture(scope="module")
def stored() -> pd.DataFrame:
    return pd.read_parquet(ALL / "intervals.parquet").set_index("case")


@pytest.mark.parametrize("name", intervals.CASES)
def test_they_hold_the_truth_and_call_what_there_is(stored: pd.DataFrame, name: str) -> None:
    of = stored.loc[name]
    assert len(of) == intervals.STUDIES
    assert 0.93 <= intervals.covered(of.truth, of.low, of.high) <= 0.97
    called = intervals.called(of.low, of.high)
    assert called <= 0.07 if of.truth.iloc[0] == 0 else called >= 0.75
    assert ((of.p <= 0.05) == ((of.low >= 0) | (of.high <= 0))).all()


@pytest.mark.parametrize("name", intervals.CASES)
@pytest.mark.parametrize("studies", [3, pytest.param(300, marks=pytest.mark.slow)])
def test_what_is_stored_is_what_is_measured(stored: pd.DataFrame, name: str, studies: int) -> None:
    """So that what is asserted of the stored is asserted of the intervals."""
    found = intervals.simulated(name, range(studies))[COLUMNS]
    pd.testing.assert_frame_equal(
        found, stored.loc[name].head(studies)[COLUMNS].reset_index(drop=True), check_dtype=False, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("name", "apart"), [("candidate-2", intervals.ALIKE), ("augmented", intervals.UNLIKE)])
def test_simulated_networks_err_together_as_trained_ones(name: str, apart: float) -> None:
    """By the committed predictions of six seeds of two arms."""
    table = pd.read_parquet(ALL.parent / "fashion_cnn" / "tables" / "predictions.parquet")
    of = failures.pivot(table[table.stage == "confirm"])
    trained = np.stack([of.wrong[of.of(arm)] for arm in ("baseline", name)])
    rng = np.random.default_rng(0)
    made = intervals.wrong(rng, intervals.odds(rng, 100_000, 2, apart, 0) + intervals.MEAN)
    theirs, ours = together(trained), together(made)
    assert ours["wrong"] == pytest.approx(theirs["wrong"], rel=0.03)
    assert ours["two"] == pytest.approx(theirs["two"], rel=0.03)
    assert ours["all"] == pytest.approx(theirs["all"], rel=0.1)
    assert ours["none"] == pytest.approx(theirs["none"], rel=0.01)
    assert ours["apart"] == pytest.approx(theirs["apart"], rel=0.15)


def together(wrong: Flags) -> dict[str, float]:
    """Return of the first arm's networks how often they err together; and how much less two arms do than one's two."""
    seeds = wrong.shape[1]
    both = np.einsum("asn,btn->abst", wrong, wrong, dtype=float) / wrong.shape[2]
    two = both[:, :, ~np.eye(seeds, dtype=bool)].mean(axis=2)
    shares = {"wrong": wrong[0].mean(), "two": two[0, 0], "all": wrong[0].all(axis=0).mean()}
    return {**shares, "none": (~wrong[0]).all(axis=0).mean(), "apart": 1 - two[0, 1] / np.mean([two[0, 0], two[1, 1]])}
