"""Claims: planted truths get their verdicts, of both signs, and without one nothing is called."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_runs import SEEDS, TABLES, Arm, made, without
from scipy import stats

from analysis import runs as runs_module
from analysis.claims import CLAIMS, Found
from analysis.effects import Effect, over_seeds
from analysis.measures import excess_error, partial_error, stressed
from analysis.runs import NoRows, Runs
from analysis.statistics import Crossed
from analysis.verdicts import COLUMNS, DIFFER, NOT_TESTED, PREVIEW, Judged, judge
from study import space_file
from study.config import hyperparameters

IMAGES = 3000
FEW = 400  # where predictions do not matter
SPACES = ("fashion_cnn_source.yaml", "optimizer.yaml", "skip_connections.yaml")


def judged(space: str, images: int = IMAGES, **planted: Arm) -> pd.DataFrame:
    """Every claim by its name, judged on a made study of a space's arms."""
    return judge(made(space, planted, images=images)).set_index("claim")


def found_of(name: str, runs: Runs) -> Found:
    """What the test of one claim finds."""
    return next(claim for claim in CLAIMS if claim.name == name).test(runs)


@pytest.fixture(scope="module")
def nothing() -> dict[str, pd.DataFrame]:
    """Every claim, judged on runs with nothing planted, by space."""
    return {space: judged(space) for space in SPACES}


@pytest.mark.parametrize("space", SPACES)
def test_with_no_truth_planted_no_conclusion_is_supported_or_contradicted(
    nothing: dict[str, pd.DataFrame], space: str
) -> None:
    found = nothing[space]
    assert found.index.tolist() == [claim.name for claim in CLAIMS]
    assert len(set(found.index)) == 17
    assert list(found.reset_index().columns) == list(COLUMNS)
    assert not found.why.str.contains(r"(?:\b\w ){4}").any(), "a note is a sentence, not its letters"
    tested = found[found.verdict != NOT_TESTED]
    assert len(tested) >= 8
    # Errors that are drawn evenly do contradict that similar classes make up most of them.
    assert tested.verdict["similar-classes-dominate"] == "contradicted"
    assert set(tested.verdict.drop("similar-classes-dominate")) <= {"no material effect", "inconclusive"}


CNN, BOTH, SKIP = SPACES
TONE = {"darken": 20, "silhouette_fill": 30}
HARDER = {"low_contrast": 9, "dark": 9, "atypical_silhouette": 9, "unusual_texture": 9}
EASIER = {"low_contrast": -9, "dark": -9, "atypical_silhouette": -9, "unusual_texture": -9}


def optimizers(adam: float, step: float, **others: Arm) -> dict[str, Arm]:
    """Arms that Adam makes better by so many points, and StepLR."""
    arms = {"sgd_none": 90, "sgd_cosine": 90, "sgd_step": 90 + step, "adam_none": 90 + adam, "adam_cosine": 90 + adam}
    return {name: Arm(accuracy) for name, accuracy in arms.items()} | others


# By name: the space, and what is planted in its arms. Of claims with several effects, one truth in all.
STUDIES: dict[str, tuple[str, dict[str, Arm]]] = {
    "cnn right": (CNN, {
        "baseline": Arm(75, similar="pairs", more=HARDER, overconfident=5, falls=TONE | {"occlusion": 20}, gap=9,
                        loss_gap=0.4, garment_wrong=50, shape_bias=20),
        "augmented": Arm(80, falls={"occlusion": 20}, robust=0.2, robust_geometric=0.4, robust_inside=-0.5, garment=85,
                         garment_wrong=85, shape_bias=60),
    }),
    "cnn wrong": (CNN, {
        "baseline": Arm(75, more=EASIER, garment=50, uniform=50, shape_bias=85,
                        falls={"darken": -8, "silhouette_fill": -8, "occlusion": -8}),
        "augmented": Arm(70, gap=9, loss_gap=0.4, robust=-0.2, robust_geometric=-0.4, robust_inside=0.5,
                         garment=40, garment_wrong=50, shape_bias=40),
    }),
    # Of claims with several effects, some say one thing and some another.
    "cnn differs": (CNN, {
        "baseline": Arm(80, similar="block", more={"dark": 12, "low_contrast": -12, "atypical_silhouette": -12},
                        garment_wrong=60, uniform=45, gap=9,
                        falls={"darken": 20, "silhouette_fill": -8, "occlusion": 20}),
        "augmented": Arm(80, loss_gap=0.4, robust=-0.5, robust_geometric=0.4, garment=50, garment_wrong=50,
                         shape_bias=80),
    }),
    "cnn cautious": (CNN, {"baseline": Arm(overconfident=-4)}),
    "adam right": (BOTH, optimizers(4, 3, sgd_baseline=Arm(gap=8, loss_gap=0.4, reaches=(9, 13)), adam_step=Arm(97))),
    "adam wrong": (BOTH, optimizers(-4, -3, sgd_baseline=Arm(92),
                                    adam_step=Arm(83, gap=8, loss_gap=0.4, reaches=(8, 13)))),
    "adam late": (BOTH, {"adam_step": Arm(reaches=(12, None))}),
    "adam differs": (BOTH, {"adam_step": Arm(gap=2, loss_gap=0.4, reaches=(2, None))}),
    "skip right": (SKIP, {"shallow_plain": Arm(85), "deep_residual": Arm(85)}),
    "skip wrong": (SKIP, {"shallow_plain": Arm(95), "deep_residual": Arm(95)}),
}  # fmt: skip
# The study, the claim, its verdict and, about, the least sure effect.
PLANTED = [
    ("adam right", "adam-steplr-beats-sgd", "supported", 7),
    ("adam wrong", "adam-steplr-beats-sgd", "contradicted", -9),
    ("adam right", "because-of-adam", "supported", 4),
    ("adam wrong", "because-of-adam", "contradicted", -4),
    ("adam right", "because-of-schedule", "supported", 3),
    ("adam wrong", "because-of-schedule", "contradicted", -3),
    ("adam right", "converges-faster", "supported", 4),
    ("adam wrong", "converges-faster", "contradicted", -3),
    ("adam late", "converges-faster", "contradicted", -7),  # and 8: 16 epochs, where the 15 are not enough
    ("adam differs", "converges-faster", "parts differ", 3),
    ("adam right", "overfits-less", "supported", 3),
    ("adam wrong", "overfits-less", "contradicted", -3),
    ("adam differs", "overfits-less", "parts differ", 3),
    ("skip right", "skip-connections-improve", "supported", 5),
    ("skip wrong", "skip-connections-improve", "contradicted", -5),
    ("cnn right", "similar-classes-dominate", "supported", 40),
    ("cnn wrong", "similar-classes-dominate", "contradicted", -28),
    ("cnn differs", "similar-classes-dominate", "parts differ", -5),
    ("cnn right", "low-contrast-fails", "supported", 9),
    ("cnn wrong", "low-contrast-fails", "contradicted", -9),
    ("cnn differs", "low-contrast-fails", "parts differ", 12),
    ("cnn right", "occluded-or-folded-fails", "supported", 9),
    ("cnn wrong", "occluded-or-folded-fails", "contradicted", -9),
    ("cnn differs", "occluded-or-folded-fails", "parts differ", -12),
    ("cnn right", "unusual-texture-fails", "supported", 9),
    ("cnn wrong", "unusual-texture-fails", "contradicted", -9),
    ("cnn right", "overconfident-errors", "supported", 12.5),
    ("cnn cautious", "overconfident-errors", "contradicted", -4),
    ("cnn right", "attends-to-background", "supported", 20),
    ("cnn wrong", "attends-to-background", "contradicted", -20),
    ("cnn differs", "attends-to-background", "parts differ", 10),
    ("cnn right", "texture-over-shape", "supported", 30),
    ("cnn wrong", "texture-over-shape", "contradicted", -35),
    ("cnn right", "augmentation-helps-accuracy", "supported", 5),
    ("cnn wrong", "augmentation-helps-accuracy", "contradicted", -5),
    ("cnn right", "augmentation-helps-robustness", "supported", 74),
    ("cnn wrong", "augmentation-helps-robustness", "contradicted", -40),
    ("cnn differs", "augmentation-helps-robustness", "parts differ", -20),
    ("cnn right", "augmentation-moves-attention-to-shape", "supported", 40),
    ("cnn wrong", "augmentation-moves-attention-to-shape", "contradicted", -14),
    ("cnn differs", "augmentation-moves-attention-to-shape", "parts differ", 30),
    ("cnn right", "augmentation-reduces-overfitting", "supported", 0.3),
    ("cnn wrong", "augmentation-reduces-overfitting", "contradicted", -4),
    ("cnn differs", "augmentation-reduces-overfitting", "parts differ", -0.3),
]


@pytest.fixture(scope="module")
def studies() -> dict[str, pd.DataFrame]:
    """Every claim, judged on the studies with truths planted."""
    return {name: judged(space, **planted) for name, (space, planted) in STUDIES.items()}


@pytest.mark.parametrize(("study", "name", "verdict", "effect"), PLANTED)
def test_a_planted_truth_gets_its_verdict(
    study: str, name: str, verdict: str, effect: float, studies: dict[str, pd.DataFrame]
) -> None:
    row = studies[study].loc[name]
    assert row.verdict == verdict
    assert row.effect == pytest.approx(effect, rel=0.35)


def test_every_claim_has_a_truth_of_either_sign_planted() -> None:
    planted = {(name, verdict) for _, name, verdict, _ in PLANTED if verdict != DIFFER}
    assert planted == {(claim.name, verdict) for claim in CLAIMS for verdict in ("supported", "contradicted")}


def test_every_claim_of_several_effects_has_parts_planted_that_differ(studies: dict[str, pd.DataFrame]) -> None:
    several = {name for found in studies.values() for name in found.index[found.why.str.contains("By itself: ")]}
    assert len(several) == 9
    assert several == {name for _, name, verdict, _ in PLANTED if verdict == DIFFER}


def test_an_arm_that_is_better_by_little_is_found_on_the_whole_test_set() -> None:
    row = judged(CNN, 10_000, augmented=Arm(90.8)).loc["augmentation-helps-accuracy"]
    assert row.verdict == "supported"
    assert row.low < 0.8 < row.high


def test_one_of_two_effects_is_not_enough() -> None:
    """But each is said, with its interval."""
    one = Arm(more={"low_contrast": 20}, falls={"occlusion": 20}, gap=9)
    found = judged(CNN, baseline=one, augmented=Arm(garment=90, falls={"occlusion": 20}, robust_geometric=0.4))
    for name in (
        "low-contrast-fails",
        "occluded-or-folded-fails",
        "augmentation-helps-robustness",
        "augmentation-moves-attention-to-shape",
        "augmentation-reduces-overfitting",
    ):
        assert found.verdict[name] in (DIFFER, "inconclusive"), name
        assert found.why[name].count("would matter") >= 2


def test_a_preview_supports_and_contradicts_nothing() -> None:
    runs = made(*STUDIES["cnn right"], images=FEW)
    full = judge(runs).set_index("claim")
    preview = judge(dataclasses.replace(runs, trials=runs.trials.assign(fidelity="preview"))).set_index("claim")
    assert {"supported", NOT_TESTED} < set(full.verdict)
    assert (preview.verdict == full.verdict.where(full.verdict == NOT_TESTED, PREVIEW)).all()
    pd.testing.assert_frame_equal(preview.drop(columns="verdict"), full.drop(columns="verdict"))


def test_a_source_is_judged_by_the_last_epoch_and_the_best_is_said_beside_it() -> None:
    """Choosing the epoch lifts one arm and not the other: by the one rule they differ, by the other they do not."""
    planted = {"sgd_baseline": Arm(90, last=86), "adam_step": Arm(90)}
    kept, gone = (
        found_of("adam-steplr-beats-sgd", made(BOTH, planted, images=1000, last=last)) for last in (True, False)
    )
    (by_last,), (by_best,) = kept.effects, gone.effects
    assert (by_last.verdict, by_last.images, by_last.crossed) == ("supported", 1000, True)
    assert by_last.value == pytest.approx(4, abs=1)
    assert by_last.what == "test accuracy with the last epoch's weights, adam_step less sgd_baseline"
    assert by_best.verdict in ("no material effect", "inconclusive")
    assert by_best.what == "test accuracy, adam_step less sgd_baseline"
    assert "the last epoch's were not kept" in gone.notes[0]
    said = "By the weights of the best validation epoch: Test accuracy, adam_step less sgd_baseline: "
    assert abs(float(kept.notes[0].removeprefix(said).split(" ")[0].replace("−", "-"))) < 1


def test_every_claim_about_a_source_s_numbers_goes_by_the_last_epoch() -> None:
    runs = made(BOTH, {name: Arm(last=80) for name in ("adam_none", "adam_cosine", "adam_step")}, images=FEW)
    for name in ("adam-steplr-beats-sgd", "because-of-adam"):
        assert found_of(name, runs).effects[0].verdict == "contradicted"
    found = found_of("augmentation-helps-accuracy", made(CNN, {"augmented": Arm(last=80)}, images=FEW))
    assert found.effects[0].verdict == "contradicted"
    mended, broken = map(int, re.findall(r"(?:mends|breaks) (\d+)", found.notes[-1]))
    assert broken > mended + 20, "of the same networks"


def test_where_one_run_has_not_kept_the_last_epoch_all_are_judged_by_the_best() -> None:
    runs = made(BOTH, {"adam_step": Arm(90, last=80)}, images=FEW)
    assert runs.weights == "last"
    runs.trials.loc[3, "test_accuracy_last"] = np.nan
    assert runs.weights == "best"
    assert judge(runs).set_index("claim").effect["adam-steplr-beats-sgd"] == pytest.approx(0, abs=3)


def test_without_the_last_predictions_the_last_accuracies_have_no_interval_over_images() -> None:
    """Those of the best epoch are of other networks."""
    runs = made(BOTH, {"adam_step": Arm(90, last=80)}, images=FEW)
    runs = dataclasses.replace(runs, last_predictions=runs.last_predictions[:0])
    row = judge(runs).set_index("claim").loc["adam-steplr-beats-sgd"]
    assert row.effect == pytest.approx(-10, abs=3)
    assert pd.isna(row.images)


def test_interactions_and_other_depths_are_said_with_their_intervals(studies: dict[str, pd.DataFrame]) -> None:
    found = studies["adam wrong"]
    assert "StepLR less none with Adam, less the same with SGD: " in found.why["because-of-schedule"]
    assert found.why["because-of-schedule"].count("95 % interval") == 3
    assert found.why["because-of-adam"].count("95 % interval") == 4
    assert "adam_step less sgd_step: −" in found.why["because-of-adam"]
    assert "deep_residual less deep_plain: −" in studies["skip right"].why["skip-connections-improve"]
    inside = "Errors under the kinds that training makes, whatever their size, baseline over augmented: "
    for study, sign in (("cnn right", "−"), ("cnn wrong", "+")):
        assert inside + sign in studies[study].why["augmentation-helps-robustness"]


def test_an_interaction_has_its_sign() -> None:
    with_adam = judged(BOTH, FEW, adam_step=Arm(97), sgd_step=Arm(80)).why["because-of-schedule"]
    assert "StepLR less none with Adam, less the same with SGD: +" in with_adam


def test_maps_that_fail_their_checks_are_no_evidence() -> None:
    planted = {"baseline": Arm(garment_wrong=55, trusted=(), shape_bias=20), "augmented": Arm(garment=85)}
    runs = made(CNN, planted, images=FEW)
    measured = judge(runs).set_index("claim")
    assert measured.verdict["attends-to-background"] != NOT_TESTED, "occlusion needs no check"
    assert "by occlusion (baseline)" in measured.why["attends-to-background"]
    assert "by HiResCAM" not in measured.why["attends-to-background"]
    found = judge(without(runs, {"attention": runs.attention.variant != "occlusion"})).set_index("claim")
    assert found.verdict["attends-to-background"] == NOT_TESTED
    assert "fail the checks" in found.why["attends-to-background"]
    moved = found.loc["augmentation-moves-attention-to-shape"]
    assert moved.verdict == "supported"
    assert moved.why.startswith("By behaviour alone; a texture is a square of 5 pixels")
    assert "fail the checks" in moved.why


def test_maps_of_one_kind_are_compared_or_none() -> None:
    """Where no kind passes in both arms, only occlusion counts."""
    name = "augmentation-moves-attention-to-shape"
    found = judged(CNN, FEW, baseline=Arm(trusted=("grad-cam",)), augmented=Arm(trusted=("hirescam",)))
    assert "by occlusion, augmented less baseline" in found.why[name]
    assert "by Grad-CAM" not in found.why[name]
    assert "by HiResCAM" not in found.why[name]
    same = judged(CNN, FEW).loc[name]
    assert same.verdict == "no material effect"
    assert "by HiResCAM, augmented less baseline" in same.why
    assert "by occlusion, augmented less baseline" in same.why


@pytest.mark.parametrize(
    ("space", "name", "said", "planted"),
    [
        (
            BOTH,
            "adam-steplr-beats-sgd",
            "3 of 6 seeds diverged (sgd_baseline): ",
            {"sgd_baseline": Arm(80, diverged=3)},
        ),
        (BOTH, "because-of-adam", "1 of 6 seeds diverged (sgd_none): ", {"sgd_none": Arm(70, diverged=1)}),
        (
            SKIP,
            "skip-connections-improve",
            "6 of 6 seeds diverged (shallow_plain): ",
            {"shallow_plain": Arm(diverged=SEEDS)},
        ),
        (CNN, "augmentation-helps-accuracy", "1 of 6 seeds diverged (augmented): ", {"augmented": Arm(99, diverged=1)}),
        (CNN, "overconfident-errors", "5 of 6 seeds diverged (baseline): ", {"baseline": Arm(70, diverged=5)}),
    ],
)
def test_what_seeds_are_lost_of_is_inconclusive(space: str, name: str, said: str, planted: Any) -> None:
    found = judged(space, FEW, **planted)
    row = found.loc[name]
    assert row.verdict == "inconclusive"
    assert row.why.startswith(said)
    assert row[["effect", "low", "high", "p", "p_holm", "effect_of"]].isna().all()
    others = found[~found.why.str.contains("diverged")]
    assert (others.verdict != NOT_TESTED).any() or space == CNN, "of other arms nothing is lost"


def test_what_a_note_lacks_is_said_in_it_and_voids_no_verdict() -> None:
    found = judged(SKIP, shallow_plain=Arm(85), deep_plain=Arm(diverged=1)).loc["skip-connections-improve"]
    assert found.verdict == "supported"
    assert "\n1 of 6 seeds diverged (deep_plain): Test accuracy, deep_residual less deep_plain: " in found.why
    none = judged(SKIP, shallow_plain=Arm(85), deep_plain=Arm(diverged=SEEDS)).loc["skip-connections-improve"]
    assert none.verdict == "supported"
    assert "Deep_residual less deep_plain is not tested: " in none.why


@pytest.mark.parametrize(("space", "twin"), [(CNN, "baseline"), (SKIP, "deep_plain")])
def test_arms_that_are_alike_are_no_comparison(space: str, twin: str) -> None:
    runs = made(space, seeds=2, images=FEW)
    of = runs.trials[runs.trials.arm == twin]
    trials = pd.concat([runs.trials, of.assign(arm="zz twin", trial_id="z" + of.trial_id)], ignore_index=True)
    verdict, of = (judge(dataclasses.replace(runs, trials=t)).set_index("claim") for t in (trials, runs.trials))
    pd.testing.assert_frame_equal(verdict, of)


def test_an_effect_that_one_seed_shows_is_inconclusive() -> None:
    found = judge(made(*STUDIES["cnn right"], seeds=1, images=IMAGES)).set_index("claim")
    assert set(found.verdict) == {"inconclusive", NOT_TESTED}
    assert found.p.isna().all()
    assert "(1 seed" in found.why["overconfident-errors"]
    assert "From one network to the other" in found.why["augmentation-helps-accuracy"]


COMPARED = {
    CNN: ["augmentation-helps-accuracy", "augmentation-reduces-overfitting"],
    BOTH: ["because-of-adam", "because-of-schedule", "overfits-less", "converges-faster"],
    SKIP: ["skip-connections-improve"],
}
UNDER_STRESS, IN_CONFLICT = ["augmentation-helps-robustness"], ["augmentation-moves-attention-to-shape"]


@pytest.mark.parametrize(
    ("space", "tables", "names"),
    [
        (CNN, TABLES, COMPARED[CNN] + UNDER_STRESS + IN_CONFLICT),
        (CNN, ("stress",), UNDER_STRESS),
        (CNN, ("cue_conflict",), IN_CONFLICT),
        (BOTH, TABLES, COMPARED[BOTH]),
        (SKIP, TABLES, COMPARED[SKIP]),
    ],
)
def test_arms_that_share_no_seed_are_not_compared(space: str, tables: tuple[str, ...], names: list[str]) -> None:
    runs = made(space, seeds=4, images=FEW)
    few = runs.arms.index[:1] if space == CNN else ["sgd_baseline", "sgd_none", "deep_plain", "shallow_plain"]
    kept = {name: (of := getattr(runs, name)).seed.lt(2) == of.arm.isin(few) for name in tables}
    found = judge(without(runs, kept)).set_index("claim")
    for name in names:
        assert found.verdict[name] == NOT_TESTED, name
        assert "no seed in common" in found.why[name]


def test_a_level_that_neither_arm_reaches_is_said() -> None:
    slow = Arm(reaches=(9, None))
    row = judged(BOTH, FEW, sgd_baseline=slow, adam_step=dataclasses.replace(slow, reaches=(4, None))).loc[
        "converges-faster"
    ]
    assert row.verdict == "supported"
    assert row.effect == 5
    assert "Runs that never reach 92 %: 6 of sgd_baseline, 6 of adam_step." in row.why
    never = judged(BOTH, FEW, sgd_baseline=Arm(reaches=(None, None)), adam_step=Arm(reaches=(None, None)))
    assert never.verdict["converges-faster"] == NOT_TESTED


def test_of_a_seed_whose_two_runs_never_arrive_nothing_is_concluded() -> None:
    runs = made(BOTH, {"sgd_baseline": Arm(reaches=(9, 13)), "adam_step": Arm(reaches=(9, 13))}, images=FEW)
    assert judge(runs).set_index("claim").verdict["converges-faster"] == "no material effect"
    late = runs.epochs.arm.isin(["sgd_baseline", "adam_step"]) & (runs.epochs.seed == 3)
    low = runs.epochs.assign(val_accuracy=runs.epochs.val_accuracy.where(~late, 0.5))
    row = judge(dataclasses.replace(runs, epochs=low)).set_index("claim").loc["converges-faster"]
    assert row.verdict == NOT_TESTED
    assert row.why == "With some seeds neither sgd_baseline nor adam_step reaches 90 % validation accuracy."


def test_the_reference_is_the_best_arm_of_which_no_seed_is_lost() -> None:
    arms = optimizers(0, 0, sgd_cosine=Arm(99, diverged=1), adam_none=Arm(97))
    assert made(BOTH, arms, images=FEW).reference() == "adam_none"
    assert made(BOTH, {**arms, "sgd_cosine": Arm(99)}, images=FEW).reference() == "sgd_cosine"


def test_epochs_of_trials_that_have_not_ended_do_not_count() -> None:
    runs = made(images=FEW)
    unfinished = (runs.trials.arm == "augmented") & (runs.trials.seed == 3)
    trials = runs.trials.assign(status=runs.trials.status.where(~unfinished, "running"))
    epochs = dataclasses.replace(runs, trials=trials).of("augmented", "epochs")
    assert sorted(epochs.seed.unique()) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ("column", "value"),
    [("hp_lr", 0.05), ("hp_momentum", 0.8), ("hp_weight_decay", 1e-4), ("hp_epochs", 10), ("hp_batch_size", 64),
     ("hp_augmentation_strength", 0.5), ("hp_blocks", "1-1-1"), ("hp_gamma", 0.5), ("hp_step_size", 3)],
)  # fmt: skip
def test_other_settings_than_the_sources_are_not_theirs(column: str, value: object) -> None:
    runs = made("resnet.yaml", seeds=2, images=FEW)
    assert runs.sources() == ("sgd_baseline", "adam_steplr")
    of = "adam_steplr" if column in ("hp_gamma", "hp_step_size") else "sgd_baseline"
    for arms in ([of], ["sgd_baseline", "adam_steplr"]):
        changed = runs.trials.copy()
        changed.loc[changed.arm.isin(arms) & changed[column].notna(), column] = value
        with pytest.raises(runs_module.NotTested, match="the source's two arms"):
            dataclasses.replace(runs, trials=changed).sources()


@pytest.mark.parametrize(
    ("column", "of", "value"),
    [("hp_lr", "sgd_step", 1e-3), ("hp_momentum", "sgd_none", 0.0), ("hp_gamma", "adam_step", 0.5)],
)
def test_a_main_effect_takes_arms_that_differ_in_nothing_else(column: str, of: str, value: float) -> None:
    runs = made(BOTH, seeds=2, images=FEW)
    assert len(runs.factorial()) == 6
    another = runs.trials.copy()
    another.loc[another.arm == of, column] = value
    second = pd.concat([runs.trials, another[another.arm == of].assign(arm="zz")], ignore_index=True)
    for trials in (another, second):
        with pytest.raises(runs_module.NotTested, match="all else equal"):
            dataclasses.replace(runs, trials=trials).factorial()


def test_a_seed_of_which_nothing_can_be_counted_leaves_no_p() -> None:
    runs = made(CNN, images=FEW)
    runs.predictions.loc[(runs.predictions.arm == "baseline") & (runs.predictions.seed == 0), "confidence"] = 0.5
    row = judge(runs).set_index("claim").loc["overconfident-errors"]
    assert row.verdict == "inconclusive"
    assert row[["low", "p", "p_sign_flip", "seeds_needed"]].isna().all()


def test_what_no_verdict_rests_on_is_said(studies: dict[str, pd.DataFrame]) -> None:
    found = studies["cnn wrong"].why
    of_fifth = "less the others', given"
    assert (
        f"Error rate of the darkest fifth of each class, {of_fifth} contrast (baseline): "
        in found["low-contrast-fails"]
    )
    assert "Augmented errs less under 0 of the 13 kinds" in found["augmentation-helps-robustness"]
    assert "within the upper-body classes: how many more they are than" in found["similar-classes-dominate"]
    shuffled = "Accuracy retained as patches are shuffled, less as the garment is filled with its mean"
    assert f"{shuffled}, baseline: " in found["texture-over-shape"]
    assert f"{shuffled}, baseline less augmented: " in found["augmentation-moves-attention-to-shape"]


@pytest.mark.parametrize("space", ["resnet.yaml", "optimizer.yaml"])
def test_a_preview_has_the_sources_settings_on_a_smaller_scale(space: str) -> None:
    runs = made(space, seeds=2, images=FEW)
    full = space_file.load(space_file.FOLDER / space)
    arms = full.scaled(full.preview.least if space == "resnet.yaml" else full.preview.most).arms
    small = pd.DataFrame({name: {"model": arm.model.name, **hyperparameters(arm)} for name, arm in arms.items()}).T
    trials = runs.trials.drop(columns=small.columns, errors="ignore").join(small.infer_objects(), on="arm")
    preview = dataclasses.replace(runs, trials=trials.assign(fidelity="preview"))
    if space == "resnet.yaml":  # the other preview has the full study's epochs, but a narrower network
        with pytest.raises(runs_module.NotTested, match="lowers the learning rate after 5 epochs, and it has 2"):
            preview.sources()
        preview = dataclasses.replace(preview, trials=preview.trials.assign(hp_epochs=6))
        with pytest.raises(runs_module.NotTested):
            dataclasses.replace(preview, trials=preview.trials.assign(fidelity="full")).sources()
    assert preview.sources() == runs.sources()
    one = trials.fidelity.eq("full") & trials.arm.eq("sgd_baseline")
    trials.loc[one, "hp_epochs"] = 1
    with pytest.raises(runs_module.NotTested):
        dataclasses.replace(runs, trials=trials.assign(fidelity="preview")).sources()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_spaces_that_a_claim_names_have_the_arms_that_it_takes(claim) -> None:  # type: ignore[no-untyped-def]
    for space in claim.spaces:
        assert (space_file.FOLDER / space).is_file()
        runs = made(space, seeds=2, images=FEW)
        tables = [name for name in TABLES if name not in ("trials", "epochs")]
        with contextlib.suppress(NoRows):
            claim.test(without(runs, {name: pd.Series(False, getattr(runs, name).index) for name in tables}))


def test_holm_takes_back_what_one_of_many_shows_by_chance() -> None:
    runs = made(CNN, images=FEW, last=False)
    gains = 0.01 * np.array([0.9, 0.1, 1.2, 0.6, 0.2, 1.4])  # p is about 0.02
    augmented = runs.trials.arm == "augmented"
    runs.trials.loc[augmented, "test_accuracy"] = runs.trials.test_accuracy[~augmented].to_numpy() + gains
    runs = without(runs, {"predictions": runs.predictions.arm == "baseline"})
    row = judge(runs).set_index("claim").loc["augmentation-helps-accuracy"]
    assert row.low > 0
    assert row.p < 0.05 < row.p_holm
    assert row.verdict == "inconclusive"
    assert row.seeds_needed > SEEDS, "at the level that the correction leaves"
    assert pd.isna(row.images)


def called(runs: Runs) -> bool:
    """Whether any claim is, but for the one that errors drawn evenly contradict."""
    found = judge(runs).set_index("claim").verdict.drop("similar-classes-dominate")
    return bool(found.isin(["supported", "contradicted"]).any())


@pytest.mark.parametrize("seeds", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 6])
def test_few_of_many_studies_without_a_truth_call_anything(seeds: int) -> None:
    """Seeds differ by 3 points of accuracy, an image makes 1.6 of the error of a network's."""
    studies = [made(CNN, seed=k, seeds=seeds, images=350, spread=3.0) for k in range(10)]
    assert sum(map(called, studies)) <= 1


@pytest.mark.parametrize(
    ("intervals", "verdict", "decides"),
    [
        ([(3, 4), (2, 5)], "supported", 1),
        ([(-4, -3), (-5, -2)], "contradicted", 1),
        ([(3, 4), (-5, -2)], DIFFER, 1),
        ([(-0.4, 0.4), (-0.2, 0.3)], "no material effect", 0),
        ([(-0.4, 0.4), (2, 5)], DIFFER, 0),
        ([(-0.4, 0.4), (-5, -2)], DIFFER, 0),
        ([(-0.4, 0.4), (-2, 5)], "inconclusive", 1),
        ([(3, 4), (-5, -2), (-2, 5)], "inconclusive", 2),
        ([(2, 5), (-2, 5)], "inconclusive", 1),
    ],
)
def test_a_claim_of_several_effects(intervals: list[tuple[float, float]], verdict: str, decides: int) -> None:
    effects = [
        Effect(str(k), "points", 0.5, 0.0, low, high, 0.01, (0.0,) * SEEDS, 0.0)
        for k, (low, high) in enumerate(intervals)
    ]
    judged = Judged(CLAIMS[0], Found(effects))
    assert judged.decides is not None
    assert (judged.decides[2], int(judged.decides[0].what)) == (verdict, decides)


def test_no_number_of_seeds_settles_parts_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    of = {"small": (0.05, 0.25, 0.45), "vague": (-0.9, 0.1, 1.1), "large": (2.8, 3.0, 3.2)}
    small, vague, large = (over_seeds([*values] * 2, name, "points", 0.5) for name, values in of.items())
    assert (small.verdict, large.verdict) == ("no material effect", "supported")
    for effects, settled in (([small, large], False), ([vague, large], True)):
        test = dataclasses.replace(CLAIMS[0], test=lambda runs, of=effects: Found(of))
        monkeypatch.setattr("analysis.verdicts.CLAIMS", [test])
        row = judge(made(CNN, seeds=2, images=FEW)).iloc[0]
        assert row.verdict == ("inconclusive" if settled else DIFFER)
        assert pd.notna(row.seeds_needed) == settled


def test_what_distance_makes_fail_is_not_put_down_to_texture() -> None:
    """Images that are far from the training images fail, and have more texture; in the other study texture itself."""
    by_distance, by_texture = (
        made(CNN, {"baseline": Arm(75, more=more)}, images=10_000, seeds=3, alike=0.7)
        for more in ({"neighbour_distance": 5}, {"unusual_texture": 12})
    )
    given = ["neighbour_distance", "brightness", "contrast", "atypicality"]
    alone, partial = (
        excess_error(by_distance, "unusual_texture"),
        found_of("unusual-texture-fails", by_distance).effects[0],
    )
    assert alone.verdict == "supported"
    assert alone.value > 4
    assert partial == partial_error(by_distance, "unusual_texture", given)
    assert partial.verdict in ("no material effect", "inconclusive")
    assert abs(partial.value) < 2
    assert partial_error(by_texture, "unusual_texture", given).value == pytest.approx(12, abs=2)


def test_a_partial_effect_is_the_coefficient_of_least_squares() -> None:
    """Of all seeds together, and of each by itself."""
    runs = made(CNN, {"baseline": Arm(75, more={"unusual_texture": 12})}, images=FEW, alike=0.7)
    given = ["neighbour_distance", "brightness"]
    effect = partial_error(runs, "unusual_texture", given)
    of = runs.of("baseline", "predictions")
    label = of[of.seed == 0].sort_values("image").label.cat.codes.to_numpy()
    z = [stats.zscore(v.to_numpy()) for k in range(10) for _, v in runs.images[label == k][given].items()]
    design = np.zeros((FEW, 15))
    design[:, 0], design[np.arange(FEW), 1 + label] = runs.images.unusual_texture, 1
    for k in range(10):
        for place in range(2):
            design[label == k, 11 + place], design[label == k, 13 + place] = (z[2 * k + place], z[2 * k + place] ** 2)
    wrong = (of.label != of.predicted).groupby([of.seed, of.image]).mean().unstack()
    expected = [100 * np.linalg.lstsq(design, y)[0][0] for y in (wrong.mean(), *wrong.to_numpy())]
    assert [effect.value, *effect.own] == pytest.approx(expected)


def test_an_error_that_is_u_shaped_in_texture_is_said_to_be() -> None:
    for more, said in (({"texture_ends": 15}, True), ({"unusual_texture": 15}, False), ({}, False)):
        notes = found_of("unusual-texture-fails", made(CNN, {"baseline": Arm(80, more=more)}, images=IMAGES)).notes
        assert ("Both ends fail more: U-shaped." in notes) == said
        least = "Error rate of the tenth of each class with the least texture, less the middle's (baseline): "
        assert any(note.startswith(least) for note in notes)


def test_swapping_the_arms_turns_the_sign_of_the_ratio_of_errors() -> None:
    """Of one of two kinds the arm errs four times as often, of the other a quarter as often: none is the better."""
    runs = made(CNN, {"augmented": Arm(robust=0.3, robust_geometric=-0.2)}, images=FEW)
    of, names = stressed(runs, "baseline", "augmented"), ["shear", "gaussian_noise", "contrast"]
    there, back = (of.more_errors(*arms, *names) for arms in (("augmented", "baseline"), ("baseline", "augmented")))
    np.testing.assert_allclose(there, -back)
    assert there[0] != 0
    shares = {
        arm: {"a": np.repeat([wrong_a, 0], [25, 75])[None] / 1, "b": np.repeat([wrong_b, 0], [25, 75])[None] / 1}
        for arm, wrong_a, wrong_b in (("one", 1.0, 0.25), ("other", 0.25, 1.0))
    }
    flipped = {arm: {kind: 1 - wrong for kind, wrong in kinds.items()} for arm, kinds in shares.items()}
    even = dataclasses.replace(of, shares=flipped, crossed=Crossed([0], 100), seeds=1, images=100)
    assert even.more_errors("one", "other", "a", "b")[0] == pytest.approx(0)
    assert even.more_errors("one", "other", "a")[0] == pytest.approx(100 * np.log(4))
    assert [even.errors(arm, "a", "b") for arm in ("one", "other")] == [156, 156]


def test_an_arm_that_reads_neither_cue_is_no_evidence() -> None:
    """It decides for either in a fifth of the images, as by chance; then there is no shape bias to speak of."""
    runs = made(CNN, images=FEW)
    bags = pd.Categorical(["Bag"] * len(runs.cue_conflict), dtype=runs.cue_conflict.predicted.dtype)
    answers = runs.cue_conflict.assign(predicted=bags)
    found = judge(dataclasses.replace(runs, cue_conflict=answers)).set_index("claim")
    for name in ("texture-over-shape", "augmentation-moves-attention-to-shape"):
        assert found.verdict[name] == NOT_TESTED
        assert "baseline decides for either cue in 20.0 % of the images" in found.why[name].lower()


def test_without_weights_cue_conflict_is_not_tested_and_says_why() -> None:
    runs = made(CNN, images=FEW)
    found = judge(dataclasses.replace(runs, cue_conflict=runs.cue_conflict[:0])).set_index("claim")
    for name in ("texture-over-shape", "augmentation-moves-attention-to-shape"):
        assert found.verdict[name] == NOT_TESTED
        assert found.why[name].startswith("It takes networks that can be run again: no weights are kept")


def test_the_protocol_says_of_every_effect_what_matters_and_by_which_weights() -> None:
    text = (Path(__file__).parents[2] / "results" / "PROTOCOL.md").read_text(encoding="utf-8")
    rows: dict[str, list[tuple[str, float, bool]]] = {}
    for name, unit, smallest, weights in re.findall(
        r"^\| (?:`(.+?)`)? ?\| .+ \| (.+) \| ([\d.]+) \| (last|best|–) \| .+ \|$", text, re.MULTILINE
    ):
        rows.setdefault(name or [*rows][-1], []).append((unit, float(smallest), weights == "last"))
    assert [*rows] == [claim.name for claim in CLAIMS]
    made_of = {space: made(space, seeds=3, images=FEW) for space in SPACES}
    for claim in CLAIMS:
        space = next(space for space in SPACES if space in claim.spaces)
        effects = claim.test(made_of[space]).effects
        found = [(e.unit, e.smallest, "with the last epoch's weights" in e.what) for e in effects]
        assert rows[claim.name] == found, claim.name
