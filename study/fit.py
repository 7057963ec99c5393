"""Fit a preview to a time: the largest that runs from the command to its page within it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace

from study.opening import UsageError
from study.plan import Plan, estimate
from study.probe import Speed, architecture, flops
from study.schedulers import Rule
from study.space import Preview, Scale, Space, Split

SHARE = 0.7  # of the time is planned for, because plans hold within a factor of 1.3
STEP = 100  # images


def fit(full: Space, rule: Rule, seconds: float, measure: Callable[[Space], Plan]) -> tuple[Space, Plan]:
    """Return the largest preview of a space whose plan takes at most `SHARE` of so many seconds, and its plan.

    A preview confirms the least number of candidates over the least number of seeds. Its networks are the narrowest,
    wider only if all else can be at its most. While its plan takes longer, its images become fewer, then its epochs,
    then its trials, each down to the least that the space's `preview` allows. The full study is returned where it fits,
    and the least preview where none does. `measure` returns the plan of a space, with the speeds of its networks.
    """
    limit, whole = SHARE * seconds, full.with_budget(full.budget)
    scales = list(_smaller_and_smaller(full.preview))
    space = full.scaled(scales[0])
    plan = measure(space)
    if plan.seconds > limit:
        smaller = bisect_left(scales, True, key=lambda s: estimate(plan, full.scaled(s), rule).seconds <= limit)
        space = full.scaled(scales[min(smaller, len(scales) - 1)])
        return space, estimate(plan, space, rule)
    widths = [min(space.width * 2**n, full.preview.most.width) for n in range(1, 8)]
    for wider in [*(full.scaled(replace(scales[0], width=width)) for width in dict.fromkeys(widths)), whole]:
        known = wider.width == space.width
        guess = plan if known else replace(plan, speeds=_by_operations(plan, space, wider))
        if estimate(guess, wider, rule).seconds > limit:
            break
        if not known:
            try:
                measured = measure(wider)
            except UsageError:  # it does not fit into memory
                break
            guess = replace(measured, measure_seconds=plan.measure_seconds + measured.measure_seconds)
        found = estimate(guess, wider, rule)
        if found.seconds > limit:  # its memory lets fewer trials run at a time
            break
        space, plan = wider, found
    return space, plan


def _smaller_and_smaller(preview: Preview) -> Iterator[Scale]:
    """Yield the scales of the narrowest networks, from the largest to the least."""
    least, most = preview.least, preview.most
    budget = replace(least.budget, trials=most.budget.trials)
    scale = Scale(most.split, most.epochs, budget, least.width)
    yield scale
    for train in range(most.split.train - STEP, least.split.train, -STEP):
        scale = replace(scale, split=_between(least.split, most.split, train))
        yield scale
    scale = replace(scale, split=least.split)
    yield scale
    for epochs in range(most.epochs - 1, least.epochs - 1, -1):
        scale = replace(scale, epochs=epochs)
        yield scale
    for trials in range(budget.trials - 1, least.budget.trials - 1, -1):
        yield replace(scale, budget=replace(budget, trials=trials))


def _between(least: Split, most: Split, train: int) -> Split:
    """Return the split of so many training images, the others as near to their least.

    A number below its most is its least, or `STEP` or more below: what a split leaves out is enough to stratify.
    """
    less = (most.train - train) / (most.train - least.train)
    validation, test = (
        max(low, high - math.ceil(less * (high - low) / STEP) * STEP)
        for low, high in ((least.validation, most.validation), (least.test, most.test))
    )
    return replace(least, train=train, validation=validation, test=test)


def _by_operations(plan: Plan, space: Space, wider: Space) -> dict[str, Speed]:
    """Return speeds of wider networks at the operations per second of the slowest of the narrower ones.

    Wider networks reach more, so that too much time is counted for them, and what fits by it fits.
    """
    slowest = {
        kind: min(getattr(plan.speeds[architecture(model)], kind) * flops(model) for model in space.models())
        for kind in ("train", "evaluate")
    }
    models = {architecture(model): flops(model) for model in wider.models()}
    return {name: Speed(**{kind: rate / work for kind, rate in slowest.items()}) for name, work in models.items()}
