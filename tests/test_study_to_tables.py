"""From a study that really ran to what a reader opens in pandas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import report


@pytest.fixture(scope="module")
def tables(finished: Path) -> Path:
    assert report.main([finished.name, "--results", str(finished.parent), "--stress-images", "50"]) == 0
    return finished / "tables"


def test_the_grouping_of_the_readme_works_as_read(tables: Path) -> None:
    trials = pd.read_parquet(tables / "trials.parquet")
    found = trials.groupby(["stage", "arm"]).test_accuracy.agg(["mean", "std", "count"])
    confirmed = found.loc["confirm"]
    assert set(confirmed.index) == {"candidate-1", "tiny_resnet", "tiny_cnn"}
    assert (confirmed["count"] == 2).all()
    assert confirmed["mean"].between(0.1, 1).all()


def test_accuracy_from_predictions_equals_the_trials_exactly(tables: Path) -> None:
    trials = pd.read_parquet(tables / "trials.parquet").set_index("trial_id")
    predictions = pd.read_parquet(tables / "predictions.parquet")
    for weights, accuracy in (("best", trials.test_accuracy), ("last", trials.test_accuracy_last)):
        rows = predictions[predictions.weights == weights]
        recomputed = (rows.predicted == rows.label).groupby(rows.trial_id).mean()
        assert len(recomputed) == 6
        assert (accuracy[recomputed.index] == recomputed).all()
        assert accuracy.drop(recomputed.index).isna().all()


def test_every_epoch_and_a_page_are_there(tables: Path) -> None:
    epochs = pd.read_parquet(tables / "epochs.parquet")
    assert len(epochs) == 20
    for page in ("report.html", "report.md"):
        assert "candidate-1" in (tables.parent / page).read_text(encoding="utf-8")
