"""The networks, one file a family, and the registry that builds them from their configuration."""

from __future__ import annotations

import torch
from torch import nn

from study import config
from study.models.fashion_cnn import FashionCNN
from study.models.resnet import ResNet

CLASSES = 10


def build_model(model: config.Model, seed: int) -> nn.Module:
    """The network with freshly drawn weights: the same `seed` gives the same weights, the global generator stays.

    Input (N, 1, 28, 28), normalised; output (N, 10), logits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match model:
            case config.ResNet():
                return ResNet(model.blocks, model.widths, model.stem, model.shortcut, CLASSES)
            case config.FashionCNN():
                return FashionCNN(
                    model.channels, model.hidden, model.dropout, CLASSES, model.convolutions, model.kernel
                )
