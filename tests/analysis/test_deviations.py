"""What an arm has otherwise than its source, and what that is worth."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from made_study import make

from analysis import tables
from analysis.effects import over_seeds
from analysis.sections.deviations import LOOP, _elsewhere
from study import files

RESULTS = Path(__file__).parents[2] / "results"


def test_the_size_of_the_loop_and_precision_is_that_of_the_benchmark() -> None:
    table = pd.read_parquet(RESULTS / "benchmarks" / "accuracy.parquet")
    by_seed = table.pivot(index="seed", columns="loop", values="val_accuracy")
    more = over_seeds([*(100 * (by_seed["the trainer"] - by_seed["the sources' loop"]))], "", "points", 0.5)
    said = [float(x) for x in re.findall(r"[+-]\d\.\d+", LOOP.replace("−", "-"))]
    assert said == pytest.approx([more.value, more.low, more.high], abs=0.0051)


def test_every_deviation_of_the_committed_study_is_on_its_page() -> None:
    text = (RESULTS / "fashion_cnn" / "report.md").read_text(encoding="utf-8")
    section = text.partition("## Deviations from the sources")[2].partition("\n## ")[0]
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:5]) for line in section.splitlines() if line.startswith("|")
    }
    for row in (
        ("baseline", "training images", "54,000", "50,000"),
        ("baseline", "steps an epoch", "422", "391"),
        ("augmented", "split", "at random, seed 42", "stratified, seed 0"),
        ("augmented", "augmentation whole pixels", "True", "False"),
        ("augmented", "precision", "fp32", "bf16"),
    ):
        assert row in rows
    assert not {row for row in rows if row[1] in ("lr", "epochs", "batch size", "dropout")}, "what is the same"


@pytest.mark.parametrize("stratified", [False, True])
def test_the_size_of_a_split_is_measured_by_a_study_that_has_the_sources(stratified: bool, tmp_path: Path) -> None:
    own, other = (make(tmp_path / name, seeds=3, images=500) for name in ("own", "other"))
    about = dict(files.read_json(other / "study.json"))
    about["split"] = {"train": 54_000, "validation": 6_000, "test": 500, "seed": 42, "stratified": stratified}
    files.write_json(other / "study.json", about)
    for folder, accuracy in ((own, [0.91, 0.92, 0.93]), (other, [0.92, 0.93, 0.94])):
        tables.build(folder)
        trials = tables.read(folder, "trials")
        arm = (trials.stage == "confirm") & (trials.arm == "baseline")
        trials.loc[arm, "test_accuracy_last"] = accuracy
        tables.write(folder, "trials", trials)
    trials = tables.read(own, "trials")
    trials = trials[(trials.stage == "confirm") & (trials.arm == "baseline")]
    said = _elsewhere(own, "baseline", trials, {"train": 50_000})
    assert said == ("not measured" if stratified else "−1.00 points (−3.27 to 1.27) relative to other")
