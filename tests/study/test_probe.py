"""What bears on a network's cost, and what a machine takes for it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from study import probe
from study.config import MODELS, FashionCNN, ResNet
from study.probe import FEW, activations, architecture, faster_precision, flops, parameters_of


def test_a_network_is_named_by_what_bears_on_its_cost() -> None:
    assert architecture(MODELS["resnet18"]) == "resnet18 2-2-2-2 64-128-256-512"
    assert architecture(MODELS["three_block"]) == "three_block 1-1-1 128-256-512 stem 64"
    plain = ResNet("resnet", (1, 1), (8, 16), stem=4, shortcut=False)
    assert architecture(plain) == "resnet 1-1 8-16 stem 4 plain"
    assert architecture(FashionCNN()) == "fashion_cnn 32-64-128 256-128"
    deeper = FashionCNN(convolutions=2, kernel=5)
    assert architecture(deeper) == "fashion_cnn 32-64-128 256-128 2 convolutions kernel 5"
    assert flops(deeper) > flops(FashionCNN(convolutions=2)) > flops(FashionCNN())


def test_a_networks_parameters_and_arithmetic() -> None:
    assert parameters_of(FashionCNN()) == 422_474
    tiny = FashionCNN(channels=(4,), hidden=(16,))
    # Twice the products of the convolution, 28² · 9 · 4, and of the layers, 784 · 16 + 16 · 10.
    assert flops(tiny) == 2 * (784 * 36 + 784 * 16 + 160)


def test_activations_are_all_that_layers_give() -> None:
    # Convolution, batch norm and ReLU of 4 × 28², pooling and dropout of 4 × 14², a layer and its ReLU of 16, and 10.
    tiny = FashionCNN(channels=(4,), hidden=(16,))
    assert activations(tiny) == 3 * 4 * 28**2 + 2 * 4 * 14**2 + 2 * 16 + 10


# Precision


def test_where_there_is_no_bf16_nothing_is_tried() -> None:
    """In a process that is told that its processor has no AVX-512, whatever it has."""
    code = """
import torch
from study import probe, provenance
entered = []
class Counted(torch.autocast):
    def __enter__(self):
        entered.append(self)
        return super().__enter__()
torch.autocast = Counted
print(provenance.has_bf16(), probe.faster_precision(False), len(entered), provenance.hardware()["bf16"])
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["False", "fp32", "0", "False"], 0), done.stderr


@pytest.mark.usefixtures("one_thread")
def test_where_there_is_bf16_both_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[bool] = []

    class Counted(torch.autocast):
        def __init__(self, *arguments: Any, enabled: bool) -> None:
            entered.append(enabled)
            super().__init__(*arguments, enabled=False)

    monkeypatch.setattr(probe, "has_bf16", lambda: True)
    monkeypatch.setattr(torch, "autocast", Counted)
    assert faster_precision(False) in ("bf16", "fp32")
    assert sorted(entered) == [False] * 6 + [True] * 6


# What is measured


@pytest.mark.usefixtures("one_thread")
def test_a_slow_network_is_measured_on_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []
    real = probe._trainer

    def trainer(model: Any, batch_size: int, images: int, *rest: Any) -> Any:
        steps.append((batch_size, images))
        return real(model, batch_size, images, *rest)

    monkeypatch.setattr(probe, "_trainer", trainer)
    monkeypatch.setattr(probe, "PROBE_SECONDS", 1e-9)
    tiny = FashionCNN(channels=(4,), hidden=(16,))
    found = probe.probe(tiny, 64, "fp32", 1)
    assert steps == [(FEW, FEW), (64, 64)], "a step of 64 takes less than a second"
    assert min(vars(found).values()) > 0
    steps.clear()
    monkeypatch.setattr(probe, "LONGEST_S", 1e-9)
    probe.probe(tiny, 64, "fp32", 1)
    assert steps == [(FEW, FEW), (4 * FEW, 4 * FEW)]
    steps.clear()
    probe.probe(tiny, 2, "fp32", 1)
    assert steps == [(2, 2), (2, 2)]
