"""Train, evaluate, save and load one network. Knows nothing of how trials are chosen or where they run."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from study.augment import augment
from study.config import TrialConfig
from study.data import CLASS_NAMES, Splits
from study.files import misfit, printable, write_whole
from study.models import build_model
from study.optimizers import build_optimizer, build_schedule
from study.records import EpochRecord

Precision = Literal["bf16", "fp32"]
# Images at a time. On a CPU 1,000 are slower than 250 and take more memory; a GPU wants many.
EVALUATION_BATCH = {"cpu": 250, "cuda": 1000}


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats and accuracy in [0, 1] over a split."""

    loss: float
    accuracy: float


class Trainer:
    """One training run of `config` from `seed`: call `run_epoch` up to `config.epochs` times.

    The splits live on the device as uint8; batches are drawn, augmented and normalised there. Nothing waits for the
    device within an epoch. On a CPU, equal configuration, seed, precision and number of threads give equal losses to
    the last bit, also across `save` and `load`.
    """

    def __init__(
        self, config: TrialConfig, seed: int, splits: Splits, device: torch.device, precision: Precision
    ) -> None:
        self.config, self.seed, self.device, self.precision = config, seed, device, precision
        self.epoch = 0  # finished epochs
        self.history: list[EpochRecord] = []
        torch.manual_seed(seed)  # dropout draws from the global generator
        self.order = torch.Generator().manual_seed(seed)
        self.draws = torch.Generator(device).manual_seed(seed)
        self.model = build_model(config.model, seed).to(device).to(memory_format=torch.channels_last)
        self.train_images, self.train_labels = self._resident(splits.train_images, splits.train_labels)
        self.val_images, self.val_labels = self._resident(splits.val_images, splits.val_labels)
        self.optimizer = build_optimizer(self.model.parameters(), config.optimizer)
        # A last batch of one image joins the one before: batch norm cannot normalise a single value of a 1×1 map.
        self.steps = math.ceil((len(self.train_labels) - 1) / config.batch_size)  # of an epoch
        self.schedule = build_schedule(self.optimizer, config.schedule, config.epochs, self.steps)
        self.averaged = (
            AveragedModel(self.model, multi_avg_fn=_average(config.ema), use_buffers=True) if config.ema else None
        )
        self.mix = _mix(config)
        self.best_weights: dict[str, Tensor] | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated: of averaged weights, where they are averaged."""
        return self.model if self.averaged is None else self.averaged.module

    @property
    def best(self) -> EpochRecord:
        """The epoch of the highest validation accuracy, the earliest of equals. Raises ValueError before the first."""
        return max((r for r in self.history if not r.diverged), key=lambda r: r.val_accuracy)

    def run_epoch(self) -> EpochRecord:
        """Train one epoch, validate, and keep the weights if no epoch before was better."""
        started, cpu_started = time.perf_counter(), time.process_time()
        lr = self.optimizer.param_groups[0]["lr"]
        train = self._train()
        trained = time.perf_counter()
        validation = self.evaluate(self.val_images, self.val_labels)
        self.epoch += 1
        record = EpochRecord(
            epoch=self.epoch,
            lr=float(lr),
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu_started,
            images_per_s=len(self.train_labels) / (trained - started),
            diverged=not (math.isfinite(train.loss) and math.isfinite(validation.loss)),
        )
        self.history.append(record)
        if not record.diverged and self.best is record:
            self.best_weights = copy.deepcopy(self.evaluated.state_dict())
        return record

    def evaluate(self, images: Tensor, labels: Tensor) -> Evaluation:
        """Loss and accuracy in evaluation mode. `images` uint8 (N, 1, 28, 28) and `labels` int64 on the device."""
        logits = self._logits(images)
        loss = functional.cross_entropy(logits, labels)
        return Evaluation(loss.item(), (logits.argmax(1) == labels).double().mean().item())

    def evaluate_train(self) -> Evaluation:
        """Evaluate the training split, without augmentation, with the weights that the network has now."""
        return self.evaluate(self.train_images, self.train_labels)

    def finish(self) -> Evaluation:
        """Take the best epoch's weights, and evaluate the training split with them. Raises ValueError before one."""
        if self.best_weights is None:
            raise ValueError("trainer: got no finite epoch, must have trained at least one")
        self.evaluated.load_state_dict(self.best_weights)
        return self.evaluate_train()

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Class probabilities (N, 10) of uint8 images (N, 28, 28), in evaluation mode."""
        logits = self._logits(_tensor(images)[:, None].to(self.device))
        return functional.softmax(logits, 1).cpu().numpy()

    def save(self, path: Path) -> None:
        """Write everything that `load` needs to go on bit for bit: to a temporary file first, then renamed."""
        state = {
            "config_id": self.config.config_id,
            "seed": self.seed,
            "epoch": self.epoch,
            "history": [asdict(record) for record in self.history],
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "draws": self.draws.get_state(),
            "global": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        save_whole(path, state)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote, executing nothing from the file.

        Raises ValueError where it is not whole; OSError, MemoryError or torch.OutOfMemoryError where it may well be.
        """
        content = path.read_bytes()  # whose errors are the disk's: torch.load also raises OSError where a file is cut
        try:
            state = load_whole(content)
            if (state["config_id"], state["seed"]) != (self.config.config_id, self.seed):
                raise ValueError(f"configuration {state['config_id']} from seed {state['seed']}")
            self.model.load_state_dict(state["model"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.history = [EpochRecord(**values) for values in state["history"]]
            if wrong := misfit(self.history, list[EpochRecord]):
                raise ValueError(f"history {wrong}")
            if [record.epoch for record in self.history] != [*range(1, state["epoch"] + 1)]:
                raise ValueError(f"epoch {state['epoch']} after {len(self.history)} epochs")
            best = state["best_weights"]
            self.best_weights = None if best is None else {k: v.to(self.device) for k, v in best.items()}
            self.order.set_state(state["order"])
            self.draws.set_state(state["draws"])
            torch.set_rng_state(state["global"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda"], self.device)
            self.epoch = state["epoch"]
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a cut or foreign file fails in as many ways as there are bytes
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
            raise ValueError(printable(f"{path}: got {reason}, must be a checkpoint of this trial")) from error

    def _train(self) -> Evaluation:
        config = self.config
        self.model.train()
        order = torch.randperm(len(self.train_labels), generator=self.order).to(self.device)
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        for batch in order.tensor_split([step * config.batch_size for step in range(1, self.steps)]):
            labels = self.train_labels[batch]
            images = augment(self.train_images[batch].float().div_(255), config.augmentation, self.draws)
            targets = labels
            if self.mix is not None:
                images, targets = self.mix(images, labels)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.model(self._normalised(images))
            loss = functional.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            loss_sum += loss.detach() * len(batch)
            correct += (logits.detach().argmax(1) == labels).sum()
        n = len(self.train_labels)
        return Evaluation(loss_sum.item() / n, correct.item() / n)

    @torch.inference_mode()
    def _logits(self, images: Tensor) -> Tensor:
        network = self.evaluated.eval()
        parts = []
        for part in images.split(EVALUATION_BATCH[self.device.type]):
            inputs = self._normalised(part.float().div_(255))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = network(inputs).float()
                if self.config.flip_test:
                    logits = (logits + network(inputs.flip(-1)).float()) / 2
            parts.append(logits)
        return torch.cat(parts)

    def _normalised(self, images: Tensor) -> Tensor:
        normalised = (images - self.config.mean) / self.config.std
        return normalised.contiguous(memory_format=torch.channels_last)

    def _resident(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        return _tensor(images)[:, None].to(self.device), _tensor(labels).long().to(self.device)


def _average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return what averages weights exponentially over the steps, and batch norm's statistics with them.

    Polyak & Juditsky 1992; Tarvainen & Valpola 2017, arXiv:1703.01780. The decay of the n-th step is at most
    (1 + n) / (10 + n), as TensorFlow's, so that a short training does not remember how it began.
    """

    def average(averaged: Any, current: Any, steps: Tensor) -> None:
        n = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, steps)

    return average


def _mix(config: TrialConfig) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return what mixes the images of a batch and their labels, of both kinds one at random; None for no mixing.

    Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899. Both draw from torch's global generator.
    """
    if not (config.mixup or config.cutmix):
        return None
    from torchvision.transforms import v2  # here, for it takes a second that few trainings need

    kinds: list[nn.Module] = []
    if config.mixup:
        kinds.append(v2.MixUp(alpha=config.mixup, num_classes=len(CLASS_NAMES)))
    if config.cutmix:
        kinds.append(v2.CutMix(alpha=config.cutmix, num_classes=len(CLASS_NAMES)))
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.RandomChoice(kinds)
    return mix


def _tensor(array: npt.NDArray[np.uint8]) -> Tensor:
    # Arrays out of Ray's object store are read-only; torch warns of that, and nothing here writes to them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def save_whole(path: Path, state: dict[str, Any]) -> None:
    """`torch.save` and a checksum, whole or not at all.

    The file is as `torch.load` reads it, which looks at no checksum, but for the 32 bytes of SHA-256 at its end.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_whole(path, buffer.getbuffer())


def load_whole(content: bytes) -> Any:
    """What `save_whole` wrote, on the CPU; nothing in it is executed. Raises an exception of any kind on all else."""
    if hashlib.sha256(memoryview(content)[:-32]).digest() != content[-32:]:
        raise ValueError("a file that was changed or cut since")
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        parts = file.infolist()
    if any(part.compress_type for part in parts) or sum(part.file_size for part in parts) > len(content):
        raise ValueError("compressed parts")  # a small file could hold more than there is memory for
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
