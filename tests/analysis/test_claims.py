"""Claims: planted truths get their verdicts, of both signs, and without one nothing is called."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_runs import SEEDS, TABLES, Arm, made, without

from analysis import runs as runs_module
from analysis.attention import VARIANTS
from analysis.claims import CLAIMS, Found
from analysis.effects import Effect, over_seeds
from analysis.runs import NoRows, Runs
from analysis.verdicts import COLUMNS, NOT_TESTED, Judged, judge
from study import space_file
from study.config import hyperparameters

IMAGES = 3000
FEW = 400  # where predictions do not matter
SPACES = ("fashion_cnn.yaml", "optimizer.yaml", "skip_connections.yaml")


def judged(space: str, images: int = IMAGES, **planted: Arm) -> pd.DataFrame:
    """Every claim by its name, judged on a made study of a space's arms."""
    return judge(made(space, planted, images=images)).set_index("claim")


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
TEXTURE, SHAPE = {"patch_shuffle": 30}, {"silhouette_fill": 30, "low_pass": 30}  # what costs most; contrarily
PATTERNS = ("low_contrast", "atypical_silhouette", "unusual_texture", "far_from_training")
HARD = dict.fromkeys(PATTERNS, 15)
EASY = dict.fromkeys(PATTERNS, -12)


def optimizers(adam: float, step: float, **others: Arm) -> dict[str, Arm]:
    """Arms that Adam makes better by so many points, and StepLR."""
    arms = {"sgd_none": 90, "sgd_cosine": 90, "sgd_step": 90 + step, "adam_none": 90 + adam, "adam_cosine": 90 + adam}
    return {name: Arm(accuracy) for name, accuracy in arms.items()} | others


# By name: the space, and what is planted in its arms.
STUDIES: dict[str, tuple[str, dict[str, Arm]]] = {
    "cnn right": (CNN, {
        "baseline": Arm(75, similar=True, more=HARD, overconfident=5, falls=SHAPE | {"occlusion": 20}, gap=9,
                        loss_gap=0.4, garment_wrong=50),
        "augmented": Arm(80, falls={"occlusion": 20}, robust=0.2, robust_inside=-0.5, garment=85, garment_wrong=85),
    }),
    "cnn wrong": (CNN, {
        "baseline": Arm(75, more=EASY, garment=50, falls=TEXTURE | {"occlusion": 20}),
        "augmented": Arm(70, gap=9, robust=-0.2, robust_inside=0.5, falls=SHAPE | {"occlusion": 20}),
    }),
    # The other effect of those that have two.
    "cnn wrong again": (CNN, {
        "baseline": Arm(80, more={"far_from_training": -15}, garment_wrong=60, uniform=45,
                        falls={"silhouette_fill": -8, "occlusion": -8}),
        "augmented": Arm(80, loss_gap=0.4, garment=50, garment_wrong=50),
    }),
    "cnn cautious": (CNN, {"baseline": Arm(overconfident=-4)}),
    "adam right": (BOTH, optimizers(4, 3, sgd_baseline=Arm(gap=8, loss_gap=0.4, reaches=(9, 13)), adam_step=Arm(97))),
    "adam wrong": (BOTH, optimizers(-4, -3, sgd_baseline=Arm(92), adam_step=Arm(83, gap=8, reaches=(8, 13)))),
    "adam wrong again": (BOTH, {"adam_step": Arm(loss_gap=0.4, reaches=(4, None))}),
    "skip right": (SKIP, {"shallow_plain": Arm(85), "deep_residual": Arm(85)}),
    "skip wrong": (SKIP, {"shallow_plain": Arm(95), "deep_residual": Arm(95)}),
}  # fmt: skip
# The study, the claim, its verdict and, about, the effect that decides.
PLANTED = [
    ("adam right", "adam-steplr-beats-sgd", "supported", 7),
    ("adam wrong", "adam-steplr-beats-sgd", "contradicted", -9),
    ("adam right", "because-of-adam", "supported", 4),
    ("adam wrong", "because-of-adam", "contradicted", -4),
    ("adam right", "because-of-schedule", "supported", 3),
    ("adam wrong", "because-of-schedule", "contradicted", -3),
    ("adam right", "converges-faster", "supported", 4),
    ("adam wrong", "converges-faster", "contradicted", -5),
    ("adam wrong again", "converges-faster", "contradicted", -8),  # 16 epochs, where the 15 are not enough
    ("adam right", "overfits-less", "supported", 0.3),
    ("adam wrong", "overfits-less", "contradicted", -3),
    ("adam wrong again", "overfits-less", "contradicted", -0.3),
    ("skip right", "skip-connections-improve", "supported", 5),
    ("skip wrong", "skip-connections-improve", "contradicted", -5),
    ("cnn right", "similar-classes-dominate", "supported", 5),
    ("cnn wrong", "similar-classes-dominate", "contradicted", -28),
    ("cnn right", "low-contrast-fails", "supported", 15),
    ("cnn wrong", "low-contrast-fails", "contradicted", -12),
    ("cnn wrong again", "low-contrast-fails", "contradicted", -8),
    ("cnn right", "occluded-or-folded-fails", "supported", 15),
    ("cnn wrong", "occluded-or-folded-fails", "contradicted", -12),
    ("cnn wrong again", "occluded-or-folded-fails", "contradicted", -8),
    ("cnn right", "unusual-texture-fails", "supported", 15),
    ("cnn wrong", "unusual-texture-fails", "contradicted", -12),
    ("cnn wrong again", "unusual-texture-fails", "contradicted", -15),
    ("cnn right", "overconfident-errors", "supported", 12.5),
    ("cnn cautious", "overconfident-errors", "contradicted", -4),
    ("cnn right", "attends-to-background", "supported", 20),
    ("cnn wrong", "attends-to-background", "contradicted", -20),
    ("cnn wrong again", "attends-to-background", "contradicted", -15),
    ("cnn right", "texture-over-shape", "supported", 40),
    ("cnn wrong", "texture-over-shape", "contradicted", -37),
    ("cnn right", "augmentation-helps-accuracy", "supported", 5),
    ("cnn wrong", "augmentation-helps-accuracy", "contradicted", -5),
    ("cnn right", "augmentation-helps-robustness", "supported", 35),
    ("cnn wrong", "augmentation-helps-robustness", "contradicted", -50),
    ("cnn right", "augmentation-moves-attention-to-shape", "supported", 32),
    ("cnn wrong", "augmentation-moves-attention-to-shape", "contradicted", -77),
    ("cnn wrong again", "augmentation-moves-attention-to-shape", "contradicted", -15),
    ("cnn right", "augmentation-reduces-overfitting", "supported", 4),
    ("cnn wrong", "augmentation-reduces-overfitting", "contradicted", -4),
    ("cnn wrong again", "augmentation-reduces-overfitting", "contradicted", -0.3),
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
    planted = {(name, verdict) for _, name, verdict, _ in PLANTED}
    assert planted == {(claim.name, verdict) for claim in CLAIMS for verdict in ("supported", "contradicted")}


def test_an_arm_that_is_better_by_little_is_found_on_the_whole_test_set() -> None:
    row = judged(CNN, 10_000, augmented=Arm(90.8)).loc["augmentation-helps-accuracy"]
    assert row.verdict == "supported"
    assert row.low < 0.8 < row.high


def test_one_of_two_effects_is_not_enough() -> None:
    """But each is said, with its interval."""
    one = Arm(more={"low_contrast": 20, "unusual_texture": 20}, falls={"occlusion": 20}, gap=9)
    found = judged(CNN, baseline=one, augmented=Arm(garment=90))
    for name in (
        "low-contrast-fails",
        "occluded-or-folded-fails",
        "unusual-texture-fails",
        "augmentation-moves-attention-to-shape",
        "augmentation-reduces-overfitting",
    ):
        assert found.verdict[name] in ("no material effect", "inconclusive"), name
        assert found.why[name].count("would matter") >= 2


def test_interactions_and_other_depths_are_said_with_their_intervals(studies: dict[str, pd.DataFrame]) -> None:
    found = studies["adam wrong"]
    assert "StepLR less none with Adam, less the same with SGD: " in found.why["because-of-schedule"]
    assert found.why["because-of-schedule"].count("95 % interval") == 3
    assert found.why["because-of-adam"].count("95 % interval") == 4
    assert "adam_step less sgd_step: −" in found.why["because-of-adam"]
    assert "deep_residual less deep_plain: −" in studies["skip right"].why["skip-connections-improve"]
    inside = "Under the kinds that it makes, whatever their size: how much less augmented errs than baseline: "
    for study, sign in (("cnn right", "−"), ("cnn wrong", "+")):
        assert inside + sign in studies[study].why["augmentation-helps-robustness"]


def test_an_interaction_has_its_sign() -> None:
    with_adam = judged(BOTH, FEW, adam_step=Arm(97), sgd_step=Arm(80)).why["because-of-schedule"]
    assert "StepLR less none with Adam, less the same with SGD: +" in with_adam


def test_maps_that_fail_their_checks_are_no_evidence() -> None:
    planted = {"baseline": Arm(garment_wrong=55, trusted=(), falls=SHAPE), "augmented": Arm(garment=85)}
    found = judged(CNN, FEW, **planted)
    assert found.verdict["attends-to-background"] == NOT_TESTED
    assert "fail the checks" in found.why["attends-to-background"]
    moved = found.loc["augmentation-moves-attention-to-shape"]
    assert moved.verdict == "supported"
    assert moved.why.startswith("By behaviour alone: ")
    assert "fail the checks" in moved.why


def test_maps_of_one_kind_are_compared_or_none() -> None:
    """The kinds of `made_runs` differ by 30 points: no arm's maps are held against the other kind of the other's."""
    found = judged(CNN, FEW, baseline=Arm(trusted=VARIANTS[:1]), augmented=Arm(trusted=VARIANTS[1:]))
    assert found.why["augmentation-moves-attention-to-shape"].startswith("By behaviour alone: ")
    same = judged(CNN, FEW, baseline=Arm(trusted=VARIANTS[1:])).loc["augmentation-moves-attention-to-shape"]
    assert same.verdict == "no material effect"
    assert "By behaviour" not in same.why
    assert "evidence on the garment" in same.why.lower()


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
UNDER_STRESS = ["augmentation-helps-robustness", "augmentation-moves-attention-to-shape"]


@pytest.mark.parametrize(
    ("space", "tables", "names"),
    [
        (CNN, TABLES, COMPARED[CNN] + UNDER_STRESS),
        (CNN, ("stress",), UNDER_STRESS),
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
    assert "Error rate of the darkest fifth of each class, less the others' (baseline): " in found["low-contrast-fails"]
    assert "Augmented errs less under 0 of 13 such kinds" in found["augmentation-helps-robustness"]


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
        preview.trials["hp_epochs"] = 6
        with pytest.raises(runs_module.NotTested):
            dataclasses.replace(preview, trials=preview.trials.assign(fidelity="full")).sources()
        preview = dataclasses.replace(preview)
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
    runs = made(CNN, images=FEW)
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
        ([(3, 4), (-5, -2)], "contradicted", 1),
        ([(-0.4, 0.4), (-0.2, 0.3)], "no material effect", 0),
        ([(-0.4, 0.4), (2, 5)], "inconclusive", 0),  # its parts differ
        ([(-0.4, 0.4), (-2, 5)], "inconclusive", 1),
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
    assert judged.parts_differ == (intervals == [(-0.4, 0.4), (2, 5)])


def test_no_number_of_seeds_settles_parts_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    of = {"small": (0.05, 0.25, 0.45), "vague": (-0.9, 0.1, 1.1), "large": (2.8, 3.0, 3.2)}
    small, vague, large = (over_seeds([*values] * 2, name, "points", 0.5) for name, values in of.items())
    assert (small.verdict, large.verdict) == ("no material effect", "supported")
    for effects, settled in (([small, large], False), ([vague, large], True)):
        test = dataclasses.replace(CLAIMS[0], test=lambda runs, of=effects: Found(of))
        monkeypatch.setattr("analysis.verdicts.CLAIMS", [test])
        row = judge(made(CNN, seeds=2, images=FEW)).iloc[0]
        assert row.verdict == "inconclusive"
        assert row.why.startswith("Its parts differ: ") != settled
        assert pd.notna(row.seeds_needed) == settled
