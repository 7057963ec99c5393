"""What a study's page is made of: the tables, what the analysis finds in them, and the images behind them.

Expensive parts are kept in the study's `cache/` and made again when what they are made from has changed.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import optuna
import pandas as pd

from analysis import (
    attention,
    claims,
    corruptions,
    cue_conflict,
    descriptors,
    effects,
    failures,
    importance,
    measures,
    runs,
    statistics,
    stress,
    tables,
    verdicts,
)
from analysis.forward import Networks, cached, digest
from analysis.importance import Compared
from analysis.pairs import Pair, on_show, pairs
from analysis.rerun import STRESSED, Images, Rerun, Said
from analysis.runs import Runs
from analysis.schemas import SCHEMAS
from analysis.statistics import Comparison, Standing, confirmed
from study import data
from study.config import TrialConfig
from study.data import Splits
from study.files import RecordError, read_json, refuse_links
from study.opening import recorded_space
from study.space_file import SpaceError

SEED = 0  # of every sample that is drawn here
logger = logging.getLogger(__name__)

# Code that a verdict rests on.
JUDGES = (
    attention, claims, corruptions, cue_conflict, effects, failures, measures, runs, statistics, stress, verdicts
)  # fmt: skip

# The tables that predictions and networks give.
OF_NETWORKS = ("images", "failures", "attention", "attention_checks", "stress", "cue_conflict", "calibration")


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a study; what there is nothing to know of is empty or None."""

    folder: Path
    about: dict[str, Any]  # study.json
    trials: pd.DataFrame
    epochs: pd.DataFrame
    predictions: pd.DataFrame
    standings: list[Standing]
    images: Images | None
    failures: pd.DataFrame
    attention: pd.DataFrame
    checks: pd.DataFrame
    stress: pd.DataFrame
    calibration: pd.DataFrame
    comparisons: list[Comparison]  # of candidates and arms
    claims: pd.DataFrame
    runs: Runs  # the tables that claims are judged by
    elsewhere: pd.DataFrame  # rows of the tables claims of other studies in the same folder; `judged` if by other code
    reference: str | None  # the arm that others are held against: see `Runs.reference`
    pairs: list[Pair]  # of the best configurations
    maps: dict[str, pd.DataFrame]  # by trial: of the images that cards show, 28×28, predicted and true
    compared: Compared | None  # the search's trials at equal fidelity
    importance: pd.DataFrame
    missing: list[str]  # what could not be made, and why


def gather(folder: Path, top: int, stressed: int | None, step: Said, data_dir: Path | None = None) -> Evidence:
    """Build the tables of the study in `folder` and find what there is in them. Raises RecordError and DataError.

    The best `top` configurations are compared with each other, and `stressed` test images corrupted (STRESSED by
    default). `data_dir` holds Fashion-MNIST, where it is not found by itself; `step` is told what is being done.
    """
    step("tables")
    configs = {trial.trial_id: trial.config for trial in tables.build(folder)}
    about = read_json(folder / "study.json")
    study = {"study": about.get("name", folder.name), "fidelity": about.get("fidelity")}
    trials, epochs, predictions = (tables.read(folder, name) for name in ("trials", "epochs", "predictions"))
    last = predictions[predictions.weights == "last"]
    predictions = predictions[predictions.weights == "best"]
    missing: list[str] = []
    found = {name: pd.DataFrame(columns=SCHEMAS[name].names) for name in OF_NETWORKS}
    images, maps, two, standings = None, {}, [], confirmed(trials)
    if len(predictions) and not {"train", "validation", "test", "seed"} <= (about.get("split") or {}).keys():
        missing.append("What the networks predicted: study.json does not say how the images were split.")
        predictions, last = predictions[:0], last[:0]
    if len(predictions):
        step("descriptors")
        images, splits = _images(folder, about, predictions, data_dir)
        step("failures")
        stored = {field.name: "float32" for field in SCHEMAS["images"] if field.type == "float"}  # as in the table
        found["images"] = images.table.reset_index().assign(**study).astype(stored)
        found["failures"] = failures.failures(predictions, images.table)
        two = pairs(predictions, found["failures"], standings[:top])
        with Networks(folder) as networks:
            again = Rerun(folder, trials, predictions, networks, step)
            if slowdown := again.slowdown():
                logger.warning("trained in bf16, which this processor has not: %.1f times slower than fp32", slowdown)
            found["attention"], found["attention_checks"] = again.attention(images), again.checks(images)
            found["stress"] = again.stress(images, stressed or STRESSED[trials.fidelity.iloc[0]])
            found["cue_conflict"] = again.cue_conflict(images)
            found["calibration"] = again.calibration(images, splits)
            in_order = [t for s in standings for t in s.trials.sort_values("seed").trial_id if t in again.there]
            maps = again.maps(images, on_show(two, found["failures"], next(iter(in_order), None)))
        missing += again.missing
    step("importance")
    compared, found["importance"] = _importance(folder, about, trials, epochs, configs, missing)
    step("claims")
    tables_of_networks = {name: found[name] for name in OF_NETWORKS if name != "failures"}
    runs = Runs(trials, epochs, predictions, **tables_of_networks, last_predictions=last)
    found["claims"] = verdicts.judge(runs).assign(**study)
    reference = runs.reference() if len(runs.arms) else None
    comparisons = measures.compared(runs, standings, reference)
    found["comparisons"] = _compared(comparisons).assign(**study)
    for name in ("images", "failures", "importance", "comparisons", "claims"):
        tables.write(folder, name, found[name], digest(*JUDGES) if name == "claims" else "")
    return Evidence(
        folder=folder, about=about, trials=trials, epochs=epochs, predictions=predictions, standings=standings,
        images=images, failures=found["failures"], attention=found["attention"], checks=found["attention_checks"],
        stress=found["stress"], calibration=found["calibration"], claims=found["claims"], runs=runs,
        elsewhere=_elsewhere(folder), comparisons=comparisons, reference=reference, pairs=two, maps=maps,
        compared=compared, importance=found["importance"], missing=missing,
    )  # fmt: skip


def _compared(comparisons: list[Comparison]) -> pd.DataFrame:
    """The table `comparisons`."""
    rows = [
        {
            "first": pair.first.name, "second": pair.second.name, "points": pair.estimate.mean,
            "low": pair.estimate.low, "high": pair.estimate.high, "seeds": pair.estimate.n,
            "ahead": int((pair.points > 0).sum()), "images": pair.estimate.images, "verdict": pair.verdict,
        }
        for pair in comparisons
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=SCHEMAS["comparisons"].names)


def _elsewhere(folder: Path) -> pd.DataFrame:
    """What the studies beside this one say of the claims; what cannot be read, or is of another version, nothing."""
    studies = [path.parent.parent for path in sorted(folder.parent.glob("*/tables/claims.parquet"))]
    others = []
    for study in studies:
        with suppress(RecordError, OSError):
            if study != folder:
                refuse_links(study)
                same = tables.key_of(study, "claims") == digest(*JUDGES)
                others.append(tables.earlier(study, "claims").assign(judged="" if same else ", judged by other code"))
    return (
        pd.concat(others, ignore_index=True) if others else pd.DataFrame(columns=[*SCHEMAS["claims"].names, "judged"])
    )


def _images(
    folder: Path, about: dict[str, Any], predictions: pd.DataFrame, data_dir: Path | None
) -> tuple[Images, Splits]:
    loaded = data.load(data_dir)
    first = predictions[predictions.trial_id == predictions.trial_id.iloc[0]].sort_values("image")
    places = first.image.to_numpy()
    labels = first.label.cat.codes.to_numpy().astype(np.uint8)
    if not np.array_equal(loaded.test_labels[places], labels):
        raise RecordError(
            f"{folder}: got predictions with other labels than the test images', must be of Fashion-MNIST"
        )
    parts = about["split"]
    try:
        sizes = (parts["train"], parts["validation"], parts["test"])
        split = data.split(loaded, *sizes, parts["seed"], parts.get("stratified", True))
    except ValueError as error:
        raise RecordError(f"{folder / 'study.json'}: {error}") from error
    pixels = loaded.test_images[places]
    described = cached(
        folder / "cache" / "descriptors.cached",
        digest(descriptors, places, parts, cv2.__version__),
        lambda: descriptors.describe(pixels, labels, split.train_images, split.train_labels),
    ).set_axis(pd.Index(places, name="image"))
    table = failures.per_image(predictions, described)
    order = pd.Series(np.arange(len(places)), index=places)
    return Images(pixels, descriptors.foreground(pixels), table, order), split


def _importance(
    folder: Path, about: dict[str, Any], trials: pd.DataFrame, epochs: pd.DataFrame, configs: dict[str, TrialConfig],
    missing: list[str],
) -> tuple[Compared | None, pd.DataFrame]:  # fmt: skip
    nothing = pd.DataFrame(columns=SCHEMAS["importance"].names)
    try:
        of_study = recorded_space(folder, about)
    except (SpaceError, KeyError, TypeError, ValueError) as error:
        missing.append(f"What mattered in the search: {str(error).splitlines()[0]}")
        return None, nothing
    compared = importance.at_equal_fidelity(trials, epochs, configs, of_study)
    if compared.trials.empty:
        return None, nothing
    made_from = (compared.trials, compared.parameters.astype(str), compared.distributions, compared.epoch)
    key = digest(importance, statistics, *made_from, SEED, optuna.__version__)
    found = cached(folder / "cache" / "importance.cached", key, lambda: importance.importance(compared, SEED))
    return compared, found.assign(study=trials.study.iloc[0], fidelity=trials.fidelity.iloc[0])
