"""Tiny networks for tests, trainers of them, and what of a trainer can be compared."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from study.config import SGD, Augmentation, FashionCNN, ResNet, Step, TrialConfig
from study.data import Splits
from study.records import EpochRecord
from study.trainer import Precision, Trainer

CPU = torch.device("cpu")
CNN = FashionCNN(channels=(4, 8), hidden=(16,), dropout=0.25)
RESNET = ResNet("resnet", blocks=(1, 1), widths=(8, 16), stem=8)
AUGMENTED = Augmentation(1, rotation=10, translation=0.1, scale=0.1, shear=5, flip=0.5, erasing=0.3)
# Everything that keeps a state: dropout, augmentation, a schedule that steps, momentum, batch statistics.
STATEFUL = TrialConfig(
    CNN,
    SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    Step(step_size=2, gamma=0.5),
    AUGMENTED,
    epochs=6,
    batch_size=64,
    label_smoothing=0.1,
)
PLAIN = TrialConfig(FashionCNN(channels=(4, 8), hidden=(16,), dropout=0.0), SGD(lr=0.05), batch_size=64)


def trainer_of(config: TrialConfig, splits: Splits, seed: int = 0, precision: Precision = "fp32") -> Trainer:
    return Trainer(config, seed, splits, CPU, precision)


def measured(records: list[EpochRecord]) -> list[EpochRecord]:
    """The records without what no seed fixes: times."""
    return [replace(record, seconds=0.0, cpu_seconds=0.0, images_per_s=0.0) for record in records]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(trainer: Trainer, epochs: int) -> Trainer:
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer
