"""Claims: planted truths get their verdicts, and without one nothing is called."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pandas as pd
import pytest
from made_runs import Truth, made

from analysis.claims import CLAIMS
from analysis.runs import NoRows, Runs
from analysis.verdicts import COLUMNS, NOT_TESTED, judge
from study import space_file
from study.config import hyperparameters

AUGMENTATION = [name for name in (claim.name for claim in CLAIMS) if name.startswith("augmentation-")]


def verdicts(truth: Truth) -> pd.Series:
    return judge(made(truth)).set_index("claim").verdict


@pytest.fixture(scope="module")
def nothing() -> pd.DataFrame:
    """Every claim, judged on runs with nothing planted."""
    return judge(made(Truth()))


def test_there_is_a_row_for_every_conclusion(nothing: pd.DataFrame) -> None:
    assert nothing.claim.tolist() == [claim.name for claim in CLAIMS]
    assert len(set(nothing.claim)) == 17
    assert list(nothing.columns) == list(COLUMNS)
    assert not nothing.why.str.contains(r"(?:\b\w ){4}").any(), "a note is a sentence, not its letters"


def test_with_no_truth_planted_no_conclusion_is_supported_or_contradicted(nothing: pd.DataFrame) -> None:
    tested = nothing[nothing.verdict != NOT_TESTED]
    assert len(tested) >= 9
    # Errors that are drawn evenly do contradict that similar classes make up most of them.
    rest = tested[tested.claim != "similar-classes-dominate"]
    assert set(rest.verdict) <= {"no material effect", "inconclusive"}
    assert tested.set_index("claim").verdict["similar-classes-dominate"] == "contradicted"


@pytest.mark.parametrize(
    ("truth", "name", "verdict"),
    [
        (Truth(gain=0.8), "augmentation-helps-accuracy", "supported"),
        (Truth(gain=-0.8), "augmentation-helps-accuracy", "contradicted"),
        (Truth(background=10), "attends-to-background", "supported"),
        (Truth(background=-10), "attends-to-background", "contradicted"),
        (Truth(contrast=8), "low-contrast-fails", "no material effect"),  # for taking the contrast away costs nothing
        (Truth(robust=0.2), "augmentation-helps-robustness", "supported"),
        (Truth(robust=-0.2), "augmentation-helps-robustness", "contradicted"),
    ],
)
def test_a_planted_truth_gets_its_verdict(truth: Truth, name: str, verdict: str, nothing: pd.DataFrame) -> None:
    found, without = verdicts(truth), nothing.set_index("claim").verdict
    assert found[name] == verdict
    changed = set(found.index[found != without])
    assert changed <= {name, "similar-classes-dominate"}, "a truth that speaks for another conclusion too"


def test_errors_by_contrast_count_where_taking_the_contrast_away_makes_errors_too() -> None:
    runs = made(Truth(contrast=8))
    fallen = runs.stress.accuracy - 0.3 * (runs.stress.corruption == "contrast")
    runs = dataclasses.replace(runs, stress=runs.stress.assign(accuracy=fallen))
    row = judge(runs).set_index("claim").loc["low-contrast-fails"]
    assert row.verdict == "supported"
    assert row.effect == pytest.approx(8, abs=2.5)  # the error rate decides: it is the less sure of the two


def test_maps_that_fail_their_checks_are_no_evidence() -> None:
    found = judge(made(Truth(background=10, trusted=False))).set_index("claim")
    assert found.verdict["attends-to-background"] == NOT_TESTED
    assert "fail the checks" in found.why["attends-to-background"]
    assert "fail the checks" in found.why["augmentation-moves-attention-to-shape"]


def test_a_claim_that_is_not_tested_names_spaces_that_are_shipped(nothing: pd.DataFrame) -> None:
    for spaces in nothing.spaces:
        assert all((space_file.FOLDER / space).is_file() for space in spaces.split(", "))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_spaces_that_a_claim_names_have_the_arms_that_it_takes(claim) -> None:  # type: ignore[no-untyped-def]
    for space in claim.spaces:
        loaded = space_file.load(space_file.FOLDER / space)
        runs = of_arms(loaded.arms)
        with contextlib.suppress(NoRows):
            claim.test(runs)


def of_arms(arms) -> Runs:  # type: ignore[no-untyped-def]
    """Confirmed trials of a space's arms, and nothing else."""
    rng, rows = np.random.default_rng(0), []
    for place, (arm, config) in enumerate(arms.items()):
        for seed in range(2):
            rows.append({
                "stage": "confirm", "status": "completed", "arm": arm, "seed": seed, "trial_id": f"c{place}{seed}",
                "model": config.model.name, "max_epochs": config.epochs, **hyperparameters(config),
                **{name: rng.random() for name in ("test_accuracy", "val_accuracy", "test_loss", "train_loss_clean")},
                "train_accuracy_clean": rng.random(),
            })  # fmt: skip
    columns = ["stage", "arm", "seed", "trial_id", "epoch", "val_accuracy"]
    empty = pd.DataFrame(columns=["stage", "arm"])
    epochs = pd.DataFrame([{**row, "epoch": 1, "val_accuracy": 0.95} for row in rows])[columns]
    trials = pd.DataFrame(rows)
    missing = [f"hp_{n}" for n in ("shortcut", "momentum", "nesterov", "step_size", "gamma") if f"hp_{n}" not in trials]
    return Runs(trials.assign(**dict.fromkeys(missing)), epochs, *[empty] * 6)


def test_an_effect_that_one_seed_shows_is_inconclusive() -> None:
    runs = made(Truth(gain=5))
    one = {
        name: getattr(runs, name)[getattr(runs, name).seed == 0]
        for name in ("trials", "predictions", "attention", "attention_checks", "stress", "calibration")
    }
    found = judge(dataclasses.replace(runs, **one)).set_index("claim")
    assert found.verdict["augmentation-helps-accuracy"] == "inconclusive"
    assert pd.isna(found.p["augmentation-helps-accuracy"])


def test_holm_takes_back_what_one_of_many_shows_by_chance() -> None:
    runs = made(Truth())
    gains = 0.01 * np.array([0.9, 0.1, 1.2, 0.6, 0.2, 1.4])  # p is about 0.02
    augmented = runs.trials.arm == "augmented"
    runs.trials.loc[augmented, "test_accuracy"] = runs.trials.test_accuracy[~augmented].to_numpy() + gains
    row = judge(runs).set_index("claim").loc["augmentation-helps-accuracy"]
    assert row.low > 0
    assert row.p < 0.05 < row.p_holm
    assert row.verdict == "inconclusive"
