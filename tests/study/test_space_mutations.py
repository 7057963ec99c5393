"""The spaces, mutated: each means what YAML says, or is refused in lines that a terminal just shows."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_space import RICH, TECHNIQUES, TINY, read
from optuna.trial import FixedTrial

from study import config, space_file
from study.config import Augmentation, TrialConfig
from study.space import Budget, Choice, Distribution, Int, Log, Part, Preview, Scale, Space, Split, Uniform
from study.space_file import SpaceError

SCRATCH = tempfile.TemporaryDirectory()
LINE = re.compile(r".+?:(\d+): .+: got .+, must be .+")
KINDS = {"uniform": Uniform, "log": Log, "int": Int}
TEXTS = [re.sub("#.*", "", path.read_text(encoding="utf-8")) for path in sorted(space_file.FOLDER.glob("*.yaml"))]
EVERY_KEY = """
split: {train: 600, validation: 300, seed: 7}
arms:
  one: &one
    model: {resnet: {blocks: [2], widths: [8], shortcut: false}}
    optimizer: {sgd: {lr: 0.1, momentum: 0.5, nesterov: true}}
    schedule: cosine
    augmentation: {strength: 0.5, shear: 5, erasing: 1}
    batch_size: 64
    label_smoothing: 0.1
  two: *one
"""
TEXTS += [RICH.replace("{train: 100}", "{train: 100, test: 500, width: 0.5}") + EVERY_KEY, TECHNIQUES]

# fmt: off
NUMBERS = [
    "0", "1", "2", "3", "8", "16", "0.5", "0.25", "0.9", "1.0", "1.0e-3", "1.0e-2", "1e-4", "1_0", "0_1", "010", "0x10",
    "0b11", "0o17", "1:30", "0:30.5", "1" + ":1" * 3000, "+.5", ".5", "+1", "-1", "-0.0", ".inf", "-.inf", ".nan",
    "1e400", "1.0e+400", "1.0e-400", "5.0e-324", "9" * 5000, "0." + "1" * 5000, "0x" + "f" * 5000, "'0.5'", '"3"',
    "2001-01-01", "2001-99-99", "12:30:45",
]
WORDS = [
    "true", "false", "yes", "no", "on", "off", "null", "~", "''", "=", "é", "\u202e", "'\\0'", '"\\e[31m"', '"\\uD800"',
    '"\\UFFFFFFFF"', "'\ufeff'", "x" * 300, "sgd", "adam", "adamw", "resnet", "resnet18", "three_block", "fashion_cnn",
    "none", "step", "cosine", "lr", "momentum", "nesterov", "weight_decay", "strength", "dropout", "shortcut", "stem",
    "model", "epochs", "batch_size", "rmsprop", "one_cycle", "warmup", "kernel", "convolutions", "crop", "reflect",
    "mixup", "ema", "choice", "uniform", "log", "int", "<<", "candidate-1", "../x", "<b>x</b>",
]
VALUES = [
    "[]", "{}", "[[]]", "[{}]", "[1, 2]", "[8, 8]", "{choice: []}", "{choice: [1]}", "{choice: [1, 2]}", "{a: 1}",
    "{choice: [0.1, 0.2]}", "{choice: [1, 1.0]}", "{choice: [0.0, -0.0]}", "{choice: [true, false]}", "{choice: true}",
    "{log: [1.0e-3, 0.5]}", "{log: [0, 1]}", "{uniform: [0, 0.5]}", "{uniform: [0.5, 0]}", "{uniform: [0, .inf]}",
    "{int: [1, 3]}", "{int: [2, 2.0]}", "{log: [0.1, 0.10000000000000002]}", "{sgd: {lr: 0.1}}", "{step: {}}",
    "{none: }", "{choice: [cosine, step]}", "&a [*a]", "&a {a: *a}", "*a", "&a 1", "? [1]\n  : 2", "[" * 1200,
    "{a: " * 400, "{strength: 0, flip: 0.5}", "{strength: 1, flip: 0.5}", "{resnet: {blocks: [1, 1], widths: [4, 8]}}",
]
TAGS = [
    "!", "!x ", "!!str ", "!!int ", "!!float ", "!!bool ", "!!null ", "!!binary ", "!!timestamp ", "!!set ", "!!omap ",
    "!!map ", "!!seq ", "!!python/tuple ", "!!python/object/apply:os.system ", "!<tag:yaml.org,2002:int> ", "&b ",
]
PIECES = [
    "[", "]", "{", "}", ": ", ", ", "- ", "? ", "|\n", ">\n", "'", '"', "\t", "\n", "\r", "#", "&a ", "*a", "%", "@",
    "`", "\0", "\x07", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "---\n", "...\n", "<<: ", "\n  ", "  ",
]
# fmt: on
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "tabs": lambda data: data.replace(b"  ", b"\t"),
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode("utf-8", "replace").encode("utf-16"),
    "two documents": lambda data: data + b"\n---\n" + data,
    "twice": lambda data: data + b"\n" + data,
    "a version": lambda data: b"%YAML 1.2\n---\n" + data,
    "an end": lambda data: data + b"\n...\n",
    "bytes after": lambda data: data + b"\xff",
}


class Pairs(list[list[Any]]):
    """A mapping: its keys and values as written."""


def tree_of(node: yaml.Node) -> Any:
    """A node as `Pairs`, lists and the text of scalars."""
    if isinstance(node, yaml.MappingNode):
        return Pairs([tree_of(key), tree_of(value)] for key, value in node.value)
    return [tree_of(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else node.value


def written(tree: Any) -> str:
    if isinstance(tree, Pairs):
        return "{" + ",\n".join(f"{written(key)}: {written(value)}" for key, value in tree) + "}"
    return "[" + ", ".join(map(written, tree)) + "]" if isinstance(tree, list) else str(tree)


TREES = [tree_of(yaml.compose(text, Loader=yaml.SafeLoader)) for text in TEXTS]


def slots(tree: Any) -> list[tuple[list[Any], int]]:
    """Every place of a key's value or of an item: `parent[index]`."""
    if isinstance(tree, Pairs):
        return [slot for pair in tree for slot in ((pair, 1), *slots(pair[1]))]
    return [slot for i, item in enumerate(tree) for slot in ((tree, i), *slots(item))] if isinstance(tree, list) else []


def mappings(tree: Any) -> list[Pairs]:
    if isinstance(tree, Pairs):
        return [tree, *(found for _, value in tree for found in mappings(value))]
    return [found for item in tree for found in mappings(item)] if isinstance(tree, list) else []


def tweaked(scalar: str, how: int) -> str:
    """A number near this one or written otherwise; of a name or a truth value, another."""
    for names in (*map(list, config.COMPONENTS.values()), ["true", "false", "yes", "Off"]):
        if scalar in names:
            return names[how % len(names)]
    try:
        number = float(scalar)
    except ValueError:
        return scalar
    whole = "." not in scalar and "e" not in scalar
    near = [str(int(number * by) + 1) if whole else f"{number * by:.6e}" for by in (0.3, 0.9, 0.999, 1, 1.5, 2)]
    forms = [f"0{scalar}", f"0o{scalar}", f"{scalar}_", f"{scalar}:0", f"+{scalar}", f"{scalar}e2", f"{scalar}.0"]
    forms += [*near, *near, "0", "true", f"'{scalar}'"]
    return forms[how % len(forms)]


def change(tree: Any, kind: str, at: int, other: int, new: str) -> None:
    """One mutation, in place; `at` and `other` choose where."""
    places, pairs = slots(tree), [(held, i) for held in mappings(tree) for i in range(len(held))]
    if not places or not pairs:
        return
    (parent, i), (second, j) = places[at % len(places)], places[other % len(places)]
    held, k = pairs[at % len(pairs)]
    here, there = written(parent[i]), written(second[j])
    match kind:
        case "delete":
            del held[k]
        case "double":
            held.append([held[k][0], new if other % 2 else held[k][1]])
        case "rename":
            held[k][0] = new
        case "misspell":
            name = str(held[k][0])
            held[k][0] = name[: other % len(name)] + name[other % len(name) + 1 :] if name else new
        case "tag a key":
            held[k][0] = TAGS[other % len(TAGS)] + written(held[k][0])
        case "add":
            held.insert(k, [["<<", new][other % 2], new if other % 3 else there])
        case "replace":
            parent[i] = new
        case "tweak":  # what may well be accepted
            leaves = [(held, i) for held, i in places if isinstance(held[i], str)]
            held, i = leaves[at % len(leaves)] if leaves else (parent, i)
            held[i] = tweaked(written(held[i]), other)
        case "tag":
            parent[i] = TAGS[other % len(TAGS)] + here
        case "swap":
            parent[i], second[j] = there, here
        case "alias":
            parent[i], second[j] = f"&a {here}", "*a"
        case "wrap":
            forms = ("[{}]", "{{choice: [{}]}}", "{{choice: {}}}", "{{{}: {{}}}}", "'{}'", "{{choice: [{}, {new}]}}")
            parent[i] = forms[other % len(forms)].format(here, new=new)
        case "unwrap":
            inner = parent[i]
            parent[i] = inner[0][1] if isinstance(inner, Pairs) and inner else inner[0] if inner else new
        case "drop an item":
            if isinstance(parent[i], list) and parent[i]:
                del parent[i][other % len(parent[i])]
            else:
                parent[i] = ""


CHANGES = ["delete", "double", "rename", "misspell", "tag a key", "add", "replace", "tag", "swap"]
CHANGES += ["alias", "wrap", "wrap", "unwrap", "drop an item", *["tweak"] * 8]
PLACE = st.integers(0, 400)


@st.composite
def changed_trees(draw: st.DrawFn) -> bytes:
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    words = st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.sampled_from(VALUES)
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        change(tree, draw(st.sampled_from(CHANGES)), draw(PLACE), draw(PLACE), draw(words))
    return written(tree).encode()


@st.composite
def changed_bytes(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(TEXTS)).encode()
    pieces = st.sampled_from(PIECES) | st.sampled_from(NUMBERS + WORDS + TAGS)
    for _ in range(draw(st.integers(1, 2))):
        digits = [match.start() for match in re.finditer(rb"\d", data)]
        if digits and draw(st.integers(0, 2)):
            at, piece = draw(st.sampled_from(digits)), draw(st.sampled_from("0123456789._-e"))
        else:
            at, piece = draw(st.integers(0, len(data))), draw(pieces)
        data = data[:at] + piece.encode() + data[at + draw(st.sampled_from((0, 1, 1, 2, 9))) :]
    if data and draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([data[at] ^ draw(st.sampled_from((1, 2, 4, 8, 16, 32, 64, 128)))]) + data[at + 1 :]
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return WHOLE[draw(st.sampled_from([*["as it is"] * len(WHOLE), *WHOLE]))](data)


def meant(tree: dict[str, Any], name: str, text: str) -> Space:
    """What a space means, read a second time from YAML's Python values: no checks, but nothing may be left over.

    Two different trees mean the same only where the README says so: a key left out is its default, an option's name
    alone is that option with its defaults, a choice of one is that one, augmentation without a strength is of strength
    1, and strength 0 has no maxima.
    """

    def value(given: Any, field: dataclasses.Field[Any]) -> Any:
        if field.type == "float":
            assert type(given) in (int, float), given
            return float(given) + 0.0
        if isinstance(given, list):
            assert all(type(item) is int for item in given), given
            return tuple(given)
        assert type(given) is {"int": int, "bool": bool}[str(field.type)], given
        return given

    def read(given: Any, field: dataclasses.Field[Any]) -> Any:
        if not isinstance(given, dict):
            return value(given, field)
        ((kind, inner),) = given.items()
        values = tuple(value(each, field) for each in inner)
        if kind == "choice":
            return Choice(values) if len(values) > 1 else values[0]
        return KINDS[kind](*values)

    def part(label: str, prototype: Any, given: dict[str, Any]) -> Part:
        fields = {field.name: field for field in dataclasses.fields(prototype) if field.name != "name"}
        assert set(given) <= set(fields), given
        values = {key: read(given[key], field) for key, field in fields.items() if key in given}
        ranges = {key: found for key, found in values.items() if isinstance(found, Distribution)}
        fixed = {key: found for key, found in values.items() if key not in ranges}
        return Part(label, dataclasses.replace(prototype, **fixed), ranges)

    def option(kind: str, given: Any, before: list[str]) -> Part:
        ((named, inside),) = given.items() if isinstance(given, dict) else [(given, {})]
        before.append(named)
        label = named if before.count(named) == 1 else f"{named}#{before.count(named)}"
        return part(label, config.COMPONENTS[kind][named], inside)

    def components(given: dict[str, Any]) -> dict[str, tuple[Part, ...]]:
        found: dict[str, tuple[Part, ...]] = {}
        for kind in config.COMPONENTS:
            if kind in given:
                chosen, before = given[kind], list[str]()
                options = chosen["choice"] if isinstance(chosen, dict) and list(chosen) == ["choice"] else [chosen]
                found[kind] = tuple(option(kind, each, before) for each in options)
        if "augmentation" in given:
            augmented = part("augmentation", Augmentation(strength=1), given["augmentation"])
            off = augmented.greatest("strength") == 0
            found["augmentation"] = (Part("augmentation", Augmentation(), {}) if off else augmented,)
        return found

    def plain(given: dict[str, Any], base: TrialConfig) -> Part:
        return part("", base, {key: given[key] for key in space_file.PLAIN if key in given})

    def arm(given: dict[str, Any]) -> TrialConfig:
        assert set(given) <= set(config.FIELDS), given
        own = {kind: parts[0].base for kind, parts in (parts | components(given)).items()}
        fixed: TrialConfig = dataclasses.replace(plain(given, rest.base).base, **own)
        return fixed

    assert set(tree) <= {*config.FIELDS, *space_file.SECTIONS, "arms"}, tree
    rest = plain(tree, TrialConfig())
    defaults = {kind: (Part("", getattr(TrialConfig(), kind), {}),) for kind in space_file.PARTS}
    parts = defaults | components(tree)
    assert "test" not in tree.get("split", {}), tree
    split = part("", Split(), tree.get("split", {})).base
    budget = part("", Budget(**tree["budget"]), tree["budget"]).base

    def scale(end: int) -> Scale:
        given = {key: bounds[end] if isinstance(bounds, list) else bounds for key, bounds in tree["preview"].items()}
        whole = vars(split) | vars(budget) | {"epochs": rest.greatest("epochs"), "width": 1}
        least = {"train": 500, "validation": 500, "test": 1000, "epochs": 2, "candidates": 1, "seeds": 2, "width": 0.25}
        least["trials"] = len(tree.get("arms", {})) + max(2, given.get("candidates", 0))
        default = {key: min(number, whole[key]) for key, number in least.items()} if end == 0 else whole
        small = default | given
        images = {key: small[key] for key in ("train", "validation", "test")}
        trials = {key: small[key] for key in ("trials", "candidates", "seeds")}
        epochs = value(small["epochs"], config.FIELDS["epochs"])
        return Scale(part("", split, images).base, epochs, part("", budget, trials).base, float(small["width"]))

    tree.setdefault("preview", {})
    preview = Preview(scale(0), scale(1))
    arms = {key: arm(given) for key, given in tree.get("arms", {}).items()}
    assert all(type(key) is str for key in arms), arms
    return Space(name, text, parts, rest, split, budget, arms, preview)


def in_range(drawn: TrialConfig) -> None:
    for part in (drawn, drawn.model, drawn.optimizer, drawn.schedule, drawn.augmentation):
        for field in dataclasses.fields(part):
            found, limits = getattr(part, field.name), field.metadata.get("range")
            for one in found if isinstance(found, tuple) else (found,):
                assert limits is None or one in limits, (field.name, found)
    assert config.from_dict(config.to_dict(drawn)) == drawn


def usable(full: Space) -> None:
    """Configurations drawn at both fidelities, and the arms, are of the space and in range."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for space in (full, full.at("preview")):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(2):
            trial = study.ask()
            drawn = space.suggest(trial)
            in_range(drawn)
            found = space.parameters_of(drawn)
            assert found is not None
            assert found == trial.params or space is not full, "narrower networks may coincide"
        for arm in space.arms.values():
            in_range(arm)
            known = space.parameters_in_search(arm)
            at_end = dataclasses.replace(arm, epochs=min(arm.epochs, space.epochs))
            assert known is None or space.suggest(FixedTrial(known)) == at_end


def shown_plainly(problems: list[str], file: str) -> None:
    """Every problem is one line of bounded length, in the promised form, with nothing that acts in a terminal."""
    assert 1 <= len(problems) <= space_file.MAX_PROBLEMS + 1
    for problem in problems:
        assert problem.isprintable(), problem
        assert LINE.fullmatch(problem), problem
        assert len(problem) <= len(repr(file)) + 600, problem


def outcome(data: bytes) -> str:
    """Load a file of these bytes, check what comes of it, and say which it was."""
    path = Path(SCRATCH.name) / "space.yaml"
    path.write_bytes(data)
    try:
        space = space_file.load(path)
    except SpaceError as error:
        shown_plainly(error.problems, str(path))
        return "refused"
    text = data.decode("utf-8")
    assert repr(space) == repr(meant(yaml.safe_load(text), "space", text))
    usable(space)
    return "kept" if repr(dataclasses.replace(space, text="")) in ORIGINALS else "changed"


def without_text(text: str) -> str:
    return repr(dataclasses.replace(read(text), text=""))


ORIGINALS = {without_text(text) for text in TEXTS}


def mutated(strategy: st.SearchStrategy[bytes], examples: int) -> Counter[str]:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(strategy)
    def check(data: bytes) -> None:
        seen[outcome(data)] += 1

    check()
    return seen


@pytest.mark.parametrize("text", TEXTS)
def test_both_readings_agree_on_what_is_not_mutated(text: str) -> None:
    assert outcome(text.encode()) == "kept"
    assert outcome(written(tree_of(yaml.compose(text, Loader=yaml.SafeLoader))).encode()) == "kept"


def runs(trees: int, others: int) -> list[Any]:
    marks = [pytest.mark.slow] if trees > 1000 else []
    kinds = {"trees": (changed_trees(), trees), "bytes": (changed_bytes(), others)}
    return [pytest.param(*run, id=f"{run[1]}-{kind}", marks=marks) for kind, run in kinds.items()]


@pytest.mark.parametrize(("strategy", "examples"), [*runs(350, 250), *runs(3500, 2500)])
def test_mutated_space(strategy: st.SearchStrategy[bytes], examples: int) -> None:
    seen = mutated(strategy, examples)
    assert seen.total() >= examples
    assert min(seen["refused"], seen["changed"]) >= examples // 50, "hardly any space that loads, or none that does not"


TINY_SPACE = f"model: three_block{TINY}"
DEEP = "[" * 30
MANY = ", ".join(f"a{number}: {{}}" for number in range(65))
UNKNOWN = ", ".join(f"a{number}: 0" for number in range(60))
SIZES = ", ".join(f"[{number}]" for number in range(1, 18))
# What was found by mutation, at its smallest: TINY_SPACE with one change, and line: key: got …, must be …
FOUND = {
    # a traceback, from PyYAML
    "timestamp": ("0.1", "!!timestamp x", "2: file: got the tag !!timestamp, must be left out"),
    # accepted, though YAML reads other values, or none
    "bytes": ("three_block", "!!binary three_block", "1: file: got the tag !!binary, must be left out"),
    "null": ("preview: {}", "schedule: !!null none", "5: file: got the tag !!null, must be left out"),
    "own tag": ("three_block", "!x three_block", "1: file: got the tag !x, must be left out"),
    "set": ("preview: {}", "preview: !!set {}", "5: file: got the tag !!set, must be left out"),
    "key of a tag": ("epochs", "!!int epochs", "3: file: got the tag !!int, must be left out"),
    "object": (
        "budget: {",
        "budget: !!python/object/apply:os.system {",
        "4: file: got the tag !!python/object/apply:os.system, must be left out",
    ),
    "handle": (
        "model",
        "%TAG !e! tag:example.com,2026:\n---\n!e!a model",
        "3: file: got the tag tag:example.com,2026:a, must be left out",
    ),
    "true": ("preview: {}", "arms: {yes: {}}", "5: arms: got yes as a key, must be text: write it in quotes"),
    "octal": ("preview: {}", "arms: {010: {}}", "5: arms: got 010 as a key, must be text: write it in quotes"),
    "no key": ("preview: {}", "arms: {~: {}}", "5: arms: got nothing as a key, must be text: write it in quotes"),
    # accepted, and then Optuna's TPE ends with an exception, or draws what lies outside
    "narrow log": (
        "0.1",
        "{log: [0.1, 0.10000000000000002]}",
        "2: optimizer.sgd.lr.log: got [0.1, 0.10000000000000002], must be [low, high] with low and high further apart",
    ),
    "narrow uniform": (
        "0.1",
        "0.1, momentum: {uniform: [0, 5.0e-324]}",
        "2: optimizer.sgd.momentum.uniform: got [0, 5.0e-324], must be [low, high] with low and high further apart",
    ),
    # accepted, and then the plan weighs networks for hours
    "networks": (
        "three_block",
        f"{{fashion_cnn: {{channels: {{choice: &a [{SIZES}]}}, hidden: {{choice: *a}}}}}}",
        "1: model: got a choice of 289 networks, must be of at most 256",
    ),
    # seconds to minutes for one small file
    "deep": (
        "three_block",
        DEEP,
        "1: file: got lists or mappings nested too deeply, must be a mapping as the README describes",
    ),
    "many arms": (
        "preview: {}",
        f"arms: {{{MANY}}}",
        "4: budget.trials: got 4, must be at least 64, for the arms are tried first\n"
        "5: arms: got a mapping of 65 keys, must be one of at most 64",
    ),
    "base 60": (
        "0.1",
        "1" + ":1" * 3000,
        f"2: optimizer.sgd.lr: got 1{':1' * 29}…, must be a number in (0, 100]",
    ),
    # a message of any length, and one that led to the next
    "long number": (
        "0.1",
        f"'0.{'1' * 5000}'",
        f"2: optimizer.sgd.lr: got text '0.{'1' * 56}…, must be a number in (0, 100]",
    ),
    "plus": (
        "0.1",
        "+.5e-1",
        "2: optimizer.sgd.lr: got text '+.5e-1' (YAML 1.1 reads it as text), must be a number: write .5e-1",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_by_mutation(name: str) -> None:
    old, new, expected = FOUND[name]
    assert TINY_SPACE.count(old) == 1
    with pytest.raises(SpaceError) as caught:
        read(TINY_SPACE.replace(old, new))
    assert [problem.split(":", 1)[1] for problem in caught.value.problems] == expected.split("\n")


def test_the_first_hundred_problems_are_told_one_by_one() -> None:
    with pytest.raises(SpaceError) as caught:
        read(f"{TINY_SPACE}arms: {{a: &a {{{UNKNOWN}}},\n b: *a}}")
    assert len(caught.value.problems) == 101
    assert caught.value.problems[-1].endswith("space.yaml:6: file: got 20 more problems, must be none")


@pytest.mark.parametrize("stem", ["a\nb", "\x1b[2J", "\udcff", "\u202ea", "<b>x<b>", ".", "..", "~", "-x", "x" * 250])
def test_a_file_of_any_name(stem: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text(TINY_SPACE, encoding="utf-8")
    assert space_file.load(path).name == path.stem
    path.write_text(f"{TINY_SPACE}x: 1", encoding="utf-8")
    with pytest.raises(SpaceError) as caught:
        space_file.load(path)
    shown_plainly(caught.value.problems, str(path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    os.mkfifo(path)
    with pytest.raises(SpaceError, match="1: file: got a pipe, must be a file that can be read"):
        space_file.load(path)
