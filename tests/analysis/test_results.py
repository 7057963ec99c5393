"""The leaderboard of confirmed configurations."""

from dataclasses import replace
from pathlib import Path

from made_study import make

from analysis import tables
from analysis.sections.results import leaderboard
from analysis.statistics import compare, confirmed
from study import records


def test_a_displaced_candidate_stays_with_the_seeds_that_it_completed(tmp_path: Path) -> None:
    """As `study.confirm.plan` leaves one that an extended search has displaced: its other seeds are superseded."""
    folder = make(tmp_path / "made", seeds=3)
    for record in records.read_trials(folder, "confirm"):
        if record.arm == "candidate-1" and record.seed > 0:
            cut = replace(record, status="stopped", stop_reason="superseded", test_accuracy=None, test_loss=None)
            records.write_trial(folder, cut)
            (records.trial_folder(folder, cut) / "predictions.parquet").unlink()
    tables.build(folder)
    standings = confirmed(tables.read(folder, "trials"))
    ranked = leaderboard(tables.read(folder, "epochs"), standings).tables[0]
    seeds, interval = ranked.columns.index("seeds"), ranked.columns.index("95 % interval")
    shown = {row[0]: (row[seeds], row[interval] == "–") for row in ranked.rows}
    assert shown == {"candidate-1": ("1", True), "arm baseline": ("3", False), "arm augmented": ("3", False)}
    assert [pair.estimate.n for pair in compare(standings)] == [1, 1], "compared on the seed that both have"
    assert {pair.verdict for pair in compare(standings)} == {"not known: one seed"}
