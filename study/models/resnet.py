"""Residual networks of basic blocks for small images: a 3×3 stem at stride 1 and no max-pool."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class StridedConv2d(nn.Conv2d):
    """Compute what an unbiased `Conv2d` does, without the strides whose weight gradients oneDNN 3.13 gets wrong.

    A 1×1 kernel with stride 2 and few channels, channels-last, writes past a buffer: wrong gradients, crashes, hangs
    (https://github.com/uxlfoundation/oneDNN/issues/6035). The pixels are picked before the convolution instead.
    A 3×3 kernel with stride 2 on a map of one pixel, in bf16, leaves parts of the gradient unwritten. Stride 1 gives
    the same output there.
    """

    def forward(self, x: Tensor) -> Tensor:
        stride = self.stride
        if x.shape[2:] == (1, 1):
            stride = (1, 1)
        elif self.kernel_size == (1, 1):
            x = functional.avg_pool2d(x, 1, stride)  # the mean of one pixel: a slice x[..., ::2, ::2] is slower
            stride = (1, 1)
        return functional.conv2d(x, self.weight, None, stride, self.padding)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and, where `shortcut`, the input added before the last activation.

    He et al. 2016, "Deep residual learning for image recognition", arXiv:1512.03385, option B: a 1×1 convolution
    on the shortcut where the shape changes. With `shortcut=False` the block is the plain net of the same paper.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        conv = nn.Conv2d if stride == 1 else StridedConv2d
        self.conv1 = conv(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module | None = None
        if shortcut and (stride != 1 or inputs != outputs):
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
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
