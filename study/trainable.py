"""A Trainer as a Ray Tune trainable: one step is one epoch, and a trial goes on from its own checkpoint."""

from __future__ import annotations

import io
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ray import _raylet, tune
from ray.util.metrics import Gauge

from study.config import from_dict
from study.data import CLASS_NAMES, Splits
from study.files import drop_temporaries, write_whole
from study.records import WEIGHTS, read_epochs
from study.trainer import Precision, Trainer, save_whole

# A checkpoint is written as soon as what one costs is below this share of the time since the last.
CHECKPOINT_SHARE = 0.03


@dataclass(frozen=True)
class Job:
    """What a worker is told of its trial, in plain values."""

    trial_id: str
    label: str
    config: dict[str, Any]
    seed: int
    max_epochs: int
    folder: str
    precision: Precision
    cores: int
    gpus: float
    confirm: bool  # predict the test split at the end, and keep the weights


class TrialTrainable(tune.Trainable):
    """Runs one trial; each step reports `epoch`, `val_accuracy`, `best_val_accuracy` and the new epoch records."""

    def splits_of_study(self) -> Splits:
        """The images that every trial of the study works on; given by a subclass, which Ray sends to the workers."""
        raise NotImplementedError

    def setup(self, config: dict[str, Any]) -> None:
        """Take note of the trial only: it begins with its first step, for Tune tries again just what fails in one."""
        self.job = Job(**config["job"])
        self.folder = Path(self.job.folder)
        self.begun = False
        vars(self).pop("trainer", None)  # of the trial before, whose memory this one needs

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The worker goes on with another trial."""
        self.setup(new_config)
        return True

    def _begin(self) -> None:
        """Build the trial's trainer, or take it up from its checkpoint."""
        self.splits = self.splits_of_study()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(self.job.cores)
        if self.device.type == "cuda" and self.job.gpus < 1:  # Ray counts shares of a GPU, but holds nobody to them
            torch.cuda.set_per_process_memory_fraction(self.job.gpus)
        drop_temporaries(self.folder)
        self.trainer = self._fresh_trainer()
        self.discarded: str | None = None
        if self._checkpoint.exists():
            try:
                self.trainer.load(self._checkpoint)
            except ValueError as error:  # not whole: the trial starts again from its first epoch
                self.discarded = str(error)
                del self.trainer
                self.trainer = self._fresh_trainer()
        recorded = {record.epoch for record in read_epochs(self.folder)}
        # Where an interruption came between an epoch's checkpoint and its record, no scheduler has judged it.
        self.unheard = bool(self.trainer.history) and self.trainer.epoch not in recorded
        self.reported = 0  # epochs of the history that have been reported
        self.started = time.time()
        self.saved_at = time.monotonic()
        self.costs: deque[float] = deque(maxlen=3)  # seconds that the last checkpoints took
        self.gauges = {
            "val_accuracy": Gauge("study_val_accuracy", "Validation accuracy of the last epoch, 0 to 1", ("trial",)),
            "images_per_s": Gauge("study_images_per_s", "Training images a second", ("trial",)),
        }

    def __repr__(self) -> str:
        return f"{self.folder.parent.parent.name} {self.folder.parent.name}"  # the actor's name in Ray's dashboard

    def step(self) -> dict[str, Any]:
        # Not public, but of the names that the dashboard shows the one that can change. Ray sets its own after a step.
        _raylet.setproctitle(f"ray::{self.job.label}")  # type: ignore[attr-defined]
        if not self.begun:
            self._begin()
            self.begun = True
        trainer = self.trainer
        if not (self.unheard or self._done()):  # a resumed trial may have ended just before it could report
            record = trainer.run_epoch()
            for name, gauge in self.gauges.items():
                gauge.set(getattr(record, name), {"trial": self.job.label})
        self.unheard = False
        done, last = self._done(), trainer.history[-1]
        self._save_if_due(done)
        records, self.reported = trainer.history[self.reported :], len(trainer.history)
        discarded, self.discarded = self.discarded, None
        return {
            "epoch": trainer.epoch,
            "length": self.job.max_epochs,
            "val_accuracy": 0.0 if last.diverged else last.val_accuracy,
            "best_val_accuracy": max((r.val_accuracy for r in trainer.history if not r.diverged), default=0.0),
            "records": [asdict(record) for record in records],
            "diverged": last.diverged,
            "discarded": discarded,
            "started": self.started,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "ending": self._ending() if done and not last.diverged else {},
            "done": done,
        }

    def _fresh_trainer(self) -> Trainer:
        return Trainer(from_dict(self.job.config), self.job.seed, self.splits, self.device, self.job.precision)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _done(self) -> bool:
        history = self.trainer.history
        return self.trainer.epoch >= self.job.max_epochs or (bool(history) and history[-1].diverged)

    def _save_if_due(self, done: bool) -> None:
        now = time.monotonic()
        # Not the last one's cost: a disk that was busy once must not keep hours of work at risk.
        usual = median_low(self.costs) if self.costs else 0.0
        if done or usual <= CHECKPOINT_SHARE * (now - self.saved_at):
            self.trainer.save(self._checkpoint)
            self.saved_at = time.monotonic()
            self.costs.append(self.saved_at - now)

    def _ending(self) -> dict[str, Any]:
        """Return the best epoch; in confirm also what its weights and the last's are worth, predictions kept."""
        ending: dict[str, Any] = {"best_epoch": self.trainer.best.epoch}
        if not self.job.confirm:
            return ending
        tables = []
        for weights in WEIGHTS:  # the last epoch's come first: the best's then take their place
            clean = self.trainer.evaluate_train() if weights == "last" else self.trainer.finish()
            suffix = "_last" if weights == "last" else ""
            table, measured = self._predict(weights)
            tables.append(table)
            measured |= {"train_accuracy_clean": clean.accuracy, "train_loss_clean": clean.loss}
            ending |= {name + suffix: value for name, value in measured.items()}
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(tables), buffer, compression="zstd")
        write_whole(self.folder / "predictions.parquet", buffer.getvalue())
        save_whole(self.folder / "best.pt", {"config": self.job.config, "weights": self.trainer.best_weights})
        return ending

    def _predict(self, weights: str) -> tuple[pa.Table, dict[str, float]]:
        """Return the predictions of the test split, and what they are worth."""
        probabilities = self.trainer.predict(self.splits.test_images)
        labels = self.splits.test_labels.astype(np.int64)
        predicted = probabilities.argmax(1)
        of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        table = pa.table(
            {
                "weights": pa.repeat(pa.scalar(WEIGHTS.index(weights), pa.int8()), len(labels)),
                "image": self.splits.test_index.astype(np.int32),
                "label": labels.astype(np.int8),
                "predicted": predicted.astype(np.int8),
                "confidence": probabilities.max(1),
                **{f"p_{c}": np.ascontiguousarray(probabilities[:, c]) for c in range(len(CLASS_NAMES))},
            }
        )
        return table, {
            "test_accuracy": float((predicted == labels).mean()),
            "test_loss": float(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).mean()),
        }
