"""What a study's page is made of: the tables, what the analysis finds in them, and the images behind them.

Expensive parts are kept in the study's `cache/` and made again when what they are made from has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from analysis import attention, descriptors, failures, importance, tables
from analysis.forward import Networks, cached, digest
from analysis.importance import Compared
from analysis.pairs import Pair, pairs
from analysis.schemas import KEY, SCHEMAS
from analysis.statistics import Standing, confirmed
from study import data, space_file
from study.config import TrialConfig
from study.data import Bytes
from study.records import RecordError, read_json
from study.space_file import SpaceError

SEED = 0  # of every sample that the analysis draws
INSPECTED = 100  # errors of each confirmed trial whose maps are measured, and as many matched correct images
KEY_NAMES = [field.name for field in KEY]

Step = Callable[[str], None]
Shared = tuple[Bytes, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Images:
    """The confirmed trials' test images: pixels uint8 (N, 28, 28), and the table `images`, by place in the test set."""

    pixels: Bytes
    masks: npt.NDArray[np.bool_]
    table: pd.DataFrame  # indexed by image, in the pixels' order
    places: pd.Series  # from an image to its row

    def at(self, image: int) -> Bytes:
        return np.asarray(self.pixels[self.places[image]])

    def mask(self, image: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self.masks[self.places[image]])


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
    pairs: list[Pair]  # of the best configurations
    maps: dict[str, pd.DataFrame]  # by trial: of the images that cards show, 28×28, predicted and true
    compared: Compared | None  # the search's trials at equal fidelity
    importance: pd.DataFrame
    missing: list[str]  # what could not be made, and why


def gather(folder: Path, top: int, step: Step) -> Evidence:
    """Build the tables of the study in `folder` and find what there is in them. Raises RecordError and DataError.

    The best `top` configurations are compared with each other. `step` is told what is being done.
    """
    step("tables")
    tables.build(folder)
    about = read_json(folder / "study.json")
    trials, epochs, predictions = (tables.read(folder, name) for name in ("trials", "epochs", "predictions"))
    missing: list[str] = []
    images, failed = None, pd.DataFrame(columns=SCHEMAS["failures"].names)
    if len(predictions):
        step("descriptors")
        images = _images(folder, about, predictions)
        step("failures")
        failed = failures.failures(predictions, images.table)
        tables.write(folder, "images", images.table.reset_index().assign(**_of_study(predictions)))
    tables.write(folder, "failures", failed)
    step("importance")
    compared, shares = _importance(folder, about, trials, epochs, missing)
    tables.write(folder, "importance", shares)
    standings = confirmed(trials)
    two = pairs(predictions, failed, standings[:top])
    attended, checked, maps = _attention(folder, predictions, two, images, step, missing)
    tables.write(folder, "attention", attended)
    tables.write(folder, "attention_checks", checked)
    return Evidence(
        folder, about, trials, epochs, predictions, standings, images, failed, attended, checked, two, maps,
        compared, shares, missing,
    )  # fmt: skip


def _of_study(predictions: pd.DataFrame) -> dict[str, Any]:
    return {name: predictions[name].iloc[0] for name in ("study", "fidelity")}


def _images(folder: Path, about: dict[str, Any], predictions: pd.DataFrame) -> Images:
    loaded = data.load()
    first = predictions[predictions.trial_id == predictions.trial_id.iloc[0]].sort_values("image")
    places = first.image.to_numpy()
    labels = first.label.cat.codes.to_numpy().astype(np.uint8)
    if not np.array_equal(loaded.test_labels[places], labels):
        raise RecordError(
            f"{folder}: got predictions with other labels than the test images', must be of Fashion-MNIST"
        )
    parts = about["split"]
    split = data.split(loaded, parts["train"], parts["validation"], parts["test"], parts["seed"])
    pixels = loaded.test_images[places]
    described = cached(
        folder / "cache" / "descriptors.parquet",
        digest(descriptors, places, parts),
        lambda: descriptors.describe(pixels, labels, split.train_images, split.train_labels),
    ).set_axis(pd.Index(places, name="image"))
    table = failures.per_image(predictions, described)
    order = pd.Series(np.arange(len(places)), index=places)
    return Images(pixels, descriptors.foreground(pixels), table, order)


def _importance(
    folder: Path, about: dict[str, Any], trials: pd.DataFrame, epochs: pd.DataFrame, missing: list[str]
) -> tuple[Compared | None, pd.DataFrame]:
    nothing = pd.DataFrame(columns=SCHEMAS["importance"].names)
    try:
        of_study = space_file.load(folder / "space.yaml").at(about.get("fidelity") or "full")
    except SpaceError as error:
        missing.append(f"What mattered in the search: {str(error).splitlines()[0]}")
        return None, nothing
    compared = importance.at_equal_fidelity(trials, epochs, of_study)
    if compared.trials.empty:
        return None, nothing
    key = digest(importance, compared.trials, compared.parameters.astype(str), compared.epoch)
    found = cached(folder / "cache" / "importance.parquet", key, lambda: importance.importance(compared, SEED))
    return compared, found.assign(study=trials.study.iloc[0], fidelity=trials.fidelity.iloc[0])


def _attention(
    folder: Path, predictions: pd.DataFrame, two: Sequence[Pair], images: Images | None, step: Step,
    missing: list[str],
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:  # fmt: skip
    """The tables `attention` and `attention_checks`, and the maps for cards, of the trials whose weights are there.

    Of the other trials, the tables keep what an earlier report found, so that a study may be kept without its weights.
    """
    if images is None:
        attended, checked = (pd.DataFrame(columns=SCHEMAS[name].names) for name in ("attention", "attention_checks"))
        return attended, checked, {}
    of = {str(trial): rows for trial, rows in predictions.groupby("trial_id", sort=True)}
    there = [trial for trial in of if (folder / "confirm" / trial / "best.pt").is_file()]
    lost = predictions[~predictions.trial_id.isin(there)]
    attended, checked = (_earlier(folder, name, lost) for name in ("attention", "attention_checks"))
    if len(lost):
        kept = attended.trial_id.nunique()
        missing.append(
            f"Maps of {len(of) - len(there)} of {len(of)} confirmed trials cannot be drawn: their weights, "
            "confirm/*/best.pt, are not in this folder."
            + (f" What an earlier report measured on those of {kept} is kept." if kept else "")
        )
    samples = {trial: _sample(of[trial], images) for trial in there}
    shared = (images.pixels, images.masks)
    with Networks(folder) as networks:
        step(f"where {len(there)} networks look")
        parts = dict(networks.over(there, _inspect, samples.__getitem__, shared, attention))
        step(f"whether the maps of {len(there)} networks are to be trusted")
        verdicts = dict(networks.over(there, _check, lambda trial: None, shared, attention))
        step("maps of the images on show")
        wanted = {trial: _on_show(trial, two, of[trial], images) for trial in there}
        drawn = dict(networks.over([t for t in there if len(wanted[t])], _maps, wanted.__getitem__, shared, attention))

    def keyed(found: dict[str, pd.DataFrame], kept: pd.DataFrame) -> pd.DataFrame:
        rows = [found[t].assign(**{n: of[t][n].iloc[0] for n in KEY_NAMES}) for t in there]
        both = pd.concat([*rows, kept] if len(kept) else rows, ignore_index=True)
        return both.sort_values("trial_id", kind="stable", ignore_index=True)

    if there:
        order = pd.Series(images.table.index)
        parts = {
            trial: found.assign(
                image=found.image.map(order), matched=found.matched.map(order, na_action="ignore").astype("Int32")
            )
            for trial, found in parts.items()
        }
        attended, checked = keyed(parts, attended), keyed(verdicts, checked)
    maps = {
        trial: found.assign(image=wanted[trial].image.to_numpy()).set_index("image") for trial, found in drawn.items()
    }
    return attended, checked, maps


def _earlier(folder: Path, table: str, lost: pd.DataFrame) -> pd.DataFrame:
    """What a table that an earlier report wrote says of the trials of these predictions; nothing where it is not there.

    Or where it is of another version, of which the columns are not what they are now.
    """
    try:
        known = pq.read_schema(folder / "tables" / f"{table}.parquet").equals(SCHEMAS[table])
    except (OSError, pa.ArrowException):
        known = False
    if not known:
        return pd.DataFrame(columns=SCHEMAS[table].names)
    same = ["trial_id", "config_id", "seed"]
    return tables.read(folder, table).merge(lost[same].drop_duplicates(), on=same)


def _by_place(predictions: pd.DataFrame, images: Images) -> pd.DataFrame:
    """A trial's predictions with each image's row among the pixels in place of its number."""
    return predictions.assign(image=predictions.image.map(images.places)).sort_values("image")


def _sample(predictions: pd.DataFrame, images: Images) -> pd.DataFrame:
    areas = images.table.area.to_numpy()
    return attention.matched_sample(_by_place(predictions, images), areas, INSPECTED, SEED)


def _on_show(trial: str, two: Sequence[Pair], predictions: pd.DataFrame, images: Images) -> pd.DataFrame:
    """The images of which cards show the trial's maps: image, row, label, predicted."""
    wanted = {image for pair in two if trial in pair.trials for image in pair.images}
    rows = predictions[predictions.image.isin(wanted)].sort_values("image")[["image", "label", "predicted"]]
    return rows.assign(row=rows.image.map(images.places)).reset_index(drop=True)


# What runs in the workers. `shared` is the test images and their foregrounds.


def _inspect(network: nn.Module, config: TrialConfig, sample: pd.DataFrame, shared: Shared) -> pd.DataFrame:
    return attention.inspect(network, shared[0], sample, shared[1], config.mean, config.std, SEED)


def _check(network: nn.Module, config: TrialConfig, nothing: None, shared: Shared) -> pd.DataFrame:
    return attention.checks(network, shared[0], config.mean, config.std, SEED)


def _maps(network: nn.Module, config: TrialConfig, rows: pd.DataFrame, shared: Shared) -> pd.DataFrame:
    """Of each row's image, the maps as 784 pixels: Grad-CAM for the predicted and the true class, and HiResCAM."""
    inputs = attention.normalised(shared[0][rows.row], config.mean, config.std)
    classes = torch.from_numpy(np.stack([rows[n].cat.codes for n in ("predicted", "label")], axis=1).astype(np.int64))
    found: dict[str, list[np.ndarray]] = {}
    for variant in attention.variants(network):
        maps, _ = attention.maps(network, inputs, classes, variant)
        shown = attention.enlarge(maps, attention.target(network)).astype(np.float32).reshape(len(rows), 2, -1)
        names = {"grad-cam": ("predicted", "true"), "hirescam": ("hirescam",)}[variant]
        found |= {name: list(shown[:, k]) for k, name in enumerate(names)}
    return pd.DataFrame(found)
