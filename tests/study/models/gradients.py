"""Gradients as this processor computes them, held against float64: a program, for what is wrong may end its process.

    python gradients.py FIRST COUNT

compares the convolutions of blocks, and what random networks of these seeds compute in training. It ends with status 0
and prints how many tensors it compared. `ONEDNN_MAX_CPU_ISA` makes oneDNN compute as on an older processor. Without
AVX-512 oneDNN has no fast bf16: torch convolves by itself there, and so it does here.
"""

from __future__ import annotations

import os
import random
import sys
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.backends import mkldnn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from study.config import FashionCNN, Model, ResNet
from study.models import build_model
from study.models.resnet import BasicBlock

OLDER = os.environ.get("ONEDNN_MAX_CPU_ISA") in ("SSE41", "AVX", "AVX2")
WITHOUT_BF16 = OLDER or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
# In fp32 some 100,000 terms are added. oneDNN does so for bf16 too, and rounds once or twice; torch's own bf16
# convolution also rounds the sums of taps and of images.
ROUNDING = {torch.float32: 2.0**-14, torch.bfloat16: 2.0**-4 if WITHOUT_BF16 else 2.0**-7}
FORMATS = (torch.contiguous_format, torch.channels_last)
SIDES = (1, 2, 3, 7, 28)
CHANNELS = (*range(1, 21), 24, 31, 32, 33)  # blocks of 4, 8 and 16, filled or not
BATCHES = (2, 3, 5, 16, 31, 32, 127, 128)
MAX_WORK = 40_000  # images × channels², to bound the time of one network
LINEAR = ("convolution", "convolution_backward", "mm", "addmm", "avg_pool2d", "avg_pool2d_backward")
NORM = ("native_batch_norm", "native_batch_norm_backward")


def is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def exact(value: Any) -> Any:
    """Return a tensor of floats as contiguous float64, and all else as it is."""
    return value.detach().to(torch.float64, copy=True).contiguous() if is_float(value) else value


def magnitude(value: Any) -> Any:
    return value.abs() if is_float(value) else value


def listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def convolving(precision: torch.dtype) -> AbstractContextManager[Any]:
    """Convolve as the processor that `ONEDNN_MAX_CPU_ISA` stands for."""
    return mkldnn.flags(enabled=False) if OLDER and precision == torch.bfloat16 else nullcontext()


def compare(found: Tensor, expected: Tensor, terms: Tensor, precision: torch.dtype, what: str) -> None:
    """End the program where an element errs by more than the rounding of its terms, whose magnitudes add to `terms`."""
    wrong = ~((found.double() - expected).abs() <= ROUNDING[precision] * terms)
    if wrong.any():
        got, must, at = found[wrong][0].item(), expected[wrong][0].item(), wrong.nonzero()[0].tolist()
        sys.exit(f"{what}, {precision}: got {got:.6g} at {at}, must be {must:.6g}; {wrong.sum()} elements are wrong")


def convolved(x: Tensor, weight: Tensor, upstream: Tensor, stride: int) -> tuple[Tensor, ...]:
    """Return the output of a padded convolution, and the gradients of its input and weights."""
    out = functional.conv2d(x.requires_grad_(), weight.requires_grad_(), None, stride, weight.shape[-1] // 2)
    return tuple(t.detach() for t in (out, *torch.autograd.grad(out, (x, weight), upstream)))


def blocks() -> int:
    """Compare the first convolution of a block and that of its shortcut: outputs and gradients."""
    generator, count = torch.Generator().manual_seed(0), 0

    def normal(shape: torch.Size | tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator).to(precision)
        return values.contiguous(memory_format=memory_format)

    for channels, stride, memory_format, side, precision in product(range(1, 21), (1, 2), FORMATS, SIDES, ROUNDING):
        block = BasicBlock(channels, channels + 3, stride, True)
        for conv in (block.conv1, block.shortcut[0]):
            conv.weight.data = normal(conv.weight.shape)
            x = normal((5 if side < 10 else 2, channels, side, side)).requires_grad_()
            with convolving(precision):
                out = conv(x)
                upstream = normal(out.shape)
                found = (out, *torch.autograd.grad(out, (x, conv.weight), upstream))
            operands = [exact(tensor) for tensor in (x, conv.weight, upstream)]
            terms = convolved(*map(magnitude, operands), stride)
            expected = convolved(*operands, stride)
            what = f"{channels} channels, kernel {conv.kernel_size}, stride {stride}, {memory_format}, side {side}"
            for name, *three in zip(("output", "gradient of input", "of weights"), found, expected, terms, strict=True):
                compare(*three, precision, f"{name}: {what}")
                count += 1
    return count


class Compared(TorchDispatchMode):
    """Repeats each convolution, batch norm and matrix product, also of gradients, in contiguous float64."""

    def __init__(self, precision: torch.dtype, what: str) -> None:
        super().__init__()
        self.precision, self.what, self.count = precision, what, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        operands = tree_map(exact, args) if name in LINEAR + NORM else ()  # before: batch norm moves its statistics
        out = func(*args, **kwargs)
        if operands:
            terms = self.terms(name, operands) or listed(func(*tree_map(magnitude, operands), **kwargs))
            expected = listed(func(*operands, **kwargs))
            for found, *two in zip(listed(out), expected, terms, strict=True):
                if isinstance(found, Tensor):
                    compare(found, *two, self.precision, f"{name}: {self.what}")
                    self.count += 1
        return out

    @staticmethod
    def terms(name: str, operands: Any) -> tuple[Tensor, ...]:
        """Return how large what batch norm adds and subtracts is, by channel; nothing for sums of products."""
        if name == "native_batch_norm":
            x, weight, bias, *_ = operands
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            inverse = (variance + operands[-1]).rsqrt()
            largest = x.abs().amax((0, 2, 3)) + mean.abs()
            normalised = largest * inverse * weight.abs() + bias.abs()
            return normalised[:, None, None].expand_as(x[0]), largest, inverse * (1 + (largest * inverse) ** 2)
        if name == "native_batch_norm_backward":
            upstream, x, weight, _, _, mean, inverse, *_ = operands
            total = upstream.abs().sum((0, 2, 3))
            normalised = ((x - mean[:, None, None]) * inverse[:, None, None]).abs().amax((0, 2, 3)) + 1
            largest = upstream.abs().amax((0, 2, 3)) * weight.abs() * inverse * normalised**2
            return largest[:, None, None].expand_as(x[0]), total * normalised, total
        return ()


def drawn(rng: random.Random) -> tuple[Model, int]:
    """Return a network with a batch size."""
    batch = rng.choice(BATCHES)
    channels = [channel for channel in CHANNELS if batch * channel**2 <= MAX_WORK]
    if rng.random() < 0.7:
        stages = rng.randint(1, 7)
        counts, widths = (tuple(rng.choices(sizes, k=stages)) for sizes in ((1, 1, 2), channels))
        return ResNet("resnet", counts, widths, rng.choice(channels), rng.random() < 0.8), batch
    widths, hidden = (tuple(rng.choices(channels, k=rng.randint(low, low + 3))) for low in (1, 0))
    return FashionCNN("fashion_cnn", widths, hidden, rng.choice((0.0, 0.25, 0.5))), batch


def networks(first: int, count: int) -> int:
    """Train random networks of the vocabulary for two steps, on a whole batch and on a small last one."""
    compared = 0
    for seed, precision in product(range(first, first + count), ROUNDING):
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        model, batch = drawn(rng)
        torch.set_num_threads(1 + seed % 2)
        network = build_model(model, seed).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        mode = Compared(precision, f"seed {seed}, batch {batch}, {model}")
        for images in (batch, rng.choice((2, 3))):
            x = torch.randn(images, 1, 28, 28, generator=generator).contiguous(memory_format=torch.channels_last)
            labels = torch.randint(10, (images,), generator=generator)
            with mode, convolving(precision):
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                    logits = network(x)
                optimizer.zero_grad()
                functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        compared += mode.count
    return compared


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    print(blocks() + networks(first, count))
