"""FashionCNN: convolutions with pooling and a small perceptron on top."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


class FashionCNN(nn.Module):
    """Blocks of convolutions, each with batch norm and ReLU, and 2×2 max-pool; then linear layers with dropout.

    `channels` and `hidden` give the sizes; (32, 64, 128) and (256, 128) at `dropout` 0.25, with one convolution of 3×3
    pixels in a block, are the source's. Dropout stands before the first and the second linear layer, as in the source.
    The activations are named `features.relu1`, `features.relu1_2`, …: the last one, before its pooling, is the layer
    for Grad-CAM. Raises ValueError for more than 4 blocks or an even `kernel`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        hidden: Sequence[int],
        dropout: float,
        classes: int,
        convolutions: int = 1,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"fashion_cnn: got a kernel of {kernel} pixels, must be odd")
        side, inputs = 28, 1
        features: OrderedDict[str, nn.Module] = OrderedDict()
        for number, width in enumerate(channels, start=1):
            if side < 2:
                raise ValueError(f"fashion_cnn: got {len(channels)} channels, must be at most 4 for 28×28 images")
            for place in range(1, convolutions + 1):
                suffix = f"{number}_{place}" if place > 1 else str(number)
                features[f"conv{suffix}"] = nn.Conv2d(inputs, width, kernel, padding=kernel // 2)
                features[f"bn{suffix}"] = nn.BatchNorm2d(width)
                features[f"relu{suffix}"] = nn.ReLU()
                inputs = width
            features[f"pool{number}"] = nn.MaxPool2d(2)
            side //= 2
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
