"""Search spaces: the shipped ones, the sources' arms, every message of the broken ones, and the laws of drawing."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import BaseTrial, FixedTrial

from study import space
from study.config import SGD, Adam, Augmentation, Constant, FashionCNN, ResNet, Step, TrialConfig
from study.space import Budget, Space, SpaceError, Split

SHIPPED = sorted(space.FOLDER.glob("*.yaml"))
BROKEN_FOLDER = Path(__file__).parent / "broken_spaces"
MESSAGE = re.compile(r"(?s).*?:(\d+): .+: got .+, must be .+")
SCRATCH = tempfile.TemporaryDirectory()

TINY = """
optimizer: {sgd: {lr: 0.1}}
epochs: 4
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {}
"""

# Every kind of value, options of equal names, and conditions within conditions.
RICH = """
model:
  choice:
    - resnet: {blocks: {choice: [[1, 1], [2, 2]]}, widths: {choice: [[8, 16], [16, 32]]}, stem: {int: [4, 8]}}
    - resnet: {blocks: [1, 1, 1], widths: [8, 8, 8], shortcut: {choice: [true, false]}}
    - fashion_cnn: {channels: {choice: [[8], [8, 16, 32]]}, hidden: [16], dropout: {uniform: [0, 0.5]}}
    - resnet: {blocks: [3], widths: [8]}
optimizer:
  choice:
    - sgd: {lr: {log: [0.001, 0.1]}, momentum: 0}
    - sgd: {lr: {log: [0.001, 0.1]}, momentum: {uniform: [0.5, 0.9]}, nesterov: {choice: [true, false]}}
    - adamw: {lr: {choice: [0.001, 0.01]}, weight_decay: {choice: [0]}}
schedule: {choice: [cosine, {step: {step_size: {int: [1, 3]}, gamma: {log: [0.1, 1]}}}]}
augmentation: {strength: {uniform: [0, 1]}, rotation: {choice: [0, 10]}, flip: {uniform: [0, 0.5]}, shear: 5}
epochs: 4
batch_size: {int: [16, 256]}
label_smoothing: {choice: [0, 0.1]}
budget: {trials: 4, candidates: 1, seeds: 2}
preview: {train: 100}
"""


def read(text: str | bytes, name: str = "space.yaml") -> Space:
    path = Path(SCRATCH.name) / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return space.load(path)


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


SPACES = {path.name: space.load(path) for path in SHIPPED} | {"rich": read(RICH)}


def test_there_are_six_spaces() -> None:
    names = {"augmentation", "fashion_cnn", "optimizer", "resnet", "skip_connections", "smoke"}
    assert {path.stem for path in SHIPPED} == names


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_space(path: Path) -> None:
    loaded = space.load(path)
    assert loaded.name == path.stem
    assert loaded.text.encode() == path.read_bytes()
    assert f"\n#   python -m study.run --space {path.name}\n" in loaded.text
    assert loaded.arms
    small = loaded.at("preview")
    assert (loaded.fidelity, small.fidelity) == ("full", "preview")
    assert small.epochs <= loaded.epochs
    assert small.budget.trials >= len(small.arms), "a preview that cannot try every arm"
    for arm in loaded.arms.values():
        # The search runs arms for the space's epochs: as such they lie inside, and Optuna can learn from them.
        assert loaded.parameters_of(dataclasses.replace(arm, epochs=loaded.epochs)) is not None


def test_arms_of_the_first_source() -> None:
    resnet18 = ResNet("resnet18", (2, 2, 2, 2), (64, 128, 256, 512), 64, True)
    common: dict[str, Any] = {"epochs": 15, "batch_size": 128, "label_smoothing": 0.0, "mean": 0.5, "std": 0.5}
    common |= {"model": resnet18, "augmentation": Augmentation()}
    assert space.load(space.FOLDER / "resnet.yaml").arms == {
        "sgd_baseline": TrialConfig(
            optimizer=SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4), schedule=Constant(), **common
        ),
        "adam_steplr": TrialConfig(
            optimizer=Adam(lr=1e-3, weight_decay=0.0), schedule=Step(step_size=5, gamma=0.1), **common
        ),
    }


def test_arms_of_the_second_source() -> None:
    common: dict[str, Any] = {"epochs": 30, "batch_size": 128, "label_smoothing": 0.0, "mean": 0.2860, "std": 0.3530}
    common |= {"model": FashionCNN("fashion_cnn", (32, 64, 128), (256, 128), 0.25)}
    common |= {"optimizer": Adam(lr=1e-3, weight_decay=0.0), "schedule": Constant()}
    augmentation = Augmentation(strength=1.0, rotation=10.0, translation=0.1, flip=0.5)
    baseline = TrialConfig(augmentation=Augmentation(), **common)
    augmented = TrialConfig(augmentation=augmentation, **common)
    assert space.load(space.FOLDER / "fashion_cnn.yaml").arms == {"baseline": baseline, "augmented": augmented}
    strengths = space.load(space.FOLDER / "augmentation.yaml").arms
    assert strengths["strength_000"] == baseline
    assert strengths["strength_100"] == augmented


@pytest.mark.parametrize("name", ["optimizer", "skip_connections"])
def test_factorial_arms_differ_only_in_their_factors(name: str) -> None:
    arms = space.load(space.FOLDER / f"{name}.yaml").arms.values()
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
    with pytest.raises(ValueError, match="got a preview"):
        small.at("full")


def test_preview_keeps_what_it_leaves_out() -> None:
    loaded = read("model: three_block" + TINY.replace("{}", "{train: 100, seeds: 1}") + "split: {train: 200, seed: 7}")
    small = loaded.at("preview")
    assert small.split == Split(100, 10_000, 10_000, 7)
    assert small.budget == Budget(4, 1, 1)
    assert small.epochs == 4


def test_an_arm_takes_from_the_top_level_what_it_leaves_out() -> None:
    loaded = read(
        "model: three_block" + TINY + "schedule: cosine\nbatch_size: 64\narms: {a: {}, b: {epochs: 9, std: 1}}"
    )
    plain = loaded.suggest(FixedTrial({}))
    assert loaded.arms == {"a": plain, "b": dataclasses.replace(plain, epochs=9, std=1.0)}
    assert (plain.model.name, plain.schedule.name, plain.batch_size, plain.epochs) == ("three_block", "cosine", 64, 4)


def test_strength_0_has_no_maxima() -> None:
    off = SPACES["rich"].parts["augmentation"][0]
    assert off.suggest(FixedTrial({"augmentation.strength": 0.0})) == Augmentation()
    fixed = read("model: three_block" + TINY + "augmentation: {strength: 0, rotation: 10}")
    assert fixed.suggest(FixedTrial({})).augmentation == Augmentation()


def test_models_that_differ_in_cost() -> None:
    assert [model.name for model in SPACES["resnet.yaml"].models()] == ["resnet18", "three_block"]
    assert SPACES["augmentation.yaml"].models() == (FashionCNN(),)
    # 2 × 2 sizes at the middle stem, with and without shortcut, 2 sizes of the CNN, one more
    assert len(SPACES["rich"].models()) == 4 + 2 + 2 + 1
    assert {model.stem for model in SPACES["rich"].models() if isinstance(model, ResNet)} == {6, 64}
    arm_only = read("model: three_block" + TINY + "arms: {other: {model: resnet18}}")
    assert [model.name for model in arm_only.models()] == ["three_block", "resnet18"]


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


TRIAL_KEYS = "model, optimizer, schedule, augmentation, epochs, batch_size, label_smoothing, mean, std"
AUGMENTATION = "strength, rotation, translation, scale, shear, flip, erasing"
# line: key: got …, must be …
BROKEN = {
    "choices": """
5: model.resnet: got an option that overlaps that of line 4, must be one that cannot take the same values
6: model.resnet18: got an option that overlaps that of line 3, must be one that cannot take the same values
7: model: got [text 'fashion_cnn'], must be one of resnet, resnet18, three_block, fashion_cnn
8: model: got text 'choice', must be one of resnet, resnet18, three_block, fashion_cnn
9: optimizer.sgd.lr.choice: got a list of 0 items, must be a list of 1 to 64 options
9: optimizer.sgd.momentum.choice: got 0.90 twice, must be options that differ
9: optimizer.sgd.nesterov.uniform: got an unknown key, must be one of choice
10: schedule.choice: got text 'cosine', must be a list of 1 to 64 options
11: augmentation.strength: got a mapping of 2 keys, must be a value or one of choice, uniform, log
11: augmentation.flip.uniform: got [0], must be two numbers, [low, high]
11: augmentation.shear.lgo: got an unknown key, must be one of choice, uniform, log (did you mean log?)
11: augmentation.rotation.uniform: got 5, must be two numbers, [low, high]
12: batch_size.log: got an unknown key, must be one of choice, int
13: epochs: got a mapping, must be a fixed value
""",
    "duplicate_key": """
6: optimizer.sgd.lr: got a second one beside that of line 4, must be given once
10: epochs: got a second one beside that of line 7, must be given once
13: arms.one: got a second one beside that of line 12, must be given once
""",
    "empty": """
1: file: got an empty file, must be a mapping with model, optimizer, epochs, budget, preview
""",
    "exponent": """
4: optimizer.adam.lr.log: got text '1e-4' (YAML 1.1 reads it as text), must be a number: write 1.0e-4
4: optimizer.adam.lr.log: got text '1e-2' (YAML 1.1 reads it as text), must be a number: write 1.0e-2
5: optimizer.adam.weight_decay.choice: got text '1E-05' (YAML 1.1 reads it as text), must be a number: write 1.0e-5
5: optimizer.adam.weight_decay.choice: got text '0.1', must be a number: write 0.1
6: epochs: got text '1e1', must be a whole number in [1, 10000]
""",
    "log_of_zero": """
4: optimizer.sgd.lr.log: got 0, must be a number in (0, 100]
5: optimizer.adam.weight_decay.log: got [0, 0.1], must be [low, high] with low above 0
""",
    "loop_of_aliases": """
3: optimizer: got text 'choice', must be one of sgd, adam, adamw
5: arms.one.one: got an unknown key, must be one of @TRIAL_KEYS
""",
    "low_above_high": """
1: model.fashion_cnn.dropout.uniform: got [0.5, 0.1], must be [low, high] with low below high
4: optimizer.sgd.lr.log: got [0.3, 0.01], must be [low, high] with low below high
5: optimizer.sgd.momentum.uniform: got [0.9, 0.9], must be [low, high] with low below high
6: batch_size.int: got [256, 32], must be [low, high] with low below high
""",
    "missing_keys": """
1: model: got nothing, must be given
1: epochs: got nothing, must be given
1: optimizer.adam.lr: got nothing, must be given
2: schedule: got nothing, must be one of none, step, cosine
3: augmentation.strength: got nothing, must be given
4: budget.candidates: got nothing, must be given
4: budget.seeds: got nothing, must be given
5: preview: got 3, must be a mapping
6: arms: got [text 'one', text 'two'], must be a mapping
""",
    "missing_optimizer": """
5: optimizer: got text 'adamm', must be one of sgd, adam, adamw (did you mean adam?)
6: optimizer.adam.lr: got nothing, must be given
11: arms.rms.optimizer: got text 'rmsprop', must be one of sgd, adam, adamw
12: arms.searched.optimizer.sgd.lr: got a mapping, must be a fixed value
13: arms.chosen.optimizer: got a choice, must be one fixed option in an arm
14: arms.nothing.optimizer: got nothing, must be given because the space varies it
15: arms.empty: got nothing, must be a mapping
16: arms: got the name 'two words', must be 1 to 40 of A-Z, a-z, 0-9, _ and -, other than candidate-…
""",
    "not_a_mapping": """
1: file: got text 'just words', must be a mapping
""",
    "not_utf8": """
2: file: got the byte 0xe9, must be text in UTF-8
""",
    "not_yaml": """
3: file: got what is not YAML (expected ',' or '}', but got '<scalar>'), must be YAML
""",
    "only_a_comment": """
3: file: got nothing, must be a mapping
""",
    "out_of_range": """
1: model.fashion_cnn.channels: got a list of 5 items, must be at most 4: each of them halves the image
1: model.fashion_cnn.hidden: got 0, must be a whole number in [1, 8192]
1: model.fashion_cnn.dropout: got 1, must be a number in [0, 1)
2: optimizer.adam.lr: got 0, must be a number in (0, 100]
2: optimizer.adam.weight_decay: got -1, must be a number in [0, 1]
3: schedule.step.step_size: got 0, must be a whole number in [1, 10000]
3: schedule.step.gamma: got .nan, must be a number in (0, 1]
4: augmentation.strength.uniform: got 2, must be a number in [0, 1]
4: augmentation.rotation: got .inf, must be a number in [0, 180]
5: epochs: got 100000000000000000000000000000, must be a whole number in [1, 10000]
6: batch_size: got 1, must be a whole number in [2, 60000]
7: std: got 0, must be a number in (0, 1]
8: budget.trials: got 0, must be a whole number in [1, 100000]
8: budget.candidates: got -1, must be a whole number in [0, 1000]
8: budget.seeds: got 0, must be a whole number in [1, 1000]
9: preview.test: got 20000, must be a whole number in [10, 10000]
""",
    "sums": """
3: model.resnet.widths: got 3 widths for 2 blocks, must be as many widths as blocks in every combination
4: model.resnet.widths: got 2 or 3 widths for 2 or 3 blocks, must be as many widths as blocks in every combination
5: model.fashion_cnn.channels: got a list of 5 items, must be at most 4: each of them halves the image
6: optimizer.sgd.nesterov: got true with momentum 0, must be used with momentum above 0 only
7: split: got 55000 + 10000 = 65000 images, must be at most 60000, all that there are
9: budget.candidates: got 3, must be at most 2, the number of trials
11: preview.train: got 56000, must be at most 55000, as in the full study
12: preview.epochs: got 5, must be at most 4, as in the full study
14: preview.candidates: got 2, must be at most 1, the number of trials
""",
    "tab": """
2: file: got what is not YAML (found character '\\t' that cannot start any token), must be YAML
""",
    "text_for_a_number": """
1: model.resnet.blocks: got text 'one', must be a whole number in [1, 50]
1: model.resnet.stem: got text '8', must be a whole number in [1, 2048]
1: model.resnet.shortcut: got text 'no', must be true or false
2: optimizer.sgd.lr: got text 'fast', must be a number in (0, 100]
2: optimizer.sgd.momentum: got true, must be a number in [0, 1)
3: epochs: got text 'four', must be a whole number in [1, 10000]
4: batch_size: got 64.0, must be a whole number in [2, 60000]
5: label_smoothing: got nothing, must be a number in [0, 1)
""",
    "unknown_alias": """
2: file: got what is not YAML (found undefined alias 'nowhere'), must be YAML
""",
    "unknown_key": """
1: model.resnet.shortcuts: got an unknown key, must be one of blocks, widths, stem, shortcut (did you mean shortcut?)
2: optimiser: got an unknown key, must be one of @TRIAL_KEYS, split, budget, preview, arms (did you mean optimizer?)
3: optimizer.sgd.betas: got an unknown key, must be one of lr, momentum, nesterov, weight_decay
4: schedule.cosine.t_max: got an unknown key, must be left out: there are none here
5: augmentation.rotatoin: got an unknown key, must be one of @AUGMENTATION (did you mean rotation?)
7: budget.trails: got an unknown key, must be one of trials, candidates, seeds (did you mean trials?)
9: split.test: got an unknown key, must be one of train, validation, seed
""",
}


def test_every_broken_space_is_expected() -> None:
    assert {path.stem for path in BROKEN_FOLDER.glob("*.yaml")} == set(BROKEN)
    assert len(BROKEN) >= 12


@pytest.mark.parametrize("name", BROKEN)
def test_broken_space(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN_FOLDER)
    with pytest.raises(SpaceError) as caught:
        space.load(Path(f"{name}.yaml"))
    expected = BROKEN[name].replace("@TRIAL_KEYS", TRIAL_KEYS).replace("@AUGMENTATION", AUGMENTATION).strip()
    assert caught.value.problems == [f"{name}.yaml:{line}" for line in expected.splitlines()]
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(RICH.encode() + b"#" * (1 << 20))
    with pytest.raises(SpaceError, match=re.escape("large.yaml:1: file: got more than 1 MiB, must be at most 1 MiB")):
        space.load(path)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="got No such file or directory, must be a file that can be read"):
        space.load(tmp_path / "missing.yaml")
    with pytest.raises(SpaceError, match="got Is a directory, must be a file that can be read"):
        space.load(tmp_path)


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert space.find("resnet.yaml") == space.FOLDER / "resnet.yaml"
    (tmp_path / "resnet.yaml").write_text("mine")
    assert space.find("resnet.yaml") == Path("resnet.yaml")
    for name in ("resnett.yaml", "", "\0", "x" * 5000):
        with pytest.raises(SpaceError, match=r"got no such file, must be a path or one of augmentation\.yaml, "):
            space.find(name)


def loads_or_reports(data: bytes) -> None:
    try:
        assert isinstance(read(data, "fuzz.yaml"), Space)
        return
    except SpaceError as error:
        problems = error.problems
    assert problems
    matches = [MESSAGE.fullmatch(problem) for problem in problems if problem.isprintable()]
    lines = [int(match[1]) for match in matches if match]
    assert len(lines) == len(problems), problems
    assert lines == sorted(lines)
    assert 1 <= lines[0] <= lines[-1] <= data.count(b"\n") + data.count(b"\r") + 3


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_load_or_report(data: bytes) -> None:
    loads_or_reports(data)


# fmt: off
WORDS = [
    "choice", "log", "[", "]", "{", "}", "&a ", "*a", ": ", ", ", "- ", "? ", "<<: ", "|", "'", '"', "\t", "\n",
    "null", "~", "true", "1e-4", ".nan", "-0.0", "1:30", "2001-99-99", "0x" + "f" * 5000, "9" * 5000, "[" * 1200,
    "!!int ", "!!float ", "!!binary ", "!x ", "%YAML 9.9\n---\n", '"\\UFFFFFFFF"', '"\\uD800"', "&a [*a]", "é",
    "sgd", "resnet", "lr", "momentum", "nesterov", "\u2028",
]
# fmt: on


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*SHIPPED, None]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 12), st.sampled_from(WORDS)), max_size=4),
)
def test_any_change_loads_or_reports(path: Path | None, changes: list[tuple[int, int, str]]) -> None:
    text = path.read_text(encoding="utf-8") if path else RICH
    text = re.sub("#.*", "", text)  # or most changes would only touch comments
    for at, length, new in changes:
        at %= len(text) + 1
        text = text[:at] + new + text[at + length :]
    loads_or_reports(text.encode())


def test_a_split_that_leaves_too_few_images_to_stratify_is_refused(tmp_path: Path) -> None:
    text = (space.FOLDER / "smoke.yaml").read_text(encoding="utf-8")
    path = tmp_path / "few.yaml"
    path.write_text(text.replace("{train: 600, validation: 300}", "{train: 50000, validation: 9995}"), encoding="utf-8")
    with pytest.raises(SpaceError, match="split: got 5 train images left out, must be none or at least 10"):
        space.load(path)
