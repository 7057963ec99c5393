"""Optimizers and learning-rate schedules from their configuration."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn, optim
from torch.optim import lr_scheduler

from study import config

WARMUP_START = 1 / 25  # of the learning rate: where a warm-up begins, as torch's one cycle does


def build_optimizer(parameters: Iterable[nn.Parameter], settings: config.Optimizer) -> optim.Optimizer:
    """Return the optimizer, in its fused implementation where torch has one: one kernel for all parameters.

    Raises ValueError on its settings.
    """
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
        case config.RMSprop():
            return optim.RMSprop(
                parameters,
                lr=settings.lr,
                alpha=settings.alpha,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
            )


def build_schedule(
    optimizer: optim.Optimizer, settings: config.Schedule, epochs: int, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """Return the schedule, to be stepped once after every optimizer step; `epochs` is where it ends."""
    steps = epochs * steps_per_epoch
    main: lr_scheduler.LRScheduler
    match settings:
        case config.Constant():
            main = lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
        case config.Step():
            main = lr_scheduler.StepLR(optimizer, settings.step_size * steps_per_epoch, settings.gamma)
        case config.Cosine():
            main = lr_scheduler.CosineAnnealingLR(optimizer, steps)
        case config.OneCycle():
            return lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=optimizer.param_groups[0]["lr"],
                total_steps=max(steps, 2),
                pct_start=max(settings.warmup, 1.5 / max(steps, 2)),  # torch divides by the steps of the rise, less one
                div_factor=1 / WARMUP_START,
                final_div_factor=settings.final_division,
                cycle_momentum=False,
            )
    if not settings.warmup:
        return main
    # Goyal et al. 2017, arXiv:1706.02677, "gradual warmup".
    rising = lr_scheduler.LinearLR(optimizer, WARMUP_START, total_iters=max(1, round(settings.warmup * steps)))
    return lr_scheduler.ChainedScheduler([main, rising], optimizer)
