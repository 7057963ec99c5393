"""What bears on a network's cost, and what a machine takes for it."""

from __future__ import annotations

from study.config import MODELS, FashionCNN, ResNet
from study.probe import architecture, flops, parameters_of


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
