"""The leaderboard of confirmed configurations."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_study import make

from analysis import tables
from analysis.blocks import Table
from analysis.effects import Effect, signed
from analysis.findings import headline
from analysis.measures import compared, gain
from analysis.runs import Runs
from analysis.sections.results import comparisons, leaderboard
from analysis.statistics import Standing, confirmed
from study import records


def differences(standings: list[Standing], runs: Runs, reference: str | None) -> Table:
    return comparisons(standings, compared(runs, standings, reference), reference).tables[0]


def test_a_displaced_candidate_stays_with_the_seeds_that_it_completed(tmp_path: Path) -> None:
    """As `study.confirm.plan` leaves one that an extended search has displaced: its other seeds are superseded."""
    folder = make(tmp_path / "made", seeds=3)
    for record in records.read_trials(folder, "confirm"):
        if record.arm == "candidate-1" and record.seed > 0:
            cut = replace(record, status="stopped", stop_reason="superseded", test_accuracy=None, test_loss=None)
            records.write_trial(folder, cut)
            (records.trial_folder(folder, cut) / "predictions.parquet").unlink()
    runs = study(folder)
    standings = confirmed(runs.trials)
    ranked = leaderboard(runs.epochs, standings).tables[0]
    seeds, interval = ranked.columns.index("seeds"), ranked.columns.index("95 % interval")
    shown = {row[0]: (row[seeds], row[interval] == "–") for row in ranked.rows}
    assert shown == {"candidate-1": ("1", True), "arm baseline": ("3", False), "arm augmented": ("3", False)}
    assert [s.name for s in standings] == ["baseline", "augmented", "candidate-1"], "one seed does not lead"
    found = differences(standings, runs, None).rows
    assert [row[1] for row in found] == ["not known: one seed"] * 2
    assert [row[-1].partition(" of ")[2] for row in found] == ["1", "1"], "compared on the seed that both have"


def interval_of(effect: Effect) -> list[str]:
    assert effect.low is not None
    assert effect.high is not None
    return [signed(effect.value), f"{signed(effect.low)} to {signed(effect.high)}"]


def study(folder: Path) -> Runs:
    tables.build(folder)
    return Runs(*(tables.read(folder, name) for name in ("trials", "epochs", "predictions")), *[pd.DataFrame()] * 5)


def test_seeds_that_diverged_are_counted_and_nothing_is_judged(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=6)
    for record in records.read_trials(folder, "confirm"):
        if record.arm == "candidate-1" and record.seed > 2:
            records.write_trial(folder, replace(record, status="diverged", stop_reason="diverged", test_accuracy=None))
    runs = study(folder)
    standings = confirmed(runs.trials)
    title, facts, _ = headline(runs.trials, standings, runs)
    assert title == "Not judged: 3 of 6 seeds diverged (candidate-1)"
    assert [fact.sure.endswith("3 of 6 seeds diverged") for fact in facts[:2]] == [True, False]
    ranked = leaderboard(runs.epochs, standings).tables[0]
    seeds = {row[0]: row[ranked.columns.index("seeds")] for row in ranked.rows}
    assert seeds == {"arm baseline": "6", "arm augmented": "6", "candidate-1": "3; 3 of 6 seeds diverged"}
    verdicts = {row[0]: row[1] for row in differences(standings, runs, "baseline").rows}
    assert verdicts["candidate-1 − baseline"] == "not judged: 3 of 6 seeds diverged (candidate-1)"
    assert verdicts["arm augmented − baseline"] in ("worse", "no difference shown")


def test_a_configuration_of_which_no_seed_is_left_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=2)
    for record in records.read_trials(folder, "confirm"):
        if record.arm == "candidate-1":
            records.write_trial(folder, replace(record, status="diverged", stop_reason="diverged", test_accuracy=None))
    runs = study(folder)
    title, _, lede = headline(runs.trials, confirmed(runs.trials), runs)
    assert title.startswith(("No difference shown between the arm", "Arm "))
    assert lede[-1] == "candidate-1: 2 of 2 seeds diverged, so nothing is said of it."


def test_a_study_of_arms_only_compares_them(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=6, images=10_000)
    for path in folder.glob("confirm/*/trial.json"):
        if '"candidate-1"' in path.read_text():
            shutil.rmtree(path.parent)
    runs = study(folder)
    standings = confirmed(runs.trials)
    title, facts, lede = headline(runs.trials, standings, runs)
    assert title == "Arm baseline is better than the arm augmented, by 0.93 points of test accuracy"
    assert [fact.what.partition(":")[0] for fact in facts[:2]] == [f"test accuracy, {s.title}" for s in standings]
    assert facts[2].what == "arm baseline − augmented, seed by seed"
    assert lede[0] == "The two best, each chosen by validation accuracy: no test image had a part in that."
    (row,) = differences(standings, runs, "baseline").rows
    assert row[:2] == ["arm augmented − baseline", "worse"]
    assert row[2:4] == interval_of(gain(runs, "baseline", "augmented")), "one difference has one interval"
    alone = Runs(runs.trials, runs.epochs, runs.predictions[:0], *[pd.DataFrame()] * 5)
    table = differences(standings, alone, "baseline")
    assert "interval over seeds alone" in table.caption
    assert table.rows[0][2] == row[2]


@pytest.mark.parametrize(
    ("seeds", "gain", "said"),
    [
        (2, 0.044, "Candidate-1 is ahead of the arm baseline by 4.00 points of test accuracy, in a preview"),
        (2, 0.006, "Candidate-1 is ahead of the arm baseline by 0.20 points of test accuracy, in a preview"),
        (1, 0.044, "One seed: whether candidate-1 and the arm baseline differ is not shown"),
        (2, 0.004, "Candidate-1 and the arm baseline are level in test accuracy, in a preview"),
        (2, -0.026, "The arm baseline is ahead of candidate-1 by 3.00 points of test accuracy, in a preview"),
    ],
)
def test_the_title_of_a_preview_says_who_is_ahead(seeds: int, gain: float, said: str, tmp_path: Path) -> None:
    runs = study(make(tmp_path / "made", seeds=seeds, gain=gain, images=500))
    title, facts, lede = headline(runs.trials, confirmed(runs.trials), runs, preview=True)
    assert title == said
    assert ("interval" in facts[2].sure, "one seed, so no interval" in facts[2].sure) == (True, seeds == 1)
    assert lede[1] == "A preview proves nothing: the full study may end the other way round."
    in_full, *_ = headline(runs.trials, confirmed(runs.trials), runs)
    assert "ahead" not in in_full
    assert (in_full == "One seed: whether candidate-1 and the arm baseline differ is not shown") == (seeds == 1)


def test_of_a_preview_whose_seeds_diverged_nothing_is_judged_either(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=3, images=50)
    for record in records.read_trials(folder, "confirm"):
        if record.arm == "candidate-1" and record.seed > 1:
            records.write_trial(folder, replace(record, status="diverged", stop_reason="diverged", test_accuracy=None))
    runs = study(folder)
    title, _, _ = headline(runs.trials, confirmed(runs.trials), runs, preview=True)
    assert title == "Not judged: 1 of 3 seeds diverged (candidate-1)"
