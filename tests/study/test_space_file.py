"""Reading spaces: every message of the broken ones, and whatever bytes a file holds."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_space import RICH, TINY, read
from optuna.trial import FixedTrial

from study import space_file
from study.config import MODELS, SGD, Augmentation, FashionCNN
from study.space import Space
from study.space_file import SpaceError

BROKEN_FOLDER = Path(__file__).parent / "broken_spaces"
MESSAGE = re.compile(r"(?s).*?:(\d+): .+: got .+, must be .+")
TRIAL_KEYS = "model, optimizer, schedule, augmentation, epochs, batch_size, label_smoothing, mixup, cutmix, ema, "
TRIAL_KEYS += "flip_test, mean, std"
AUGMENTATION = "strength, rotation, translation, scale, shear, flip, erasing, crop, reflect, whole_pixels"
PREVIEW = "train, validation, test, epochs, trials, candidates, seeds, width"
MAXIMA = "one with rotation, translation, scale, shear, flip, erasing or crop above 0"
# line: key: got …, must be …
BROKEN = {
    "bounds": """
8: preview.train: got [4000, 500], must be [least, most] with least not above most
9: preview.validation: got [200, 300, 400], must be a number, or two: [least, most]
10: preview.test: got text 'few', must be a whole number in [10, 10000]
11: preview.epochs: got 9, must be at most 4, as in the full study
12: preview.trials: got 2, must be at least 3, for the arms are tried first
13: preview.candidates: got a list of 0 items, must be a number, or two: [least, most]
14: preview.seeds: got a mapping, must be a whole number in [1, 1000]
15: preview.width: got 0, must be a number in (0, 1]
""",
    "bounds_together": """
7: preview: got 5 test images left out, must be none or at least 10: what is left out is stratified too
7: preview: got 1 test image left out, must be none or at least 10: what is left out is stratified too
8: preview.train: got 50001, must be at most 50000, as in the full study
12: preview.candidates: got 4, must be at most 3, the number of trials
13: preview.width: got a list of 5 items, must be a number, or two: [least, most]
14: preview.seed: got an unknown key, must be one of @PREVIEW (did you mean seeds?)
""",
    "choices": """
5: model.resnet: got an option that overlaps that of line 4, must be one that cannot take the same values
6: model.resnet18: got an option that overlaps that of line 3, must be one that cannot take the same values
7: model: got [text 'fashion_cnn'], must be one of @MODELS, {NAME: {KEY: value}} or {choice: [...]} of such ones
8: model: got text 'choice', must be one of @MODELS
9: optimizer.sgd.lr.choice: got a list of 0 items, must be a list of 1 to 64 options
9: optimizer.sgd.momentum.choice: got 0.90 twice, must be options that differ
9: optimizer.sgd.nesterov.uniform: got an unknown key, must be one of choice
10: schedule.choice: got text 'cosine', must be a list of 1 to 64 options
11: augmentation.strength: got a mapping of 2 keys, must be a value or one of choice, uniform, log
11: augmentation.flip.uniform: got [0], must be two numbers, [low, high]
11: augmentation.shear.lgo: got an unknown key, must be one of choice, uniform, log (did you mean log?)
11: augmentation.rotation.uniform: got 5, must be two numbers, [low, high]
12: batch_size.log: got an unknown key, must be one of choice, int (did you mean int?)
13: epochs.uniform: got an unknown key, must be one of choice, int (did you mean int?)
""",
    "duplicate_key": """
6: optimizer.sgd.lr: got a second one beside that of line 4, must be given once
10: epochs: got a second one beside that of line 7, must be given once
13: arms.one: got a second one beside that of line 12, must be given once
""",
    "empty": """
1: file: got an empty file, must be a mapping with model, optimizer, epochs, budget
""",
    "exponent": """
4: optimizer.adam.lr.log: got text '1e-4' (YAML 1.1 reads it as text), must be a number: write 1.0e-4
4: optimizer.adam.lr.log: got text '1e-2' (YAML 1.1 reads it as text), must be a number: write 1.0e-2
5: optimizer.adam.weight_decay.choice: got text '1E-05' (YAML 1.1 reads it as text), must be a number: write 1.0e-5
5: optimizer.adam.weight_decay.choice: got text '0.1', must be a number: write 0.1
6: epochs: got text '1e1', must be a whole number in [1, 10000]
""",
    "fixed_sizes": """
4: model.resnet18.blocks: got [1, 1], must be left out: resnet18 has its own; use resnet for other sizes
5: model.resnet18.widths: got a mapping, must be left out: resnet18 has its own; use resnet for other sizes
7: model.three_block.stem: got 8, must be left out: three_block has its own; use resnet for other sizes
13: arms.thin.model.resnet18.widths: got [8, 8], must be left out: resnet18 has its own; use resnet for other sizes
""",
    "log_of_zero": """
4: optimizer.sgd.lr.log: got 0, must be a number in (0, 100]
5: optimizer.adam.weight_decay.log: got [0, 0.1], must be [low, high] with low above 0
""",
    "loop_of_aliases": """
3: optimizer: got text 'choice', must be one of sgd, adam, adamw, rmsprop
5: arms.one.one: got an unknown key, must be one of @TRIAL_KEYS
""",
    "low_above_high": """
1: model.fashion_cnn.dropout.uniform: got [0.5, 0.1], must be [0.1, 0.5], with the lower first
4: optimizer.sgd.lr.log: got [0.3, 0.01], must be [0.01, 0.3], with the lower first
5: optimizer.sgd.momentum.uniform: got [0.9, 0.9], must be [low, high] with low below high, or a fixed value
6: batch_size.int: got [256, 32], must be [32, 256], with the lower first
""",
    "missing_keys": """
1: model: got nothing, must be given
1: epochs: got nothing, must be given
1: optimizer.adam.lr: got nothing, must be given
2: schedule: got nothing, must be one of none, step, cosine, one_cycle (did you mean none?)
4: budget.candidates: got nothing, must be given
4: budget.seeds: got nothing, must be given
5: preview: got 3, must be a mapping
6: arms: got [text 'one', text 'two'], must be a mapping
""",
    "missing_optimizer": """
5: optimizer: got text 'adamm', must be one of sgd, adam, adamw, rmsprop (did you mean adam?)
6: optimizer.adam.lr: got nothing, must be given
11: arms.adagrad.optimizer: got text 'adagrad', must be one of sgd, adam, adamw, rmsprop
12: arms.searched.optimizer.sgd.lr: got a mapping, must be a fixed value
13: arms.chosen.optimizer: got a choice, must be one fixed option in an arm
14: arms.nothing.optimizer: got nothing, must be given because the space varies it
15: arms.empty: got nothing, must be a mapping
16: arms: got the name 'two words', must be 1 to 40 of A-Z, a-z, 0-9, _ and -, other than candidate-…
""",
    "no_maximum": """
3: augmentation: got a strength above 0 and no maximum, must be @MAXIMA
7: arms.half.augmentation: got a strength above 0 and no maximum, must be @MAXIMA
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
9: budget.trials: got 2, must be at least 3, for the arms are tried first
9: budget.candidates: got 3, must be at most 2, the number of trials
11: preview.train: got 56000, must be at most 55000, as in the full study
12: preview.epochs: got 5, must be at most 4, as in the full study
13: preview.trials: got 1, must be at least 3, for the arms are tried first
14: preview.candidates: got 2, must be at most 1, the number of trials
""",
    "tab": """
2: file: got a tab, must be spaces, by which YAML is indented
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
4: schedule.cosine.t_max: got an unknown key, must be one of warmup
5: augmentation: got a strength above 0 and no maximum, must be @MAXIMA
5: augmentation.rotatoin: got an unknown key, must be one of @AUGMENTATION (did you mean rotation?)
7: budget.trails: got an unknown key, must be one of trials, candidates, seeds (did you mean trials?)
9: split.test: got an unknown key, must be one of train, validation, seed, stratified
""",
}


def test_an_arm_takes_from_the_top_level_what_it_leaves_out() -> None:
    loaded = read(
        "model: three_block" + TINY + "schedule: cosine\nbatch_size: 64\narms: {a: {}, b: {epochs: 9, std: 1}}"
    )
    plain = loaded.suggest(FixedTrial({}))
    assert loaded.arms == {"a": plain, "b": dataclasses.replace(plain, epochs=9, std=1.0)}
    assert (plain.model.name, plain.schedule.name, plain.batch_size, plain.epochs) == ("three_block", "cosine", 64, 4)


def test_what_an_arm_names_it_names_whole() -> None:
    """Nothing of the top level's optimizer is left in an arm's own, not even in one of the same name."""
    loaded = read(
        "model: {fashion_cnn: {dropout: 0.5}}\noptimizer: {sgd: {lr: 0.1, momentum: 0.5}}\nepochs: 4\n"
        "augmentation: {strength: 1, flip: 0.5}\nbudget: {trials: 4, candidates: 1, seeds: 2}\npreview: {}\n"
        "arms: {a: {optimizer: {sgd: {lr: 0.2}}, augmentation: {strength: 1, shear: 5}}}"
    )
    arm = loaded.arms["a"]
    assert (arm.optimizer, arm.augmentation) == (SGD(lr=0.2, momentum=0.9), Augmentation(1, shear=5))
    assert arm.model == FashionCNN(dropout=0.5)


def test_a_space_without_preview_has_one_equal_to_the_full_study() -> None:
    without = read("model: three_block" + TINY.replace("preview: {}", "")).at("preview")
    assert dataclasses.replace(without, text="", full=None) == dataclasses.replace(
        read("model: three_block" + TINY).at("preview"), text="", full=None
    )
    assert without.reductions() == []


@pytest.mark.parametrize("name", ["resnet18", "three_block"])
def test_a_network_of_fixed_sizes_may_leave_its_shortcuts_out(name: str) -> None:
    loaded = read(f"model: {{{name}: {{shortcut: false}}}}{TINY}")
    assert loaded.models() == (dataclasses.replace(MODELS[name], shortcut=False),)


def test_every_broken_space_is_expected() -> None:
    assert {path.stem for path in BROKEN_FOLDER.glob("*.yaml")} == set(BROKEN)
    assert len(BROKEN) >= 12


@pytest.mark.parametrize("name", BROKEN)
def test_broken_space(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN_FOLDER)
    with pytest.raises(SpaceError) as caught:
        space_file.load(Path(f"{name}.yaml"))
    expected = BROKEN[name].strip()
    words = {"@TRIAL_KEYS": TRIAL_KEYS, "@AUGMENTATION": AUGMENTATION, "@MAXIMA": MAXIMA, "@PREVIEW": PREVIEW}
    words["@MODELS"] = ", ".join(MODELS)
    for word, text in words.items():
        expected = expected.replace(word, text)
    assert caught.value.problems == [f"{name}.yaml:{line}" for line in expected.splitlines()]
    assert str(caught.value) == "\n".join(caught.value.problems)


PLAIN = """
model: fashion_cnn
optimizer: {adam: {lr: 0.01}}
epochs: 5
budget: {trials: 4, candidates: 1, seeds: 1}
"""
KEYS = f"one of {TRIAL_KEYS}, split, budget"
COMPONENT = "{NAME: {KEY: value}} or {choice: [...]} of such ones"
UNKNOWN = "got an unknown key, must be one of"
# What people write who know another tool, or YAML a little: a part of PLAIN, what stands for it, what is said of it.
HABITS = [
    ("0.01", "[0.1, 0.01]", "optimizer.adam.lr: got [0.1, 0.01], must be a value, or {choice: [0.1, 0.01]} to vary it"),
    ("0.01", "{loguniform: [0.01, 0.3]}", f"lr.loguniform: {UNKNOWN} choice, uniform, log (did you mean log?)"),
    ("0.01", "{quniform: [0.01, 0.3, 0.01]}", "(did you mean uniform?)"),
    ("0.01", "{Categorical: [0.01, 0.3]}", "(did you mean choice?)"),
    ("0.01", "{values: [0.01, 0.3]}", "(did you mean choice?)"),
    ("0.01", "{grid_search: [0.01, 0.3]}", "(did you mean choice?)"),
    ("epochs: 5", "epochs: 5\nbatch_size: {randint: [16, 64]}", f"{UNKNOWN} choice, int (did you mean int?)"),
    ("epochs: 5", "epochs: 5\nbatch_size: {loguniform: [16, 64]}", f"{UNKNOWN} choice, int"),
    ("epochs: 5", "epochs: 5\nbatch_size: {min: 16, max: 64}", "keys, must be a value or {int: [16, 64]}"),
    (
        "0.01",
        "{min: 0.01, max: 0.3}",
        "got a mapping of 2 keys, must be a value or {uniform: [0.01, 0.3]} or {log: [0.01, 0.3]}",
    ),
    ("0.01", "{[1]: 2, Min: 0.01, max: 0.3}", "keys, must be a value or {uniform: [0.01, 0.3]} or {log: [0.01, 0.3]}"),
    ("0.01", "{distribution: log_uniform_values, min: 0.01, max: 0.3}", "must be a value or {log: [0.01, 0.3]}"),
    ("0.01", "{low: 0.01, high: 0.3, log: true}", "must be a value or {log: [0.01, 0.3]}"),
    ("0.01", "{low: 0.01, high: 0.3, log: false}", "a value or {uniform: [0.01, 0.3]} or {log: [0.01, 0.3]}"),
    ("0.01", "{distribution: categorical, values: [1, 2]}", "must be a value or {choice: [1, 2]}"),
    ("0.01", "{log: {min: 0.01, max: 0.3}}", "lr.log: got a mapping, must be two numbers, [0.01, 0.3]"),
    ("0.01", "{log: [0,01, 0,3]}", "lr.log: got [0, 01, 0, 3], must be two numbers, [0.01, 0.3]"),
    ("0.01", "0,01", "3: optimizer.adam.01: got an unknown key, must be one of lr, weight_decay (for a decimal comma"),
    (
        "{adam: {lr: 0.01}}",
        "\n  adam:\n    lr: 0,01",
        "got text '0,01', must be a number with a decimal point: write 0.01$",
    ),
    ("fashion_cnn", "FashionCNN", "(did you mean fashion_cnn?)"),
    ("fashion_cnn", "ResNet18", "(did you mean resnet18?)"),
    ("fashion_cnn", "resnet-18", "(did you mean resnet18?)"),
    ("fashion_cnn", "[fashion_cnn, resnet18]", f"must be one of {', '.join(MODELS)}, {COMPONENT}"),
    (
        "{adam: {lr: 0.01}}",
        "AdamW",
        "got text 'AdamW', must be one of sgd, adam, adamw, rmsprop (did you mean adamw?)",
    ),
    ("{adam:", "{SGD:", "optimizer: got text 'SGD', must be one of sgd, adam, adamw, rmsprop (did you mean sgd?)"),
    ("{adam:", "{adagrad:", "optimizer: got text 'adagrad', must be one of sgd, adam, adamw, rmsprop$"),
    (
        "{adam: {lr: 0.01}}",
        "{name: adam, lr: 0.01}",
        f"got a mapping, must be one of sgd, adam, adamw, rmsprop, {COMPONENT}",
    ),
    ("lr: 0.01", "learning_rate: 0.01", f"adam.learning_rate: {UNKNOWN} lr, weight_decay (did you mean lr?)"),
    ("lr: 0.01", "LR: 0.01", "(did you mean lr?)"),
    ("lr: 0.01", "lr:0.01", "(did you mean lr?)"),
    ("epochs: 5", "num_epochs: 5", "(did you mean epochs?)"),
    ("epochs: 5", "epochs: 5\nbatchsize: 64", f"batchsize: got an unknown key, must be {KEYS}"),
    ("epochs: 5", "epochs: 5\nbatchsize: 64", "(did you mean batch_size?)"),
    ("epochs: 5", "epochs: 5\nlearning-rate: 0.1", "(did you mean optimizer: {sgd: {lr: ...}}?)"),
    ("epochs: 5", "epochs: 5\nnum_samples: 10", "(did you mean budget: {trials: ...}?)"),
    ("epochs: 5", "epochs: 5\ndropout: 0.5", "(did you mean model: {fashion_cnn: {dropout: ...}}?)"),
    ("epochs: 5", "epochs: {uniform: [2, 4]}", f"epochs.uniform: {UNKNOWN} choice, int (did you mean int?)"),
    ("epochs: 5", "epochs: {min: 2, max: 4}", "epochs: got a mapping of 2 keys, must be a value or {int: [2, 4]}"),
    ("epochs: 5", "epochs: 5\nschedule: StepLR", "(did you mean step?)"),
    ("epochs: 5", "epochs: 5\nschedule: {CosineAnnealingLR: {}}", "(did you mean cosine?)"),
    *(
        ("epochs: 5", f"epochs: 5\nschedule: {no}", "none, step, cosine, one_cycle (did you mean none?)")
        for no in ("No", "off", "~")
    ),
    *(
        ("epochs: 5", f"epochs: 5\naugmentation: {no}", "must be a mapping, {strength: 0} for none")
        for no in ("No", "off", "none", "")
    ),
    ("epochs: 5", "epochs: 5\naugmentation: {strength: 1, RandomRotation: 10}", "(did you mean rotation?)"),
]


@pytest.mark.parametrize(("plain", "habit", "expected"), HABITS, ids=lambda text: text[:30])
def test_who_writes_it_as_elsewhere_is_told_how_it_is_written_here(plain: str, habit: str, expected: str) -> None:
    assert PLAIN.count(plain) == 1
    with pytest.raises(SpaceError) as caught:
        read(PLAIN.replace(plain, habit))
    assert any(expected in f"{problem}$" for problem in caught.value.problems), caught.value.problems


SWEEP = """program: train.py
method: bayes
metric: {name: val_accuracy, goal: maximize}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.1}
"""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SWEEP.encode(), "file: got a W&B sweep, must be a space such as search_spaces/smoke.yaml, with {choice: "),
        (PLAIN.encode("utf-16"), "file: got text in UTF-16, must be saved as UTF-8"),
        (PLAIN.encode("utf-16-le"), "file: got text in UTF-16, must be saved as UTF-8"),
        (PLAIN.encode("utf-16-be"), "file: got text in UTF-16, must be saved as UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_one_problem(data: bytes, expected: str) -> None:
    with pytest.raises(SpaceError) as caught:
        read(data)
    assert [expected in problem for problem in caught.value.problems] == [True]


def test_a_byte_order_mark_and_other_ends_of_lines_mean_nothing() -> None:
    plain = dataclasses.replace(read(PLAIN), text="")
    for data in (PLAIN.encode("utf-8-sig"), PLAIN.replace("\n", "\r\n").encode(), PLAIN.replace("\n", "\r").encode()):
        assert dataclasses.replace(read(data), text="") == plain


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(RICH.encode() + b"#" * (1 << 16))
    with pytest.raises(SpaceError, match=re.escape("large.yaml:1: file: got more than 64 KiB, must be at most 64 KiB")):
        space_file.load(path)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="got No such file or directory, must be a file that can be read"):
        space_file.load(tmp_path / "missing.yaml")
    with pytest.raises(SpaceError, match="got Is a directory, must be a file that can be read"):
        space_file.load(tmp_path)


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert space_file.find("resnet.yaml") == space_file.FOLDER / "resnet.yaml"
    (tmp_path / "resnet.yaml").write_text("mine")
    assert space_file.find("resnet.yaml") == Path("resnet.yaml")
    for name in ("resnett.yaml", "", "\0", "x" * 5000):
        with pytest.raises(SpaceError, match=r"got no such file, must be a path or one of augmentation\.yaml, "):
            space_file.find(name)


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
    st.sampled_from([*sorted(space_file.FOLDER.glob("*.yaml")), None]),
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
    text = (space_file.FOLDER / "smoke.yaml").read_text(encoding="utf-8")
    path = tmp_path / "few.yaml"
    path.write_text(text.replace("{train: 600, validation: 300}", "{train: 50000, validation: 9995}"), encoding="utf-8")
    with pytest.raises(SpaceError, match="split: got 5 train images left out, must be none or at least 10"):
        space_file.load(path)
