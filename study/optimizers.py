"""Optimizers and learning-rate schedules from their configuration."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn, optim
from torch.optim import lr_scheduler

from study import config


def build_optimizer(parameters: Iterable[nn.Parameter], settings: config.Optimizer) -> optim.Optimizer:
    """The optimizer in its fused implementation, one kernel for all parameters. Raises ValueError on its settings."""
    match settings:
        case config.SGD():
            return optim.SGD(
                parameters,
                lr=settings.lr,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                weight_decay=settings.weight_decay,
                fused=True,
            )
        case config.Adam():
            return optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        case config.AdamW():
            return optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def build_schedule(
    optimizer: optim.Optimizer, settings: config.Schedule, epochs: int, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """The schedule, to be stepped once after every optimizer step; `epochs` is where cosine reaches 0."""
    match settings:
        case config.Constant():
            return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
        case config.Step():
            return lr_scheduler.StepLR(optimizer, settings.step_size * steps_per_epoch, settings.gamma)
        case config.Cosine():
            return lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
