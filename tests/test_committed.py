"""The studies in results/: their tables follow from what is stored, and the README's words from their tables."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import failures, tables
from analysis.effects import signed
from analysis.runs import Runs
from analysis.schemas import SCHEMAS
from analysis.verdicts import NOT_TESTED, judge
from study import records

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
SHOWN = RESULTS / "fashion_cnn"
STUDIES = ("fashion_cnn", "augmentation", "optimizer", "skip_connections")
OF_RUNS = ("trials", "epochs", "predictions", "images", "attention", "attention_checks", "stress", "calibration")
OF_RUNS += ("cue_conflict",)
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOUND = (RESULTS / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="which files are committed, git alone knows")
def test_results_are_small_enough_to_be_committed() -> None:
    files = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sum((ROOT / file).stat().st_size for file in files.split()) <= 12 * 2**20
    assert {Path(file).parts[1] for file in files.split() if Path(file).name == "study.json"} == {*STUDIES}


def test_tables_made_again_have_the_same_bytes(tmp_path: Path) -> None:
    """From the records, the predictions that the table itself stores, and what networks that are gone had to say."""
    again = shutil.copytree(SHOWN, tmp_path / SHOWN.name)
    tables.build(again)
    described = tables.read(again, "images").set_index("image").drop(columns=["study", "fidelity"])
    predictions = tables.read(again, "predictions")
    tables.write(again, "failures", failures.failures(predictions, described))
    judged = judge(Runs(*(tables.read(again, name) for name in OF_RUNS))).assign(study="fashion_cnn", fidelity="full")
    tables.write(again, "claims", judged, tables.key_of(SHOWN, "claims"))
    for name in ("trials", "epochs", "predictions", "failures", "claims"):
        file = f"tables/{name}.parquet"
        assert (again / file).read_bytes() == (SHOWN / file).read_bytes(), name
    predictions, trials = (tables.read(SHOWN, name) for name in ("predictions", "trials"))
    right = (predictions.predicted == predictions.label).groupby(predictions.trial_id).mean()
    assert right.to_dict() == trials.dropna(subset="test_accuracy").set_index("trial_id").test_accuracy.to_dict()


@pytest.mark.parametrize("read", [
    lambda path: polars.read_parquet(path).to_arrow(),
    lambda path: duckdb.read_parquet(str(path)).to_arrow_table(),
], ids=["polars", "duckdb"])  # fmt: skip
def test_other_programs_read_the_same_from_every_table(read: Callable[[Path], pa.Table]) -> None:
    paths = [path for study in STUDIES for path in sorted((RESULTS / study / "tables").glob("*.parquet"))]
    assert {path.stem for path in paths} == {*SCHEMAS}
    for path in paths:
        expected, found = pq.read_table(path), read(path)
        assert found.column_names == expected.column_names, path
        for name in expected.column_names:
            column, value = expected[name], expected.schema.field(name).type
            if pa.types.is_dictionary(value):
                column, value = column.cast(value.value_type), value.value_type
            assert found[name].cast(value).equals(column), (path, name)


@pytest.mark.parametrize("name", STUDIES)
def test_a_configuration_has_the_id_that_it_had(name: str) -> None:
    """Whatever the vocabulary has got since: tables, checkpoints and candidates go by it."""
    stored = tables.read(RESULTS / name, "trials").set_index("trial_id").config_id.to_dict()
    found = [record for stage in records.STAGES for record in records.read_trials(RESULTS / name, stage)]
    assert len(found) > 20
    assert {record.trial_id: record.config_id for record in found} == stored


def test_the_headline_can_be_had_in_three_lines_of_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code, said = re.search(r"```python\nimport pandas as pd\n\n(.+)  # (.+)\n```", FOUND, re.DOTALL).groups()  # type: ignore[union-attr]
    assert len(code.splitlines()) == 3
    before, last = code.rsplit("\n", 1)
    names: dict[str, Any] = {"pd": pd}
    exec(before, names)
    points = signed(eval(last, names))
    assert points == said.removesuffix(" points")
    assert f"**{points.removeprefix('−')} points**" in FOUND


def test_every_verdict_in_the_readme_is_that_of_a_study() -> None:
    """Of each conclusion that is tested, those of all studies that come to different verdicts."""
    claims = pd.concat([tables.read(RESULTS / name, "claims") for name in STUDIES])
    claims = claims[claims.verdict != NOT_TESTED]
    assert claims.claim.nunique() >= 12
    full, preview = FOUND.split("\n| conclusion |")[1:]
    said = [(*(cell.strip() for cell in line.strip("|").split("|")), fidelity)
            for fidelity, part in (("full", full), ("preview", preview))
            for line in part.splitlines()[2:] if line.startswith("| ")]  # fmt: skip
    assert {text for text, *_ in said} == {*claims.text}
    of = claims.set_index(["text", "study"])
    for text, study, verdict, effect, smallest, what, fidelity in said:
        row = of.loc[(text, study.strip("`"))]
        assert (verdict, fidelity, smallest) == (row.verdict, row.fidelity, f"{row.smallest:g}"), text
        assert effect == f"{signed(row.effect)} {row.unit} ({signed(row.low)} to {signed(row.high)})", text
        assert what == row.effect_of, text
    whole = claims[claims.fidelity == "full"]
    shown = pd.concat([whole, claims[~claims.text.isin(whole.text)]])  # a preview is shown where no full study tests it
    assert {(text, verdict) for text, _, verdict, *_ in said} == set(zip(shown.text, shown.verdict, strict=True))


def test_the_findings_in_the_readme_are_those_of_the_tables() -> None:
    """Every number of its bullets, in their order."""
    said = " ".join(README.partition("## What was found\n")[2].partition("\n## ")[0].split())
    claims = tables.read(SHOWN, "claims").set_index("claim")
    why = claims.why.map(lambda text: text.replace("−", "-"))
    best = tables.read(SHOWN, "comparisons").set_index(["first", "second"]).loc[("candidate-2", "baseline")]
    trials = tables.read(SHOWN, "trials").query("stage == 'confirm'")
    mean = 100 * trials.groupby("arm").test_accuracy.mean()
    cost = claims.loc["augmentation-helps-accuracy"]
    parts = [
        float(x)
        for x in re.findall(r"baseline over augmented: ([+-][\d.]+) log %", why["augmentation-helps-robustness"])
    ]
    shares = re.findall(r"less 50 \(baseline\): ([+-][\d.]+) points", why["similar-classes-dominate"])
    for text in (
        f"classifies {mean['candidate-2']:.2f} %",
        f"settings reach {mean['baseline']:.2f} %",
        f"{signed(best.points).removeprefix('+')} points (95 % interval {best.low:.2f} to {best.high:.2f})",
        f"**{-cost.effect:.2f} points** ({-cost.high:.2f} to {-cost.low:.2f})",
        f"{parts[0]:.0f} log % more errors under shear and scaling, and {-parts[1]:.0f} log % fewer",
        f"five pairs hold {50 + claims.effect['similar-classes-dominate']:.1f} %",
        f"they hold {50 + float(shares[1]):.1f} %",
        f"{claims.effect['overconfident-errors']:.1f} points more often than claimed",
    ):
        assert text in said, text
