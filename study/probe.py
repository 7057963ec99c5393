"""What a network costs: parameters, arithmetic, and the speed that a few measured steps reach.

Imported by fresh processes that must measure soon: nothing here needs Ray or Optuna.
"""

from __future__ import annotations

import functools
import math
import resource
import signal
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from study.config import Adam, Augmentation, Model, ResNet, TrialConfig, within
from study.data import Splits
from study.models import build_model
from study.models.resnet import BasicBlock
from study.provenance import has_bf16
from study.trainer import EVALUATION_BATCH, Precision, Trainer

PROBE_SECONDS = 1.0
FEW = 8  # images of a first step on a processor, from which it is known how long larger ones take
LONGEST_S = 1.0  # of a step that is measured
GPU_STEPS, GPU_EVALUATED = 20, 10  # batches at a time on a GPU, where one is too short to measure
RESIDENT_BYTES = 60_000 * (28 * 28 + 8)  # all training images and their labels


@dataclass(frozen=True)
class Speed:
    """What one trial reaches while every slot is busy, in images a second."""

    train: float = within(0, math.inf, open_low=True)
    evaluate: float = within(0, math.inf, open_low=True)


def ready(barrier: Barrier) -> None:
    """Hold a new process until all have started: the first could otherwise measure while the others still import.

    Ctrl-C is left to the process that started it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    barrier.wait(timeout=300)


def faster_precision(on_gpu: bool) -> Precision:
    """Return what is faster on this device: training a residual block of usual width in bf16 or in fp32, in turns.

    Where oneDNN has no bf16 for this processor, that is known: it would take a reference loop, many times slower. One
    block for every study of a machine, the least of several times each: a choice that noise, or a study's own
    networks, could turn would make two runs of one configuration differ.
    """
    if not (on_gpu or has_bf16()):
        return "fp32"
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(1)
    block = BasicBlock(64, 64, 1, True).to(device).to(memory_format=torch.channels_last)
    count = 1024 if on_gpu else 32  # enough to outweigh the start of each kernel
    images = torch.randn(count, 64, 28, 28, device=device).contiguous(memory_format=torch.channels_last)

    def seconds(precision: Precision) -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = block(images).float().mean()
        loss.backward()
        loss.item()
        return time.perf_counter() - started

    times = [(seconds("bf16"), seconds("fp32")) for _ in range(6)][1:]
    return "bf16" if min(bf16 for bf16, _ in times) < min(fp32 for _, fp32 in times) else "fp32"


def architecture(model: Model) -> str:
    """What bears on a network's cost, in words: `resnet 2-2-2-2 64-128-256-512`; a stem of other width is named."""
    if isinstance(model, ResNet):
        sizes = (model.blocks, model.widths)
        rest = [f"stem {model.stem}"] * (model.stem != model.widths[0]) + ["plain"] * (not model.shortcut)
    else:
        sizes = (model.channels, model.hidden)
        rest = [f"{model.convolutions} convolutions"] * (model.convolutions != 1)
        rest += [f"kernel {model.kernel}"] * (model.kernel != 3)
    return " ".join([model.name, *("-".join(map(str, size)) for size in sizes), *rest])


@functools.cache
def flops(model: Model) -> int:
    """Floating-point operations of one image's forward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
        build_model(model, 0).eval()(torch.zeros(1, 1, 28, 28))
    return int(counter.get_total_flops())


def activations(model: Model) -> int:
    """Return how many numbers the layers of a network give for one image: what training keeps for the gradients."""
    counted = 0

    def count(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel()

    with torch.device("meta"), torch.inference_mode():
        network = build_model(model, 0).eval()
        for layer in network.modules():
            if not list(layer.children()):
                layer.register_forward_hook(count)
        network(torch.zeros(1, 1, 28, 28))
    return counted


@functools.cache
def parameters_of(model: Model) -> int:
    """How many parameters a network has."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(model, 0).parameters())


def probe(model: Model, batch_size: int, precision: Precision, cores: int) -> Speed:
    """Train and evaluate random images for some `PROBE_SECONDS`; return the speed.

    Where a step of `batch_size` would take longer than `LONGEST_S`, smaller ones are measured.
    """
    on_gpu = torch.cuda.is_available()
    images = batch_size * GPU_STEPS if on_gpu else _affordable(model, batch_size, precision, cores)
    evaluated = GPU_EVALUATED * EVALUATION_BATCH["cuda"] if on_gpu else min(2 * images, EVALUATION_BATCH["cpu"])
    trainer = _trainer(model, min(batch_size, images), images, evaluated, precision, cores)
    trainer.run_epoch()  # the first step chooses kernels and fills caches
    train_s = evaluate_s = 0.0
    passes = 0
    while train_s + evaluate_s < PROBE_SECONDS:
        record = trainer.run_epoch()
        train_s += images / record.images_per_s
        evaluate_s += record.seconds - images / record.images_per_s
        passes += 1
    return Speed(passes * images / train_s, passes * evaluated / evaluate_s)


def _affordable(model: Model, batch_size: int, precision: Precision, cores: int) -> int:
    """Return how many images, `batch_size` at most, a step trains in `LONGEST_S` on this processor."""
    few = min(FEW, batch_size)
    trainer = _trainer(model, few, few, few, precision, cores)
    trainer.run_epoch()
    return min(batch_size, max(4 * FEW, int(LONGEST_S * trainer.run_epoch().images_per_s)))


def peak_memory(model: Model, batch_size: int, precision: Precision, cores: int) -> tuple[int, int]:
    """Return the bytes of the GPU that training and evaluating take at most, and those that were free.

    Without a GPU: the bytes of memory that this process takes at most, much of them for torch itself, and 0. Where a
    step of `batch_size` takes long, a smaller one is measured, and what the layers give for the other images is added:
    from two small steps half of it or thrice as much was extrapolated, for their peaks are the optimizer's.
    """
    if not torch.cuda.is_available():
        _trainer(model, batch_size, batch_size, min(batch_size, EVALUATION_BATCH["cpu"]), precision, cores).run_epoch()
        return resident_memory(), 0
    torch.cuda.empty_cache()  # what was measured before in this process must not count
    torch.cuda.reset_peak_memory_stats()
    free = torch.cuda.mem_get_info()[0]
    _trainer(model, batch_size, batch_size, EVALUATION_BATCH["cuda"], precision, cores).run_epoch()
    return torch.cuda.max_memory_reserved() + RESIDENT_BYTES, free


def resident_memory() -> int:
    """Bytes of memory that this process has taken at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _trainer(model: Model, batch_size: int, images: int, evaluated: int, precision: Precision, cores: int) -> Trainer:
    """A trainer on so many random images."""
    torch.set_num_threads(cores)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (max(images, evaluated), 28, 28), np.uint8)
    labels = rng.integers(0, 10, len(pixels)).astype(np.uint8)
    held = (pixels[:evaluated], labels[:evaluated])
    splits = Splits(pixels[:images], labels[:images], *held, *held, np.arange(evaluated))
    augmentation = Augmentation(1, rotation=10, flip=0.5)
    config = TrialConfig(model=model, optimizer=Adam(), batch_size=batch_size, augmentation=augmentation)
    return Trainer(config, 0, splits, torch.device("cuda" if torch.cuda.is_available() else "cpu"), precision)
