"""FashionCNN: convolutions with pooling and a small perceptron on top."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


class FashionCNN(nn.Module):
    """Blocks of 3×3 convolution, batch norm, ReLU and 2×2 max-pool; then hidden linear layers with dropout.

    `channels` and `hidden` give the sizes; (32, 64, 128) and (256, 128) at `dropout` 0.25 are the source's.
    Dropout stands before the first and the second linear layer, as in the source. The activations are named
    `features.relu1`, `features.relu2`, …: the last one, before its pooling, is the layer for Grad-CAM.
    """

    def __init__(self, channels: Sequence[int], hidden: Sequence[int], dropout: float, classes: int) -> None:
        super().__init__()
        side, inputs = 28, 1
        features: OrderedDict[str, nn.Module] = OrderedDict()
        for number, width in enumerate(channels, start=1):
            if side < 2:
                raise ValueError(f"fashion_cnn: got {len(channels)} channels, must be at most 4 for 28×28 images")
            features[f"conv{number}"] = nn.Conv2d(inputs, width, 3, padding=1)
            features[f"bn{number}"] = nn.BatchNorm2d(width)
            features[f"relu{number}"] = nn.ReLU()
            features[f"pool{number}"] = nn.MaxPool2d(2)
            side, inputs = side // 2, width
        self.features = nn.Sequential(features)
        inputs *= side * side
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, width in enumerate(hidden, start=1):
            if number <= 2:
                layers[f"dropout{number}"] = nn.Dropout(dropout)
            layers[f"linear{number}"] = nn.Linear(inputs, width)
            layers[f"relu{number}"] = nn.ReLU()
            inputs = width
        layers["linear_out"] = nn.Linear(inputs, classes)
        self.classifier = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
