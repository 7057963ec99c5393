"""What is kept between two reports, and what is made again; weights that are missing, foreign or cut short."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made_study import give_weights, make

from analysis import evidence, forward, report
from analysis.pairs import own_errors
from analysis.rerun import KEY_NAMES
from analysis.sections import looking
from study.config import TrialConfig
from study.files import RecordError
from study.trainer import save_whole

ATTENTION = ("attention.parquet", "attention_checks.parquet")
AGAIN = """
import sys
from analysis import report
status = report.main(sys.argv[1:])
print("ray" in sys.modules)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """A study of three confirmed networks, two with random weights and a dead one, and the first report of it."""
    folder = give_weights(make(tmp_path_factory.mktemp("results") / "made", seeds=1, images=120), dead="c0002")
    assert report.main(["made", "--results", str(folder.parent)]) == 0
    return folder


@pytest.fixture
def study(reported: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to change."""
    return Path(shutil.copytree(reported, tmp_path / "made"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / "cache").iterdir())}


def gather(folder: Path) -> evidence.Evidence:
    return evidence.gather(folder, report.TOP, None, lambda said, done=0, of=1: None)


def perturb(weights: Path) -> None:
    """Other weights of the same network, as training it again would leave."""
    saved = torch.load(weights, weights_only=True)
    saved["weights"] = {name: 1.1 * value for name, value in saved["weights"].items()}
    save_whole(weights, saved)


def test_an_unchanged_study_needs_neither_networks_nor_ray(study: Path) -> None:
    tables, cache = contents(study / "tables"), times(study)
    parts = {"inspect", "check", "maps", "stress", "cue_conflict", "calibrate", "descriptors.cached"}
    assert {name.partition("-")[0] for name in cache} >= parts
    command = [sys.executable, "-c", AGAIN, "made", "--results", str(study.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", "Ray was not so much as imported"
    assert contents(study / "tables") == tables
    assert times(study) == cache


def test_a_dead_network_is_reported_as_any_other(reported: Path) -> None:
    """Its maps are 0 everywhere: they lie nowhere, and are no failure of the page."""
    attention, stress = (pd.read_parquet(reported / "tables" / f"{name}.parquet") for name in ("attention", "stress"))
    assert {*attention.trial_id} == {*stress.trial_id} == {"c0000", "c0001", "c0002"}
    dead = attention.trial_id == "c0002"
    assert attention.energy[dead].isna().all()
    assert attention.energy[~dead].notna().any()
    assert stress[stress.trial_id == "c0002"].accuracy.nunique() == 1
    assert ", no positive evidence" in (reported / "report.html").read_text()


def test_the_networks_of_changed_weights_run_again_and_no_others(study: Path) -> None:
    before, cache = pd.read_parquet(study / "tables" / "attention.parquet"), times(study)
    perturb(study / "confirm" / "c0001" / "best.pt")
    gather(study)
    changed = {name for name, when in times(study).items() if when != cache[name]}
    works = ("inspect", "check", "maps", "stress", "cue_conflict", "calibrate")
    assert changed == {f"{work}-c0001.cached" for work in works}
    after = pd.read_parquet(study / "tables" / "attention.parquet")
    same = [before[before.trial_id == t].equals(after[after.trial_id == t]) for t in ("c0000", "c0001", "c0002")]
    assert same == [True, False, True]


def test_every_network_is_shown_the_same_cues_in_conflict(study: Path) -> None:
    table = pd.read_parquet(study / "tables" / "cue_conflict.parquet")
    predictions = pd.read_parquet(study / "tables" / "predictions.parquet")
    label = predictions.drop_duplicates("image").set_index("image").label
    of_trials = [of.drop(columns=["predicted", *KEY_NAMES]).to_numpy() for _, of in table.groupby("trial_id")]
    assert len(of_trials) == 3
    assert all(np.array_equal(of, of_trials[0]) for of in of_trials)
    for cue in ("shape", "texture"):
        assert (table[f"{cue}_image"].map(label).astype(str) == table[f"{cue}_class"].astype(str)).all()
    assert (table.groupby(["trial_id", "shape_class", "texture_class"], observed=True).size() == 1).all()


@pytest.mark.parametrize("garbage", [b"", b"PAR1 cut short"])
def test_a_garbled_part_of_the_cache_is_made_again(study: Path, garbage: bytes) -> None:
    tables = contents(study / "tables")
    names = ("check-c0002.cached", "descriptors.cached")
    for name in names:
        (study / "cache" / name).write_bytes(garbage)
    gather(study)
    assert contents(study / "tables") == tables
    assert all(len((study / "cache" / name).read_bytes()) > len(garbage) for name in names)


@pytest.mark.parametrize("kept", [b"", b"PK cut short"])
def test_garbled_weights_are_one_message(study: Path, kept: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    weights = study / "confirm" / "c0001" / "best.pt"
    weights.write_bytes(kept)
    assert report.main(["made", "--results", str(study.parent)]) == 2
    *_, last = said = capsys.readouterr().err.strip().splitlines()
    assert [line for line in said if line.startswith("error: ")] == [last]
    assert last.startswith(f"error: {weights}: got ")
    assert ", must be the weights that confirm wrote; delete it, and the page is made without" in last


def test_a_study_without_its_weights_keeps_what_was_measured(study: Path) -> None:
    tables = contents(study / "tables")
    for weights in study.glob("confirm/*/best.pt"):
        weights.unlink()
    shutil.rmtree(study / "cache")
    report.build(study)
    assert contents(study / "tables") == tables
    html = (study / "report.html").read_text()
    said = "Maps of 3 of 3 confirmed trials cannot be drawn: their weights, confirm/*/best.pt, are not in this folder."
    assert f"{said} What an earlier report measured with those of 3 is kept." in html
    assert "The maps themselves cannot be drawn" in html
    assert "Grad-CAM fails" in html or "Grad-CAM passes" in html, "their verdict is still there"
    assert 'aria-label="Map of' not in html


def test_one_trial_without_its_weights(study: Path) -> None:
    tables = contents(study / "tables")
    (study / "confirm" / "c0000" / "best.pt").unlink()
    found = gather(study)
    assert contents(study / "tables") == tables
    assert found.missing[-1].startswith("Maps of 1 of 3 confirmed trials cannot be drawn")
    assert set(found.maps) == {"c0001", "c0002"}


@pytest.mark.parametrize("older", ["a table of other code", "other images"])
def test_what_other_code_or_images_gave_is_neither_mixed_with_what_is_measured_now_nor_lost(
    study: Path, older: str
) -> None:
    (study / "confirm" / "c0000" / "best.pt").unlink()
    path = study / "tables" / "stress.parquet"
    images = 30 if older == "other images" else None
    if older == "a table of other code":
        evidence.tables.write(study, "stress", pd.read_parquet(path))  # without the digest of its sources
    kept = path.read_bytes()
    with pytest.raises(RecordError, match=r"stress\.parquet: got 1 networks measured by other .+, or delete the table"):
        evidence.gather(study, report.TOP, images, lambda said, done=0, of=1: None)
    assert path.read_bytes() == kept
    path.unlink()
    found = evidence.gather(study, report.TOP, images, lambda said, done=0, of=1: None)
    assert set(found.stress.trial_id) == {"c0001", "c0002"}
    assert set(found.attention.trial_id) == {"c0000", "c0001", "c0002"}, "which that does not concern"


def test_the_best_configurations_maps_are_drawn_whatever_is_compared(study: Path) -> None:
    found = evidence.gather(study, 0, None, lambda said, done=0, of=1: None)
    assert found.pairs == []
    best = found.standings[0]
    assert set(found.maps) == set(best.trials.trial_id)
    section = looking.where_they_look(found)
    assert not [sentence for sentence in section.text if "cannot be drawn" in sentence]
    shown = {
        panel.caption.partition(" image ")[2] for deck in section.decks for panel in (c.panels[0] for c in deck.cards)
    }
    assert shown == set(own_errors(found.failures, best.trials.trial_id.iloc[0]).image.astype(str))
    assert all(deck.cards and deck.legend for deck in section.decks)
    energies = section.tables[1]
    assert energies.columns[-1] == "checks passed"
    for title, method, *_, passed in energies.rows:
        checks = found.checks[
            (found.checks.variant == method.lower().replace(" ", "-")) & (found.checks.arm == title.split()[-1])
        ]
        assert passed == f"{checks.passed.sum()} of {len(checks)}"


def test_colours_are_explained_where_there_are_pictures(reported: Path) -> None:
    html, text = ((reported / f"report.{ending}").read_text() for ending in ("html", "md"))
    assert looking.LEGEND in html
    assert looking.LEGEND not in text


def test_importance_is_of_the_ranges_that_were_searched(study: Path) -> None:
    cache, space = times(study), study / "space.yaml"
    space.write_text(space.read_text().replace("{adam: {lr: 0.001}}]", "{adam: {lr: 0.001}}, {adamw: {lr: 0.001}}]"))
    gather(study)
    assert {name for name, when in times(study).items() if when != cache[name]} == {"importance.cached"}


def test_what_was_measured_on_other_configurations_is_not_kept(study: Path) -> None:
    """A folder in which the study was run anew, with other settings under the same trial ids."""
    for weights in study.glob("confirm/*/best.pt"):
        weights.unlink()
    for name in ATTENTION:
        table = pd.read_parquet(study / "tables" / name)
        table.loc[table.trial_id == "c0000", "config_id"] = "0123456789"
        evidence.tables.write(study, name.removesuffix(".parquet"), table)
    found = gather(study)
    assert set(found.attention.trial_id) == set(found.checks.trial_id) == {"c0001", "c0002"}


@pytest.mark.parametrize("other", ["another version", "garbage"])
def test_what_was_measured_with_weights_that_are_gone_is_not_written_over(study: Path, other: str) -> None:
    path = study / "tables" / "attention.parquet"
    if other == "another version":
        pd.read_parquet(path).rename(columns={"variant": "method"}).to_parquet(path)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    (study / "confirm" / "c0001" / "best.pt").unlink()
    with pytest.raises(RecordError, match=f"^{path}: got .*, must be the table that a report wrote; put it back"):
        gather(study)
    assert path.read_bytes() == before


def test_without_weights_and_earlier_tables_there_are_no_maps(study: Path) -> None:
    for weights in study.glob("confirm/*/best.pt"):
        weights.unlink()
    for name in ATTENTION:
        (study / "tables" / name).unlink()
    found = gather(study)
    assert found.attention.empty
    assert found.checks.empty
    assert "What an earlier report measured" not in found.missing[-1]
    assert len(pd.read_parquet(study / "tables" / "attention.parquet")) == 0


def test_weights_of_anything_else_are_refused(study: Path, tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "ran", "yes"))

    path = study / "confirm" / "c0000" / "best.pt"
    network, config = forward.load_network(path)
    assert isinstance(config, TrialConfig)
    assert not network.training
    saved = torch.load(path, weights_only=True)
    others = (
        Mischief(),
        [1, 2],
        {"weights": saved["weights"]},
        saved | {"weights": {}},
        saved | {"config": {"model": 1}},
    )
    for other in others:
        save_whole(path, other)
        with pytest.raises(RecordError, match=r"c0000/best\.pt: got .*, must be the weights that confirm wrote"):
            forward.load_network(path)
    assert not (tmp_path / "ran").exists()


def test_a_digest_is_of_content() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    same = [frame, frame.copy(), frame.assign(a=[1, 2])]
    others = [frame.assign(a=[1, 3]), frame.assign(a=[1.0, 2.0]), frame.rename(columns={"a": "c"}), frame.iloc[::-1]]
    assert len({forward.digest(f) for f in same}) == 1
    assert len({forward.digest(f) for f in [frame, *others]}) == 5
    assert forward.digest(np.zeros(2)) != forward.digest(np.zeros(3))
    assert forward.digest(forward) != forward.digest(evidence)


def test_what_is_cached_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"x": [1.5, np.nan], "y": pd.Series([1, None], dtype="Int32")})

    path = tmp_path / "cache" / "part.cached"
    first = forward.cached(path, "key", make)
    pd.testing.assert_frame_equal(forward.cached(path, "key", make), first)
    assert len(made) == 1
    forward.cached(path, "another key", make)
    assert len(made) == 2
