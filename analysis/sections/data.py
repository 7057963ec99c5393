"""The images: a sample of the test set, and what augmentation makes of one."""

from __future__ import annotations

import numpy as np
import torch

from analysis import figures
from analysis.blocks import Picture, Section
from analysis.evidence import SEED, Evidence
from analysis.rerun import Images
from study.augment import augment
from study.config import Augmentation
from study.data import CLASS_NAMES
from study.records import read_trials

EACH = 8  # images of a class, and draws of an augmented image
AUGMENTED = (0, 3, 5, 8)  # classes whose augmentation is shown: a top, a dress, a sandal, a bag


def the_images(evidence: Evidence) -> Section:
    title = "The images"
    if evidence.images is None:
        return Section(title, ["Nothing was predicted, so no images are shown."])
    pictures = [_sample(evidence.images)]
    settings = {
        record.arm or record.config_id: record.config.augmentation
        for record in read_trials(evidence.folder, "confirm")
        if record.config.augmentation.strength > 0
    }
    if settings:
        name = max(settings, key=lambda arm: (settings[arm].strength, arm))
        pictures.append(_augmented(evidence.images, name, settings[name]))
    agreement = evidence.images.table.mask_agreement
    said = (
        "The foreground, on which area, silhouette and the maps' share of the garment rest, is x > 0, holes filled, "
        "the largest part. By Otsu's threshold, which leaves dark parts out, it would be another: intersection over "
        f"union {agreement.mean():.2f} on average, below 0.9 for {int((agreement < 0.9).sum()):,} of "
        f"{len(agreement):,} test images."
    )
    return Section(title, [said], pictures=pictures)


def _sample(images: Images) -> Picture:
    rng = np.random.default_rng(SEED)
    labels = images.table.label.cat.codes.to_numpy()
    rows = [images.pixels[rng.permutation(np.flatnonzero(labels == k))[:EACH]] for k in range(len(CLASS_NAMES))]
    return Picture(
        "sample",
        figures.grid(rows, CLASS_NAMES),
        f"A random sample of the test images, {EACH} of each of the ten classes.",
        f"A random sample of the test images, {EACH} of each class. Table: images.",
    )


def _augmented(images: Images, name: str, settings: Augmentation) -> Picture:
    labels, rows = images.table.label.cat.codes.to_numpy(), []
    shown = [k for k in AUGMENTED if k in labels] or [int(labels[0])]  # a small test set may lack a class
    generator = torch.Generator().manual_seed(SEED)
    for k in shown:
        first = images.pixels[np.flatnonzero(labels == k)[0]]
        copies = torch.from_numpy(first.copy()).float().div(255).expand(EACH - 1, 1, *first.shape)
        drawn = augment(copies.clone(), settings, generator)[:, 0].mul(255).round().byte().numpy()
        rows.append(np.concatenate([first[None], drawn]))
    parts = {
        "rotation": (settings.rotation, "±{:g}°"), "translation": (100 * settings.translation, "±{:g} %"),
        "scale": (100 * settings.scale, "±{:g} %"), "shear": (settings.shear, "±{:g}°"),
        "flip": (settings.flip, "probability {:g}"), "erasing": (settings.erasing, "probability {:g}"),
    }  # fmt: skip
    said = ", ".join(f"{part} {how.format(settings.strength * value)}" for part, (value, how) in parts.items() if value)
    return Picture(
        "augmented",
        figures.grid(rows, [CLASS_NAMES[k] for k in shown]),
        f"{len(shown)} test images, each followed by {EACH - 1} random draws of the augmentation of {name}.",
        f"What the augmentation of {name} makes of an image (the first of each row): {said}. The networks met training "
        "images so changed. Table: trials, hp_augmentation_*.",
    )
