"""What the confirmed networks do when they are run again: where they look, under corruptions, on validation images.

Of trials whose weights are gone, the tables keep what an earlier report found: a study may be kept without them. Where
other trials have theirs, only what the same code found on the same images is kept: both are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from analysis import attention, calibration, corruptions, cue_conflict, descriptors, statistics, stress, tables
from analysis.forward import Networks, load_network, source
from analysis.schemas import KEY, SCHEMAS
from study.config import TrialConfig
from study.data import Bytes, Splits
from study.files import RecordError
from study.provenance import has_bf16
from study.trainer import Precision

SEED = 0  # of every sample that is drawn here
INSPECTED = 100  # errors of each confirmed trial whose maps are measured, and as many matched correct images
# Test images that are corrupted. 10,000 take a core 84 s for FashionCNN and 26 minutes for ResNet-18, in bf16 on an
# Intel Xeon: to spare the candidates behind the best would save less than a rule for it costs.
STRESSED = {"full": 10_000, "preview": 200}
KEY_NAMES = [field.name for field in KEY]

Mask = npt.NDArray[np.bool_]


class Said(Protocol):
    """Is told what is being done, and how much of it is."""

    def __call__(self, said: str, done: int = 0, of: int = 1) -> None: ...


@dataclass(frozen=True)
class Images:
    """The confirmed trials' test images: pixels uint8 (N, 28, 28), and the table `images`, by place in the test set."""

    pixels: Bytes
    masks: Mask
    table: pd.DataFrame  # indexed by image, in the pixels' order
    places: pd.Series  # from an image to its row

    def at(self, image: int) -> Bytes:
        return np.asarray(self.pixels[self.places[image]])

    def mask(self, image: int) -> Mask:
        return np.asarray(self.masks[self.places[image]])


class Rerun:
    """The confirmed networks of the study in `folder`; each method makes a table and writes it.

    Trials without weights are named once in `missing`. Raises RecordError where weights cannot be read, nor what an
    earlier report found with weights that are gone: it is not written over.
    """

    def __init__(
        self, folder: Path, trials: pd.DataFrame, predictions: pd.DataFrame, networks: Networks, step: Said
    ) -> None:
        self.folder, self.predictions, self.networks, self.step = folder, predictions, networks, step
        self.of = {str(trial): rows for trial, rows in predictions.groupby("trial_id", sort=True)}
        self.there = [trial for trial in self.of if (folder / "confirm" / trial / "best.pt").is_file()]
        precision = trials.set_index("trial_id").precision.fillna("fp32")
        self.precision: dict[str, Precision] = precision.loc[self.there].to_dict()
        self.full = bool((trials.fidelity == "full").all())  # a preview's page is to be made in little time
        self.lost = predictions[~predictions.trial_id.isin(self.there)]

    @property
    def missing(self) -> list[str]:
        if self.lost.empty:
            return []
        gone, kept = len(self.of) - len(self.there), self._earlier("attention").trial_id.nunique()
        return [
            f"Maps of {gone} of {len(self.of)} confirmed trials cannot be drawn: their weights, confirm/*/best.pt, are "
            "not in this folder." + (f" What an earlier report measured with those of {kept} is kept." if kept else "")
        ]

    def slowdown(self) -> float | None:
        """Return how many times slower bf16 is than fp32 where networks need it and the processor has none."""
        needed = [trial for trial in self.there if self.precision[trial] == "bf16"]
        if not needed or has_bf16():
            return None
        network, _ = load_network(self.folder / "confirm" / needed[0] / "best.pt")
        images = torch.zeros(8, 1, 28, 28)

        def seconds(enabled: bool) -> float:
            started = time.perf_counter()
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                network(images)
            return time.perf_counter() - started

        bf16, fp32 = (min(seconds(enabled) for _ in range(3)) for enabled in (True, False))
        return bf16 / fp32

    @property
    def _networks(self) -> str:
        return f"{len(self.there)} network{'s' * (len(self.there) != 1)}"

    def attention(self, images: Images) -> pd.DataFrame:
        """The table `attention`: maps of a sample of errors and of matched correct images."""
        samples = {trial: _sample(self.of[trial], images) for trial in self.there}
        shared = (images.pixels, images.masks, self.full)
        said = f"attention of {self._networks}"
        found, key = self._over(said, _inspect, samples, shared, attention)
        order = pd.Series(images.table.index)
        for trial, rows in found.items():
            matched = rows.matched.map(order, na_action="ignore").astype("Int32")
            found[trial] = rows.assign(image=rows.image.map(order), matched=matched)
        return self._table("attention", found, key)

    def checks(self, images: Images) -> pd.DataFrame:
        """The table `attention_checks`: whether the maps are to be trusted."""
        wrong = {trial: _wrong(self.of[trial], images) for trial in self.there}
        said = f"whether the maps of {self._networks} are to be trusted"
        return self._table(
            "attention_checks", *self._over(said, _check, wrong, (images.pixels, self.full), attention, statistics)
        )

    def maps(self, images: Images, on_show: Mapping[str, set[int]]) -> dict[str, pd.DataFrame]:
        """By trial, the maps that cards show, indexed by image: 28×28, predicted and true."""
        rows = {trial: _on_show(self.of[trial], on_show.get(trial, set()), images) for trial in self.there}
        wanted = {trial: of for trial, of in rows.items() if len(of)}
        found, _ = self._over("maps of the images on show", _maps, wanted, (images.pixels,), attention)
        return {
            trial: rows.assign(image=wanted[trial].image.to_numpy()).set_index("image") for trial, rows in found.items()
        }

    def stress(self, images: Images, most: int) -> pd.DataFrame:
        """The table `stress`: accuracy under every corruption, on `most` of the test images, the same for all."""
        chosen = stress.chosen(len(images.pixels), most, SEED)
        labels = images.table.label.cat.codes.to_numpy(np.uint8)[chosen]
        shared = (images.pixels[chosen], labels, images.table.index.to_numpy()[chosen])
        said = f"{self._networks} under {len(corruptions.CORRUPTIONS)} corruptions"
        found = self._over(said, _stress, self.precision, shared, stress, corruptions, attention, descriptors)
        return self._table("stress", *found)

    def cue_conflict(self, images: Images) -> pd.DataFrame:
        """Write and return the table `cue_conflict`: by which cue networks decide, where two are in conflict."""
        labels = images.table.label.cat.codes.to_numpy(np.uint8)
        pixels, made_of = cue_conflict.conflicts(images.pixels, images.masks, labels, SEED)
        order = images.table.index.to_numpy()
        made_of = made_of.assign(**{name: order[made_of[name]] for name in ("shape_image", "texture_image")})
        said = f"{len(self.there)} networks and {len(pixels):,} images whose shape and texture are in conflict"
        found = self._over(said, _cue_conflict, self.precision, (pixels, made_of), cue_conflict, stress, attention)
        return self._table("cue_conflict", *found)

    def calibration(self, images: Images, splits: Splits) -> pd.DataFrame:
        """The table `calibration`: before temperature scaling and, where there are weights to fit it with, after."""
        labels = images.table.label.cat.codes.to_numpy(np.uint8)
        shared = (splits.val_images, splits.val_labels, images.pixels, labels)
        said = f"calibration of {self._networks}"
        found, key = self._over(said, _calibrate, self.precision, shared, calibration, attention)
        return self._table("calibration", found, key, calibration.unscaled)

    def _over(
        self, said: str, work: Callable[..., pd.DataFrame], own: Mapping[str, Any], shared: Any, *sources: ModuleType
    ) -> tuple[dict[str, pd.DataFrame], str]:
        """What `work` finds of each trial in `own`, with what is the trial's, and a digest of what makes it."""
        if own:
            self.step(said, 0, len(own))
        found: dict[str, pd.DataFrame] = {}
        key = source(work, shared, *sources)
        for trial, rows in self.networks.over(list(own), work, own.__getitem__, shared, key):
            found[trial] = rows
            self.step(said, len(found), len(own))
        return found, key

    def _table(
        self, name: str, found: dict[str, pd.DataFrame], key: str,
        instead: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """What was found of each trial, and what is kept of those without weights; `key` is a digest of its sources.

        Of those of which nothing is kept, what `instead` makes of their predictions.
        """
        earlier, key = self._kept(name, key)
        if instead:
            gone = self.lost[~self.lost.trial_id.isin(earlier.trial_id)]
            found |= {str(trial): instead(rows) for trial, rows in gone.groupby("trial_id")}
        rows = [rows.assign(trial_id=trial) for trial, rows in found.items()]
        keys = self.predictions[KEY_NAMES].drop_duplicates("trial_id")
        made = [pd.concat(rows, ignore_index=True).merge(keys, on="trial_id")] if rows else []
        both = pd.concat([*made, earlier] if len(earlier) or not made else made, ignore_index=True)
        tables.write(self.folder, name, both.sort_values("trial_id", kind="stable", ignore_index=True), key)
        return tables.read(self.folder, name)

    def _kept(self, name: str, key: str) -> tuple[pd.DataFrame, str]:
        """What is kept of trials without weights, and the table's key: where none has weights, all, and its own."""
        earlier, theirs = self._earlier(name), tables.key_of(self.folder, name)
        if not self.there:
            return earlier, theirs if len(earlier) else key
        if len(earlier) and theirs != key:
            gone = earlier.trial_id.nunique()
            got = f"{gone} networks measured by other code or libraries, or on other images, whose weights are gone"
            must = "as the others are; put confirm/*/best.pt back, or delete the table, and with it what it alone says"
            raise RecordError(f"{self.folder / 'tables' / name}.parquet: got {got}, must be {must}")
        return earlier, key

    def _earlier(self, table: str) -> pd.DataFrame:
        """What an earlier report's table says of the trials without weights."""
        same = ["trial_id", "config_id", "seed"]
        if self.lost.empty:
            return pd.DataFrame(columns=SCHEMAS[table].names)
        return tables.earlier(self.folder, table).merge(self.lost[same].drop_duplicates(), on=same)


def _by_place(predictions: pd.DataFrame, images: Images) -> pd.DataFrame:
    """A trial's predictions with each image's row among the pixels in place of its number."""
    return predictions.assign(image=predictions.image.map(images.places)).sort_values("image")


def _sample(predictions: pd.DataFrame, images: Images) -> pd.DataFrame:
    areas = images.table.area.to_numpy()
    return attention.matched_sample(_by_place(predictions, images), areas, INSPECTED, SEED)


def _wrong(predictions: pd.DataFrame, images: Images) -> Mask:
    """Which of the images the trial gets wrong, (N,)."""
    by_place = _by_place(predictions, images)
    return np.asarray(by_place.label != by_place.predicted)


def _on_show(predictions: pd.DataFrame, wanted: set[int], images: Images) -> pd.DataFrame:
    """The images of which cards show the trial's maps: image, row, label, predicted."""
    rows = predictions[predictions.image.isin(wanted)].sort_values("image")[["image", "label", "predicted"]]
    return rows.assign(row=rows.image.map(images.places)).reset_index(drop=True)


# What runs in the workers. `own` is the trial's, `shared` is what all of them are shown.


def _inspect(
    network: nn.Module, config: TrialConfig, own: pd.DataFrame, shared: tuple[Bytes, Mask, bool]
) -> pd.DataFrame:
    images, masks, full = shared
    return attention.inspect(network, images, own, masks, config.mean, config.std, SEED, full)


def _check(network: nn.Module, config: TrialConfig, own: Mask, shared: tuple[Bytes, bool]) -> pd.DataFrame:
    return attention.checks(network, shared[0], own, config.mean, config.std, SEED, shared[1])


def _stress(network: nn.Module, config: TrialConfig, own: Precision, shared: tuple[Bytes, Bytes, Any]) -> pd.DataFrame:
    return stress.stress(network, config, *shared, SEED, own)


def _cue_conflict(
    network: nn.Module, config: TrialConfig, own: Precision, shared: tuple[Bytes, pd.DataFrame]
) -> pd.DataFrame:
    return cue_conflict.decisions(network, config, *shared, own)


def _calibrate(
    network: nn.Module, config: TrialConfig, own: Precision, shared: tuple[Bytes, Bytes, Bytes, Bytes]
) -> pd.DataFrame:
    """Calibration on the test images, by the temperature that suits the validation images.

    Of these the network was chosen by the best epoch only. In the precision of the training, in which the test images
    were predicted too.
    """
    val_images, val_labels, images, labels = shared

    def logits(pixels: Bytes) -> npt.NDArray[np.float64]:
        inputs = attention.normalised(pixels, config.mean, config.std)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=own == "bf16"):
            found = torch.cat([network(part) for part in inputs.split(attention.BATCH)])
        return np.asarray(found.double().numpy())

    return calibration.calibration(logits(val_images), val_labels, logits(images), labels)


def _maps(network: nn.Module, config: TrialConfig, own: pd.DataFrame, shared: tuple[Bytes]) -> pd.DataFrame:
    """Of each row's image, the maps as 784 pixels: Grad-CAM for the predicted and the true class, and HiResCAM."""
    inputs = attention.normalised(shared[0][own.row], config.mean, config.std)
    classes = torch.from_numpy(np.stack([own[n].cat.codes for n in ("predicted", "label")], axis=1).astype(np.int64))
    found: dict[str, list[np.ndarray]] = {}
    for variant in attention.variants(network, by_pixel=False):
        maps, _ = attention.maps(network, inputs, classes, variant)
        shown = attention.enlarge(maps, attention.target(network)).astype(np.float32).reshape(len(own), 2, -1)
        names = {"grad-cam": ("predicted", "true"), "hirescam": ("hirescam",)}[variant]
        found |= {name: list(shown[:, k]) for k, name in enumerate(names)}
    return pd.DataFrame(found)
