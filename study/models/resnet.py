"""Residual networks of basic blocks for small images: a 3×3 stem at stride 1 and no max-pool."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and, where `shortcut`, the input added before the last activation.

    He et al. 2016, "Deep residual learning for image recognition", arXiv:1512.03385, option B: a 1×1 convolution
    on the shortcut where the shape changes. With `shortcut=False` the block is the plain net of the same paper.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module | None = None
        if shortcut and (stride != 1 or inputs != outputs):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        elif shortcut:
            self.shortcut = nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        total: Tensor = self.relu2(out if self.shortcut is None else out + self.shortcut(x))
        return total


class ResNet(nn.Module):
    """Stem, stages of basic blocks (the first at stride 1, the others halving the side), global average, linear.

    `blocks` and `widths` give the number and the channels of the blocks of each stage; (2, 2, 2, 2) at
    (64, 128, 256, 512) is ResNet-18. `features` ends in the activation of the last block: hook it for Grad-CAM.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], stem: int, shortcut: bool, classes: int) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ValueError(f"resnet: got {len(blocks)} blocks and {len(widths)} widths, must be equally many")
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        stages: list[nn.Module] = []
        inputs = stem
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            first = BasicBlock(inputs, width, 1 if index == 0 else 2, shortcut)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1, shortcut) for _ in range(count - 1))))
            inputs = width
        self.features = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(self.stem(x))).flatten(1))
        return logits
