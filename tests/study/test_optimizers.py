"""Optimizers against torch's plain implementations, schedules against their formulas."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn, optim
from torch.nn import functional

from study.config import SGD, Adam, AdamW, Constant, Cosine, OneCycle, Optimizer, RMSprop, Schedule, Step
from study.optimizers import build_optimizer, build_schedule

SETTINGS: list[Optimizer] = [
    SGD(lr=0.3, momentum=0.0),
    SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
    SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    Adam(lr=0.01),
    Adam(lr=0.01, weight_decay=0.1),
    AdamW(lr=0.01, weight_decay=0.1),
    RMSprop(lr=0.01, alpha=0.9),
    RMSprop(lr=0.01, alpha=0.99, momentum=0.9, weight_decay=0.1),
]


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def plain(net: nn.Module, settings: Optimizer) -> optim.Optimizer:
    """What the configuration means, in torch's implementation that loops over the parameters."""
    loop = {"foreach": False, "fused": False}
    match settings:
        case SGD(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay):
            return optim.SGD(net.parameters(), lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay, **loop)
        case Adam(lr=lr, weight_decay=decay):
            return optim.Adam(net.parameters(), lr=lr, weight_decay=decay, **loop)
        case AdamW(lr=lr, weight_decay=decay):
            return optim.AdamW(net.parameters(), lr=lr, weight_decay=decay, **loop)
        case RMSprop(lr=lr, alpha=alpha, momentum=momentum, weight_decay=decay):
            return optim.RMSprop(
                net.parameters(), lr=lr, alpha=alpha, momentum=momentum, weight_decay=decay, foreach=False
            )


def take_steps(net: nn.Module, optimizer: optim.Optimizer, count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(16, 5, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        functional.mse_loss(net(x), x[:, :3] ** 2).backward()
        optimizer.step()
    return list(net.parameters())


def rates(schedule: Schedule, epochs: int, steps: int, lr: float = 0.2) -> list[float]:
    """The learning rate of every optimizer step, and last the one after the end."""
    optimizer = build_optimizer(network().parameters(), SGD(lr=lr))
    scheduler = build_schedule(optimizer, schedule, epochs, steps)
    found = []
    for _ in range(epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_few_steps_equal_the_plain_implementation(settings: Optimizer) -> None:
    first, second = network(), network()
    before = [parameter.detach().clone() for parameter in first.parameters()]
    found = take_steps(first, build_optimizer(first.parameters(), settings))
    expected = take_steps(second, plain(second, settings))
    for start, one, other in zip(before, found, expected, strict=True):
        assert not torch.equal(start, one)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_every_setting_changes_the_steps() -> None:
    ends = []
    for settings in SETTINGS:
        net = network()
        ends.append(torch.cat([p.flatten() for p in take_steps(net, build_optimizer(net.parameters(), settings))]))
    for index, one in enumerate(ends):
        assert all(not torch.allclose(one, other, atol=1e-6) for other in ends[:index])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_arrive(settings: Optimizer) -> None:
    optimizer = build_optimizer(network().parameters(), settings)
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__.lower() == settings.name
    assert group["lr"] == settings.lr
    assert group["weight_decay"] == settings.weight_decay
    if isinstance(settings, RMSprop):  # of which torch has no fused implementation
        assert (group["alpha"], group["momentum"]) == (settings.alpha, settings.momentum)
        return
    assert group["fused"] is True
    if isinstance(settings, SGD):
        assert (group["momentum"], group["nesterov"]) == (settings.momentum, settings.nesterov)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match="Nesterov"):
        build_optimizer(network().parameters(), SGD(momentum=0.0, nesterov=True))


@pytest.mark.parametrize("steps", [1, 4])
def test_step_schedule_as_in_the_sources(steps: int) -> None:
    """StepLR(step_size=5, gamma=0.1), stepped once an epoch over 15 epochs."""
    found = rates(Step(step_size=5, gamma=0.1), epochs=15, steps=steps)
    epochs = [found[epoch * steps : (epoch + 1) * steps] for epoch in range(15)]
    assert all(len(set(epoch)) == 1 for epoch in epochs)  # it stays within an epoch
    assert [epoch[0] for epoch in epochs] == pytest.approx([0.2] * 5 + [0.02] * 5 + [0.002] * 5)


def test_cosine_falls_at_every_step_to_zero() -> None:
    found = rates(Cosine(), epochs=6, steps=5)
    assert found == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 30)) for step in range(31)], abs=1e-12)
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert found[-1] == pytest.approx(0, abs=1e-12)


def test_no_schedule_leaves_the_learning_rate() -> None:
    assert set(rates(Constant(), epochs=7, steps=3)) == {0.2}


def test_one_cycle_rises_and_falls_by_two_cosines() -> None:
    """From lr / 25 to lr in the first 0.3 of the steps, then to lr / 25 / 1000 at the last (Smith & Topin 2019)."""
    found = rates(OneCycle(warmup=0.3, final_division=1000), epochs=4, steps=5)[:20]
    peak, start = 0.2, 0.2 / 25
    end, turn = start / 1000, 0.3 * 20 - 1

    def between(first: float, last: float, share: float) -> float:
        return last + (first - last) / 2 * (1 + math.cos(math.pi * share))

    rising = [between(start, peak, step / turn) for step in range(6)]
    falling = [between(peak, end, (step - turn) / (19 - turn)) for step in range(6, 20)]
    assert found == pytest.approx(rising + falling, rel=1e-9)
    assert max(found) == pytest.approx(peak)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (2, 1), (10, 1), (1, 4)])
@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5, 0.9])
def test_one_cycle_of_few_steps_ends_below_its_start(epochs: int, steps: int, warmup: float) -> None:
    found = rates(OneCycle(warmup=warmup), epochs, steps)
    assert all(0 < rate <= 0.2 * (1 + 1e-9) for rate in found)
    assert found[0] == pytest.approx(0.2 / 25)


@pytest.mark.parametrize("schedule", [Constant(), Step(step_size=2, gamma=0.5), Cosine()], ids=str)
def test_a_warmup_multiplies_any_schedule_by_a_line(schedule: Schedule) -> None:
    """Goyal et al. 2017, section 2.2: linear, from a 25th, over the first quarter of 24 steps."""
    plain_rates, found = rates(schedule, 6, 4), rates(dataclasses.replace(schedule, warmup=0.25), 6, 4)
    line = [min(1.0, 1 / 25 + (1 - 1 / 25) * step / 6) for step in range(25)]
    assert found == pytest.approx([rate * share for rate, share in zip(plain_rates, line, strict=True)], abs=1e-12)


RESUMED = [
    Constant(),
    Step(step_size=2, gamma=0.5),
    Cosine(),
    OneCycle(),
    Cosine(warmup=0.7),
    Step(step_size=1, gamma=0.5, warmup=0.2),
]


@pytest.mark.parametrize("schedule", RESUMED, ids=str)
def test_a_schedule_goes_on_from_its_state(schedule: Schedule) -> None:
    def make() -> tuple[optim.Optimizer, optim.lr_scheduler.LRScheduler]:
        optimizer = build_optimizer(network().parameters(), SGD(lr=0.2))
        return optimizer, build_schedule(optimizer, schedule, epochs=6, steps_per_epoch=2)

    def go_on(optimizer: optim.Optimizer, scheduler: optim.lr_scheduler.LRScheduler, count: int) -> list[float]:
        found = []
        for _ in range(count):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    optimizer, scheduler = make()
    go_on(optimizer, scheduler, 5)
    other_optimizer, other_scheduler = make()
    other_optimizer.load_state_dict(optimizer.state_dict())
    other_scheduler.load_state_dict(scheduler.state_dict())
    assert go_on(optimizer, scheduler, 7) == go_on(other_optimizer, other_scheduler, 7)
