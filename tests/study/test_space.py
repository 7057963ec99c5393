"""Search spaces: the shipped ones, the sources' arms, the preview, and the laws of drawing."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_space import RICH, TECHNIQUES, TINY, read
from optuna.trial import BaseTrial, FixedTrial

from study import space_file
from study.config import (
    SGD,
    Adam,
    Augmentation,
    Constant,
    Cosine,
    FashionCNN,
    OneCycle,
    ResNet,
    Schedule,
    Step,
    TrialConfig,
    narrowed,
)
from study.probe import parameters_of
from study.space import Budget, Choice, Distribution, Int, Part, Scale, Split

SHIPPED = sorted(space_file.FOLDER.glob("*.yaml"))


class Drawn:
    """A trial whose answers Hypothesis draws."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.params: dict[str, Any] = {}

    def answer(self, name: str, values: st.SearchStrategy[Any]) -> Any:
        assert name not in self.params, "two hyperparameters of one name"
        self.params[name] = self.data.draw(values, label=name)
        return self.params[name]

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> Any:
        return self.answer(name, st.sampled_from([low, high]) | st.floats(low, high))

    def suggest_int(self, name: str, low: int, high: int) -> Any:
        return self.answer(name, st.integers(low, high))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        assert all(isinstance(choice, bool | int | float | str) for choice in choices)
        return self.answer(name, st.sampled_from(choices))


SPACES = {path.name: space_file.load(path) for path in SHIPPED}
SPACES |= {"rich": read(RICH), "techniques": read(TECHNIQUES)}


def test_the_shipped_spaces_are_known() -> None:
    names = "augmentation deeper_cnn fashion_cnn fashion_cnn_source optimizer resnet resnet_half resnet_quarter"
    assert {path.stem for path in SHIPPED} == {*names.split(), "skip_connections", "smoke", "sprint"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_space(path: Path) -> None:
    loaded = space_file.load(path)
    assert loaded.name == path.stem
    assert loaded.text.encode() == path.read_bytes()
    assert re.search(rf"\n#   python -m study.run --space {path.name}( --fidelity full)?( --seed 100)?\n", loaded.text)
    assert loaded.arms
    for small in (loaded.at("preview"), loaded.scaled(loaded.preview.least)):
        assert (loaded.fidelity, small.fidelity) == ("full", "preview")
        assert small.epochs <= loaded.epochs
        assert small.budget.trials >= len(small.arms) + small.budget.candidates, "a preview that cannot try every arm"
    assert any(loaded.parameters_in_search(arm) for arm in loaded.arms.values()), "none from which the search can learn"


def test_arms_of_the_first_source() -> None:
    resnet18 = ResNet("resnet18", (2, 2, 2, 2), (64, 128, 256, 512), 64, True)
    common: dict[str, Any] = {"epochs": 15, "batch_size": 128, "label_smoothing": 0.0, "mean": 0.5, "std": 0.5}
    common |= {"model": resnet18, "augmentation": Augmentation()}
    assert space_file.load(space_file.FOLDER / "resnet.yaml").arms == {
        "sgd_baseline": TrialConfig(
            optimizer=SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4), schedule=Constant(), **common
        ),
        "adam_steplr": TrialConfig(
            optimizer=Adam(lr=1e-3, weight_decay=0.0), schedule=Step(step_size=5, gamma=0.1), **common
        ),
    }


def test_arms_of_the_second_source() -> None:
    common: dict[str, Any] = {"epochs": 30, "batch_size": 128, "label_smoothing": 0.0, "mean": 0.2860, "std": 0.3530}
    common |= {"model": FashionCNN("fashion_cnn", (32, 64, 128), 1, 3, (256, 128), 0.25)}
    common |= {"optimizer": Adam(lr=1e-3, weight_decay=0.0), "schedule": Constant()}
    augmentation = Augmentation(strength=1.0, rotation=10.0, translation=0.1, flip=0.5)
    baseline = TrialConfig(augmentation=Augmentation(), **common)
    augmented = TrialConfig(augmentation=augmentation, **common)
    runs = space_file.load(space_file.FOLDER / "fashion_cnn.yaml").arms
    assert (runs["baseline"], runs["augmented"]) == (baseline, augmented)
    for name, schedule in (("baseline_cosine", Cosine()), ("baseline_one_cycle", OneCycle())):
        assert runs[name] == dataclasses.replace(baseline, schedule=schedule), "an ablation changes one thing"
    strengths = space_file.load(space_file.FOLDER / "augmentation.yaml").arms
    assert strengths["strength_000"] == dataclasses.replace(baseline, epochs=10)
    assert strengths["strength_100"] == dataclasses.replace(augmented, epochs=10)


def test_the_deeper_networks_have_at_most_a_million_parameters() -> None:
    sizes = [parameters_of(model) for model in SPACES["deeper_cnn.yaml"].models()]
    assert 900_000 < max(sizes) <= 1_000_000


@pytest.mark.parametrize("name", ["optimizer", "skip_connections"])
def test_factorial_arms_differ_only_in_their_factors(name: str) -> None:
    named = space_file.load(space_file.FOLDER / f"{name}.yaml").arms
    arms = [arm for key, arm in named.items() if key != "sgd_baseline"]  # the source's own, with weight decay
    if name == "optimizer":
        cells = {(arm.optimizer.name, arm.schedule.name) for arm in arms}
        assert cells == {(a, b) for a in ("sgd", "adam") for b in ("none", "step", "cosine")}
        assert {arm.optimizer.weight_decay for arm in arms} == {0.0}
        rest = {dataclasses.replace(arm, optimizer=SGD(), schedule=Constant()) for arm in arms}
    else:
        networks = [arm.model for arm in arms if isinstance(arm.model, ResNet)]
        assert {(n.blocks, n.shortcut) for n in networks} == {((d,) * 4, s) for d in (2, 4) for s in (True, False)}
        rest = {dataclasses.replace(arm, model=ResNet()) for arm in arms}
    assert len(rest) == 1


def test_preview_shrinks_everything() -> None:
    preview = "{train: 600, validation: 200, test: 500, epochs: 3, trials: 2, candidates: 0, seeds: 1}"
    full = read("model: three_block" + TINY.replace("{}", preview) + "arms: {long: {epochs: 30}, short: {epochs: 2}}")
    small = full.at("preview")
    assert (full.split, small.split) == (Split(50_000, 10_000, 10_000, 0), Split(600, 200, 500, 0))
    assert (full.budget, small.budget) == (Budget(4, 1, 2), Budget(2, 0, 1))
    assert (full.epochs, small.epochs, small.suggest(FixedTrial({})).epochs) == (4, 3, 3)
    assert [arm.epochs for arm in full.arms.values()] == [30, 2]
    assert [arm.epochs for arm in small.arms.values()] == [3, 2]
    assert full.at("full") is full
    assert small.at("preview") is small
    assert small.at("full") is full


def test_a_preview_says_what_it_has_less_of() -> None:
    full = space_file.load(space_file.FOLDER / "resnet.yaml")
    small = full.at("preview")
    assert small.reductions() == [
        "8,000 of 50,000 training images",
        "1,000 of 10,000 validation images",
        "2,000 of 10,000 test images",
        "6 of 15 epochs",
        "12 of 32 trials",
        "1 of 2 candidates",
        "2 of 6 seeds",
        "networks of 0.5 times the width",
    ]
    assert full.scaled(full.preview.least).reductions() == [
        "1,000 of 50,000 training images",
        "500 of 10,000 validation images",
        "1,000 of 10,000 test images",
        "2 of 15 epochs",
        "6 of 32 trials",
        "1 of 2 candidates",
        "2 of 6 seeds",
        "networks of 0.25 times the width",
    ]
    more = dataclasses.replace(small, budget=Budget(33, 2, 5))  # as by --trials and --seeds
    assert more.reductions()[4:] == ["5 of 6 seeds", "networks of 0.5 times the width"]
    arms = read(
        "model: three_block" + TINY.replace("{}", "{epochs: 3}") + "arms: {long: {epochs: 30}, short: {epochs: 2}}"
    )
    assert arms.at("preview").reductions() == ["3 of 4 or 30 epochs"]
    assert arms.reductions() == []
    assert read("model: three_block" + TINY).at("preview").reductions() == []


def test_steps_that_no_epoch_comes_after_are_named() -> None:
    full = space_file.load(space_file.FOLDER / "resnet.yaml")
    assert full.flat_steps() == []
    assert full.at("preview").flat_steps() == []
    assert full.scaled(full.preview.least).flat_steps() == [
        "search, step: StepLR first falls after epoch 3 of 2: it never does",
        "arm adam_steplr: StepLR first falls after epoch 5 of 2: it never does",
    ]
    text = "model: three_block" + TINY + "schedule: {step: {step_size: %d}}\narms: {short: {epochs: 3}}"
    assert [said.partition(":")[0] for said in read(text % 4).flat_steps()] == ["search, step", "arm short"]
    assert [said.partition(":")[0] for said in read(text % 3).flat_steps()] == ["arm short"]
    assert read(text % 2).flat_steps() == []


def test_the_largest_preview_keeps_what_it_leaves_out() -> None:
    text = TINY.replace("lr: 0.1", "lr: {log: [0.01, 0.1]}").replace("{}", "{train: 100, seeds: 1}")
    small = read(f"model: three_block{text}split: {{train: 200, seed: 7}}").at("preview")
    assert small.split == Split(100, 10_000, 10_000, 7)
    assert small.budget == Budget(4, 1, 1)
    assert small.epochs == 4


def test_the_least_preview_has_little_of_what_it_leaves_out_and_no_more_than_the_full_study() -> None:
    arms = "arms: {one: {}, two: {epochs: 9}, three: {epochs: 1}}\n"
    large = TINY.replace("trials: 4, candidates: 1, seeds: 2", "trials: 20, candidates: 3, seeds: 6")
    assert read("model: three_block" + large + arms).preview.least == Scale(
        Split(500, 500, 1000), epochs=2, budget=Budget(5, 1, 2), width=0.25
    )
    few = large.replace("trials: 20, candidates: 3, seeds: 6", "trials: 3, candidates: 0, seeds: 1")
    few = few.replace("epochs: 4", "epochs: 1") + "split: {train: 400, validation: 300, seed: 7}\n"
    assert read("model: three_block" + few + arms).preview.least == Scale(
        Split(400, 300, 1000, 7), epochs=1, budget=Budget(3, 0, 1), width=0.25
    )
    asked = large.replace("{}", "{candidates: [2, 3], trials: [8, 9], width: 0.5, epochs: [3, 4], seeds: 4}")
    preview = read("model: three_block" + asked + arms).preview
    assert preview.least == Scale(Split(500, 500, 1000), epochs=3, budget=Budget(8, 2, 4), width=0.5)
    assert preview.most == Scale(Split(), epochs=4, budget=Budget(9, 3, 4), width=0.5)


def test_the_least_preview_has_trials_for_the_candidates_that_it_must_confirm() -> None:
    large = TINY.replace("trials: 4, candidates: 1, seeds: 2", "trials: 20, candidates: 5, seeds: 6")
    least = read("model: three_block" + large.replace("{}", "{candidates: 4}") + "arms: {one: {}}").preview.least
    assert (least.budget.trials, least.budget.candidates) == (5, 4)


def test_a_preview_at_the_scale_of_the_full_study_is_the_full_study() -> None:
    full = read("model: three_block" + TINY)
    assert full.at("preview") is full
    assert full.scaled(full.scale) is full
    less = full.scaled(dataclasses.replace(full.scale, epochs=3))
    assert (less.fidelity, less.scaled(full.scale)) == ("preview", full)
    assert less.scaled(less.scale) == less


def test_a_scale_is_read_as_it_was_written() -> None:
    scale = space_file.load(space_file.FOLDER / "resnet.yaml").preview.least
    assert Scale.from_json(dataclasses.asdict(scale)) == scale
    for wrong in ({"epochs": 0}, {"epochs": None}, {"split": 3}, {"budget": {}}, {"more": 1}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Scale.from_json(dataclasses.asdict(scale) | wrong)
    with pytest.raises(KeyError):
        Scale.from_json({})


def test_strength_0_has_no_maxima() -> None:
    off = SPACES["rich"].parts["augmentation"][0]
    assert off.suggest(FixedTrial({"augmentation.strength": 0.0})) == Augmentation()
    fixed = read("model: three_block" + TINY + "augmentation: {strength: 0, rotation: 10}")
    assert fixed.suggest(FixedTrial({})).augmentation == Augmentation()


@pytest.mark.parametrize(
    ("augmentation", "different"),
    [
        ("crop: {choice: [0, 1, 2]}, flip: {choice: [0, 0.5]}", 3 * 2),
        ("crop: {choice: [0, 1, 2]}, flip: {choice: [0, 0.5]}, reflect: {choice: [true, false]}", (3 * 2 - 1) * 2 + 1),
        ("strength: {choice: [0.5, 1]}, flip: {choice: [0, 0.5]}, reflect: true", 2 + 1),
        ("strength: {choice: [0, 0.5, 1]}, flip: {choice: [0, 0.5]}", 2 + 1),
        ("flip: {choice: [0, 0.5]}, shear: {uniform: [0, 3]}", math.inf),
        ("flip: {choice: [0, 0.5]}, shear: {choice: [1, 2]}", None),
    ],
)
def test_augmentation_of_which_every_maximum_is_0_is_none(augmentation: str, different: float | None) -> None:
    """An arm without augmentation is of such a space, and no configuration is there twice."""
    loaded = read(
        f"model: three_block{TINY}augmentation: {{{augmentation}}}\narms: {{a: {{augmentation: {{strength: 0}}}}}}"
    )
    drawn = [*loaded.combinations(0)]
    if different is None:
        assert loaded.parameters_of(loaded.arms["a"]) is None
        assert loaded.configurations == len({*drawn}) == 4
        return
    assert loaded.configurations == different
    assert different in (len({*drawn}), math.inf)
    assert different in (len({config.config_id for config in drawn}), math.inf)
    for config in [*drawn, loaded.arms["a"]]:
        parameters = loaded.parameters_of(config)
        assert parameters is not None
        assert loaded.suggest(FixedTrial(parameters)) == config


def test_models_that_differ_in_cost() -> None:
    assert [model.name for model in SPACES["resnet.yaml"].models()] == ["resnet18", "three_block"]
    assert SPACES["augmentation.yaml"].models() == (FashionCNN(),)
    # 2 × 2 sizes at the middle stem, with and without shortcut, 2 sizes of the CNN, one more
    assert len(SPACES["rich"].models()) == 4 + 2 + 2 + 1
    assert {model.stem for model in SPACES["rich"].models() if isinstance(model, ResNet)} == {6, 64}
    arm_only = read("model: three_block" + TINY + "arms: {other: {model: resnet18}}")
    assert [model.name for model in arm_only.models()] == ["three_block", "resnet18"]


FINITE = """
model:
  choice:
    - resnet: {blocks: [1, 1], widths: {choice: [[8, 16], [9, 16], [64, 128]]}, stem: {int: [8, 10]}}
    - resnet: {blocks: [1, 1], widths: {choice: [[10, 16], [65, 128]]}, stem: {int: [8, 10]}}
    - fashion_cnn: {channels: [8]}
optimizer: {sgd: {lr: {choice: [0.1, 0.01]}}}
augmentation: {strength: {choice: [0, 0.5, 1]}, rotation: {choice: [5, 10]}, flip: 0.5}
epochs: 4
arms:
  inside: &arm {model: {fashion_cnn: {channels: [8]}}, optimizer: {sgd: {lr: 0.1}}, augmentation: {strength: 0}}
  inside_too: *arm
budget: {trials: 300, candidates: 200, seeds: 2}
preview: {trials: 250, width: 0.25}
"""


def test_a_finite_space_knows_how_many_configurations_it_has_and_plans_no_more_trials() -> None:
    full = read(FINITE)
    # Networks 3 · 3 + 2 · 3 + 1, learning rates 2, no augmentation or 2 strengths · 2 rotations.
    assert full.configurations == (9 + 6 + 1) * 2 * (1 + 4) == len({*full.combinations(0)})
    assert full.most_trials == 160 + 1  # for each arm is tried
    assert full.with_budget(full.budget).budget == Budget(161, 159, 2)
    assert full.with_budget(Budget(100, 1, 6)).budget == Budget(100, 1, 6)
    # Of a quarter of the width stems are 2, and widths (2, 4) or (16, 32), in either network.
    small = full.at("preview")
    assert small.configurations == (2 + 1) * 2 * (1 + 4) == len({*small.combinations(0)})
    assert small.budget == Budget(31, 29, 2)
    assert small.reductions() == ["31 of 161 trials", "29 of 159 candidates", "networks of 0.25 times the width"]


def test_a_space_that_varies_nothing_has_one_configuration() -> None:
    nothing = read("model: three_block" + TINY)
    assert [*nothing.combinations(0)] == [nothing.suggest(FixedTrial({}))]
    assert nothing.with_budget(nothing.budget).budget == Budget(1, 1, 2)
    arm = read("model: three_block" + TINY + "arms: {only: {}}")
    assert arm.with_budget(arm.budget).budget == Budget(1, 0, 2)


@pytest.mark.parametrize("name", SPACES)
def test_a_continuous_space_has_as_many_trials_as_are_asked_for(name: str) -> None:
    loaded = SPACES[name]
    assert loaded.configurations == math.inf
    assert loaded.with_budget(loaded.budget) == loaded
    for config in itertools.islice(loaded.combinations(1), 50):
        parameters = loaded.parameters_of(config)
        assert parameters is not None
        assert loaded.suggest(FixedTrial(parameters)) == config


def test_outside_the_space() -> None:
    loaded = SPACES["smoke.yaml"]
    inside = loaded.arms["tiny_cnn"]
    assert loaded.parameters_of(inside) == {"model": "fashion_cnn", "optimizer": "adam", "adam.lr": 0.003}
    for outside in (
        dataclasses.replace(inside, optimizer=Adam(lr=0.5)),
        dataclasses.replace(inside, optimizer=Adam(lr=0.003, weight_decay=0.1)),
        dataclasses.replace(inside, schedule=Step()),
        dataclasses.replace(inside, model=FashionCNN()),
        dataclasses.replace(inside, epochs=3),
        dataclasses.replace(inside, augmentation=Augmentation(strength=0.0, flip=0.5)),
    ):
        assert loaded.parameters_of(outside) is None


def test_the_search_ends_an_arm_at_the_spaces_epochs_but_cosine_annealing_would_be_another_schedule() -> None:
    text = SPACES["fashion_cnn.yaml"].text.replace("    - step:", "    - none\n    - step:")
    loaded = read(text.replace("epochs: {choice: [12, 24]}", "epochs: 12"))
    longer = loaded.arms["baseline"]
    assert (longer.epochs, loaded.epochs) == (30, 12)
    assert loaded.parameters_of(longer) is None
    parameters = loaded.parameters_of(dataclasses.replace(longer, epochs=12))
    assert parameters is not None
    assert loaded.parameters_in_search(longer) == parameters
    assert loaded.parameters_in_search(dataclasses.replace(longer, epochs=11)) is None, "trained less than any other"
    annealed = dataclasses.replace(longer, schedule=Cosine())
    assert loaded.parameters_in_search(annealed) is None
    at_12 = dataclasses.replace(annealed, epochs=12)
    assert loaded.parameters_in_search(at_12) == parameters | {"schedule": "cosine", "cosine.warmup": 0.0}


# Epochs that vary

VARIED = """
model: {fashion_cnn: {channels: [4], hidden: [16]}}
optimizer: {sgd: {lr: {choice: [0.01, 0.1]}}}
schedule: {choice: [{none: {warmup: {choice: [0, 0.1]}}}, step, cosine, {one_cycle: {warmup: {uniform: [0.1, 0.5]}}}]}
epochs: EPOCHS
arms:
  long: {optimizer: {sgd: {lr: 0.1}}, schedule: none, epochs: 8}
  short: {optimizer: {sgd: {lr: 0.1}}, schedule: none, epochs: 1}
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {}
"""
INT, CHOICE = "{int: [2, 6]}", "{choice: [2, 5, 9]}"


@pytest.mark.parametrize(("epochs", "lengths"), [(INT, (2, 3, 4, 5, 6)), (CHOICE, (2, 5, 9)), ("{choice: [4]}", (4,))])
def test_epochs_are_drawn_from_what_the_space_gives(epochs: str, lengths: tuple[int, ...]) -> None:
    loaded = read(VARIED.replace("EPOCHS", epochs))
    assert (loaded.lengths, loaded.epochs, loaded.scale.epochs) == (lengths, max(lengths), max(lengths))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [loaded.suggest(study.ask()) for _ in range(40)]
    assert {config.epochs for config in drawn} == {*lengths}
    assert {config.epochs for config in loaded.combinations(0)} == {*lengths}
    finite = read(VARIED.replace("EPOCHS", epochs).replace("{uniform: [0.1, 0.5]}", "0.3"))
    assert finite.configurations == 2 * 5 * len(lengths)


def test_an_arm_must_say_its_epochs_where_they_vary() -> None:
    with pytest.raises(space_file.SpaceError, match=r"arms\.short\.epochs: got nothing, must be given because"):
        read(VARIED.replace("EPOCHS", INT).replace(", epochs: 1", ""))
    with pytest.raises(space_file.SpaceError, match=r"arms\.short\.epochs: got a mapping, must be a fixed value$"):
        read(VARIED.replace("EPOCHS", INT).replace("epochs: 1", f"epochs: {INT}"))


@pytest.mark.parametrize(
    ("epochs", "most", "expected"),
    [
        (INT, 5, Int(2, 5)),
        (INT, 2, 2),
        (INT, 1, 1),
        (CHOICE, 8, Choice((2, 5, 8))),
        (CHOICE, 4, Choice((2, 4))),
        (CHOICE, 2, 2),
        ("12", 4, 4),
    ],
)
def test_a_preview_has_its_epochs_at_most(epochs: str, most: int, expected: Distribution | int) -> None:
    full = read(VARIED.replace("EPOCHS", epochs))
    small = full.scaled(dataclasses.replace(full.scale, epochs=most))
    assert small.rest.options("epochs") == (Choice((expected,)) if isinstance(expected, int) else expected)
    assert (small.epochs, small.scale) == (most, dataclasses.replace(full.scale, epochs=most)), "it can be made again"
    assert f"{most} of " in " ".join(small.reductions())
    assert {name: arm.epochs for name, arm in small.arms.items()} == {"long": min(8, most), "short": 1}
    assert small.parameters_in_search(small.arms["long"]) is not None
    assert full.scaled(full.scale) is full


def test_the_bounds_of_a_preview_are_of_the_most_epochs() -> None:
    text = VARIED.replace("EPOCHS", CHOICE)
    scales = read(text).preview
    assert (scales.least.epochs, scales.most.epochs) == (2, 9)
    with pytest.raises(
        space_file.SpaceError, match=r"preview\.epochs: got 10, must be at most 9, as in the full study"
    ):
        read(text.replace("preview: {}", "preview: {epochs: 10}"))


@pytest.mark.parametrize(
    ("schedule", "epochs", "known"),
    [
        (Constant(), 4, 4),
        (Constant(), 6, 6),
        (Constant(), 8, 6),
        (Constant(), 1, None),  # trained less than any other
        (Constant(warmup=0.1), 4, 4),
        (Constant(warmup=0.1), 8, None),  # whose learning rate rises for longer
        (Step(), 8, 6),
        (Cosine(), 4, 4),
        (Cosine(), 8, None),
        (OneCycle(), 2, 2),
        (OneCycle(), 6, 6),
        (OneCycle(), 7, None),
        (OneCycle(), 1, None),
        (OneCycle(warmup=0.6), 4, None),
    ],
)
def test_an_arm_of_other_epochs_is_known_where_the_search_trains_the_same(
    schedule: Schedule, epochs: int, known: int | None
) -> None:
    loaded = read(VARIED.replace("EPOCHS", INT))
    arm = dataclasses.replace(loaded.arms["long"], schedule=schedule, epochs=epochs)
    parameters = loaded.parameters_in_search(arm)
    assert (parameters or {}).get("epochs") == known
    if parameters is not None:
        assert loaded.suggest(FixedTrial(parameters)) == dataclasses.replace(arm, epochs=known)


def test_a_kernel_that_may_be_even_is_refused() -> None:
    for kernel in ("4", "{choice: [3, 4]}", "{int: [3, 5]}"):
        text = f"model:\n  fashion_cnn:\n    channels: [8]\n    kernel: {kernel}{TINY}"
        with pytest.raises(space_file.SpaceError) as caught:
            read(text)
        (problem,) = caught.value.problems
        must = "got a kernel that may be even, must be odd: one of 1, 3, 5 and 7"
        assert problem.endswith(f"space.yaml:4: model.fashion_cnn.kernel: {must}")
    arm = f"model: fashion_cnn{TINY}arms:\n  even: {{model: {{fashion_cnn: {{kernel: 2}}}}}}"
    with pytest.raises(
        space_file.SpaceError, match=r"space\.yaml:7: arms\.even\.model\.fashion_cnn\.kernel: got a kernel"
    ):
        read(arm)
    assert read(f"model: {{fashion_cnn: {{kernel: {{choice: [1, 3, 5, 7]}}}}}}{TINY}").configurations == 4


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_parameters_of_is_the_inverse_of_suggest(name: str, data: st.DataObject) -> None:
    loaded, trial = SPACES[name], Drawn(data)
    chosen = loaded.suggest(cast(BaseTrial, trial))
    parameters = loaded.parameters_of(chosen)
    assert parameters == trial.params
    assert loaded.suggest(FixedTrial(parameters)) == chosen
    told = optuna.trial.create_trial(params=parameters, distributions=loaded.distributions_of(parameters), value=0.5)
    assert told.params == parameters


def test_optuna_learns_from_arms_and_draws_inside() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3))
    loaded = SPACES["rich"]
    for number in range(12):
        trial = study.ask()
        assert loaded.parameters_of(loaded.suggest(trial)) == trial.params
        study.tell(trial, number / 12)


def test_a_preview_can_be_of_narrower_networks() -> None:
    full = space_file.load(space_file.FOLDER / "optimizer.yaml")
    small = full.at("preview")
    assert full.preview.least.width == full.preview.most.width == small.width == 0.25
    narrow = ResNet(name="resnet", widths=(16, 32, 64, 128), stem=16)
    assert {arm.model for arm in small.arms.values()} == {narrow}
    assert set(small.models()) == {narrow}
    arm = small.arms["adam_step"]
    assert small.suggest(FixedTrial(small.parameters_in_search(arm) or {})) == arm


def test_a_narrower_network_is_labelled_by_its_blocks() -> None:
    small = space_file.load(space_file.FOLDER / "resnet.yaml").at("preview")
    labels = [TrialConfig(model=model, optimizer=SGD(lr=0.03)).label for model in small.models()]
    assert labels == ["resnet 2-2-2-2 sgd lr=0.03", "resnet 1-1-1 sgd lr=0.03"]
    assert TrialConfig(optimizer=SGD(lr=0.03)).label == "resnet18 sgd lr=0.03"


def test_a_width_multiplies_channels_and_units_and_nothing_else() -> None:
    network = FashionCNN(channels=(32, 64, 3), hidden=(256, 1), dropout=0.3)
    assert narrowed(network, 0.25) == FashionCNN(channels=(8, 16, 1), hidden=(64, 1), dropout=0.3)
    assert narrowed(ResNet(), 1.0) == ResNet()
    part = Part("resnet", ResNet(name="resnet"), {"widths": Choice(((64, 128), (8, 16))), "stem": Int(8, 64)})
    assert part.narrowed(0.5).ranges == {"widths": Choice(((32, 64), (4, 8))), "stem": Int(4, 32)}
