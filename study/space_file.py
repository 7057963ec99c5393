"""A space from a YAML file: read and checked as a whole.

    model, optimizer, schedule   a name, or {name: {hyperparameter: value, …}}, or {choice: [such ones]}
    a value                      fixed, or {choice: […]}, {uniform: [low, high]}, {log: [low, high]}, {int: [low, high]}
    arms                         {name: fixed settings}; what an arm leaves out it takes from the top level

Arms do so component by component: an optimizer, schedule, model or augmentation that an arm names, it names whole.
What the space varies an arm must give.

The YAML is read as nodes, not as Python values, so that every problem is reported at its own line.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import math
import os.path
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import yaml

from study import config
from study.config import Augmentation, Range, TrialConfig
from study.files import counted
from study.space import (
    TEST_IMAGES,
    TRAINING_IMAGES,
    Budget,
    Choice,
    Distribution,
    Int,
    Log,
    Part,
    Preview,
    Scale,
    Space,
    Split,
    Uniform,
    Value,
)

FOLDER = Path(__file__).resolve().parent.parent / "search_spaces"
CLASSES = 10
MAX_BYTES = 1 << 16
MAX_ITEMS = 64  # of a list, a choice or a mapping: aliases could otherwise make a small file take hours
MAX_DEPTH = 20  # twice what a space can need
MAX_NETWORKS = 256  # to choose from: each of them is weighed before a study starts
MAX_PROBLEMS = 100  # that are told one by one
LONGEST = 60  # characters of a number, and of what a message shows
YAML_TAG = "tag:yaml.org,2002:"
SECTIONS = {
    "split": ("train", "validation", "seed", "stratified"),
    "budget": ("trials", "candidates", "seeds"),
    "preview": ("train", "validation", "test", "epochs", "trials", "candidates", "seeds", "width"),
}
REQUIRED = ("model", "optimizer", "epochs", "budget")
ARM_NAME = re.compile(r"(?!candidate-)[A-Za-z0-9_-]{1,40}")
PARTS = (*config.COMPONENTS, "augmentation")
PLAIN = {name: field for name, field in config.FIELDS.items() if name not in PARTS}
WIDTH = next(field for field in dataclasses.fields(Scale) if field.name == "width")
NUMBERS = {f.name: f for f in (*dataclasses.fields(Split), *dataclasses.fields(Budget), PLAIN["epochs"], WIDTH)}
# What Ray Tune, Optuna, W&B, Keras Tuner and torch call it, in lower case and letters and digits alone.
SYNONYMS = {
    "choice": "categorical choices gridsearch grid values options oneof",
    "log": "loguniform qloguniform loguniformvalues qloguniformvalues logfloat reciprocal",
    "uniform": "quniform float int randint",
    "int": "randint qrandint lograndint qlograndint uniform quniform log",
    "lr": "learningrate initiallr baselr",
    "weight_decay": "wd l2 decay",
    "batch_size": "batch bs",
    "epochs": "epoch maxiter trainingiteration",
    "trials": "numsamples ntrials maxtrials runcap",
    "schedule": "lrschedule scheduler",
    "none": "no off false null constant constantlr",
    "step": "steplr multisteplr",
    "cosine": "cosineannealing cosineannealinglr cosinedecay",
    "one_cycle": "onecycle onecyclelr",
    "warmup": "pctstart warmupratio",
    "ema": "averaging swa",
    "step_size": "step stepepochs",
    "gamma": "factor",
    "fashion_cnn": "cnn",
    "rotation": "degrees randomrotation",
    "translation": "translate",
    "flip": "hflip horizontalflip randomhorizontalflip",
    "erasing": "randomerasing cutout",
    "validation": "val valid",
}
BOUNDS = (("min", "max"), ("low", "high"), ("lower", "upper"))
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# What a preview has at least where its space does not say; of what the full study has less of, as much as that.
LEAST = {"train": 500, "validation": 500, "test": 1000, "epochs": 2, "candidates": 1, "seeds": 2, "width": 0.25}

T = TypeVar("T")
Entries = dict[str, yaml.Node]


class SpaceError(ValueError):
    """Everything that is wrong with a space: `problems`, one a line, `file:line: key: got …, must be …`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


def find(name: str) -> Path:
    """The file of that name: as given where it exists, else among the project's own spaces. Raises SpaceError."""
    for path in (Path(name), FOLDER / name, FOLDER / f"{name}.yaml"):
        if os.path.isfile(path):
            return path
    known = ", ".join(sorted(path.name for path in FOLDER.glob("*.yaml")))
    raise SpaceError([f"{_short(name)}:1: file: got no such file, must be a path or one of {known}"])


def load(path: Path) -> Space:
    """The space in a file. Raises SpaceError with every problem, in the order of the lines."""
    reader = _Reader(str(path))
    text, root = reader.compose(path)
    space = reader.space(root, path.stem, text) if root is not None else None
    if space is None:
        problems = sorted(dict.fromkeys(reader.problems), key=lambda problem: problem[:2])
        messages = [message for *_, message in problems[:MAX_PROBLEMS]]
        if more := problems[MAX_PROBLEMS:]:
            messages.append(f"{reader.file}:{more[0][0]}: file: got {counted(len(more), 'more problem')}, must be none")
        raise SpaceError(messages)
    return space


class _Loader(yaml.SafeLoader):
    """Composes nodes to a bounded depth, for PyYAML takes minutes over deep ones, and keeps the tags that it met."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.tags: list[tuple[yaml.Node, str]] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        tag = getattr(self.peek_event(), "tag", None)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        if tag and node:
            self.tags.append((node, tag))
        return node


class _Reader:
    """Reads nodes into values and collects the problems; what could not be read is None or keeps its default."""

    def __init__(self, file: str) -> None:
        self.file = _printable(file)
        self.problems: list[tuple[int, int, str]] = []  # line, column, message
        self.keys: dict[str, yaml.Node] = {}  # where each dotted key was met last

    def problem(self, at: yaml.Node | int, key: str, got: str, must: str) -> None:
        line, column = (at, 0) if isinstance(at, int) else (at.start_mark.line + 1, at.start_mark.column)
        self.problems.append((line, column, f"{self.file}:{line}: {key}: got {got}, must be {must}"))

    def compose(self, path: Path) -> tuple[str, yaml.Node | None]:
        """The file's text and its root node; None, reported, where there is none."""
        data, text = b"", ""
        try:
            if path.is_fifo():
                raise OSError("a pipe")  # to open one is to wait for who writes to it
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                self.problem(1, "file", "more than 64 KiB", "at most 64 KiB")
                return text, None
            if data.startswith(UTF_16) or 0 in data[:2]:
                self.problem(1, "file", "text in UTF-16", "saved as UTF-8")
                return text, None
            text = data.decode("utf-8")
            loader = _Loader(text)
            root = loader.get_single_node()
            for node, tag in loader.tags:
                self.problem(node, "file", f"the tag {_short(tag.replace(YAML_TAG, '!!'))}", "left out")
            if root is None:
                self.problem(1, "file", "an empty file", f"a mapping with {', '.join(REQUIRED)}")
            return text, None if loader.tags else root
        except OSError as error:
            self.problem(1, "file", error.strerror or str(error), "a file that can be read")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self.problem(line, "file", f"the byte 0x{data[error.start]:02x}", "text in UTF-8")
        except RecursionError:
            self.problem(1, "file", "lists or mappings nested too deeply", "a mapping as the README describes")
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: PyYAML on "\UFFFFFFFF"
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
            what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
            if r"'\t'" in what:
                self.problem(line, "file", "a tab", "spaces, by which YAML is indented")
            else:
                self.problem(line, "file", f"what is not YAML ({_short(what)})", "YAML")
        return text, None

    def space(self, root: yaml.Node, name: str, text: str) -> Space | None:
        """The whole file; None where there was any problem."""
        self.keys[""] = root
        if self.is_sweep(root):
            return None
        top = self.mapping(root, "", [*config.FIELDS, *SECTIONS, "arms"])
        if isinstance(root, yaml.MappingNode):
            self.missing("", REQUIRED, top)
        parts, rest, bad = self.settings(top, "", TrialConfig(), fixed=False)
        parts = {key: parts.get(key) or (Part("", getattr(rest.base, key), {}),) for key in PARTS}
        named = self.mapping(top["arms"], "arms", None) if "arms" in top else {}
        arms = {arm: self.arm(arm, node, parts, rest) for arm, node in named.items()}
        epochs = int(rest.greatest("epochs")) if "epochs" in top and "epochs" not in bad else None
        networks = sum(part.networks for part in parts["model"])
        if networks > MAX_NETWORKS:
            self.problem(self.keys["model"], "model", f"a choice of {networks} networks", f"of at most {MAX_NETWORKS}")
        full = dataclasses.asdict(Split()) | {"epochs": epochs, "width": WIDTH.default}
        full |= self.section(top, "split") | self.section(top, "budget")
        least, most = self.bounds(top, full, len(named))
        self.totals(full, least, most, len(named))
        if self.problems:
            return None
        preview = Preview(_scale(least), _scale(most))
        return Space(name, text, parts, rest, _pick(Split, full), _pick(Budget, full), arms, preview)

    def bounds(self, top: Entries, full: dict[str, Any], arms: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The least and the most of each number of a preview; None for one that could not be read."""
        given = self.section(top, "preview", bounds=True)
        candidates = given.get("candidates", (0, 0))[0] or 0
        default = LEAST | {"trials": arms + max(2, candidates)}
        least = {k: number if number is None else min(default.get(k, number), number) for k, number in full.items()}
        most = full | {key: ends[1] for key, ends in given.items()}
        return least | {key: ends[0] for key, ends in given.items()}, most

    def is_sweep(self, root: yaml.Node) -> bool:
        """Whether it is the configuration of a W&B sweep; reports that as one problem."""
        entries = root.value if isinstance(root, yaml.MappingNode) else []
        names = {name.value for name, _ in entries if isinstance(name, yaml.ScalarNode)}
        if "parameters" not in names or names.isdisjoint(("method", "metric", "program")):
            return False
        ranges = (
            "{choice: [...]} for values, {uniform: [min, max]}, {log: [min, max]} or {int: [min, max]} for min and max"
        )
        self.problem(root, "file", "a W&B sweep", f"a space such as search_spaces/smoke.yaml, with {ranges}")
        return True

    def totals(self, full: dict[str, Any], least: dict[str, Any], most: dict[str, Any], arms: int) -> None:
        """What numbers cannot be together; None stands for one that could not be read."""
        train, validation = full["train"], full["validation"]
        if train and validation and train + validation > TRAINING_IMAGES:
            got = f"{train} + {validation} = {train + validation} images"
            self.problem(self.keys["split"], "split", got, f"at most {TRAINING_IMAGES}, all that there are")
        for section, numbers in (("split", full), ("preview", least), ("preview", most)):
            at = self.keys.get(section)
            for part, whole in (("train", TRAINING_IMAGES), ("test", TEST_IMAGES)):
                held = numbers["validation"] if part == "train" else 0
                if at and numbers[part] and held is not None and 0 < whole - numbers[part] - held < CLASSES:
                    got = f"{counted(whole - numbers[part] - held, f'{part} image')} left out"
                    self.problem(at, section, got, f"none or at least {CLASSES}: what is left out is stratified too")
        for key, number in most.items():
            if number is not None and full[key] is not None and number > full[key]:
                must = f"at most {full[key]}, as in the full study"
                self.problem(self.keys[f"preview.{key}"], f"preview.{key}", str(number), must)
        for section, numbers in (("budget", full), ("preview", least), ("preview", most)):
            trials, candidates = numbers["trials"], numbers["candidates"]
            at = self.keys.get(f"{section}.candidates") or self.keys.get(f"{section}.trials")
            if at and trials is not None and candidates is not None and candidates > trials:
                must = f"at most {trials}, the number of trials"
                self.problem(at, f"{section}.candidates", str(candidates), must)
            at = self.keys.get(f"{section}.trials")
            if at and trials is not None and trials < arms:
                must = f"at least {arms}, for the arms are tried first"
                self.problem(at, f"{section}.trials", str(trials), must)

    def section(self, top: Entries, key: str, bounds: bool = False) -> dict[str, Any]:
        """The numbers that a section gives, by name, or the bounds; None for one that could not be read."""
        known = SECTIONS[key]
        unread = dict.fromkeys(known if key == "budget" else ())
        if key not in top:
            return unread
        entries = self.mapping(top[key], key, known)
        nothing = (None, None) if bounds else None
        if not isinstance(top[key], yaml.MappingNode):
            return dict.fromkeys(known, nothing)
        self.missing(key, unread, entries)
        read = self.ends if bounds else self.constant
        return unread | {k: read(node, f"{key}.{k}", NUMBERS[k]) for k, node in entries.items()}

    def ends(self, node: yaml.Node, key: str, field: dataclasses.Field[Any]) -> tuple[Any, Any]:
        """The two numbers of a list [least, most], or a number twice."""
        if not isinstance(node, yaml.SequenceNode):
            return (self.constant(node, key, field),) * 2
        if len(node.value) != 2:
            self.problem(node, key, _shown(node), "a number, or two: [least, most]")
            return None, None
        least, most = (self.constant(end, key, field) for end in node.value)
        if least is not None and most is not None and least > most:
            self.problem(node, key, _shown(node), "[least, most] with least not above most")
        return least, most

    def arm(self, name: str, node: yaml.Node, top: dict[str, tuple[Part, ...]], rest: Part) -> TrialConfig:
        at, key = self.keys[f"arms.{name}"], f"arms.{_short(name)}"
        if not ARM_NAME.fullmatch(name):
            must = "1 to 40 of A-Z, a-z, 0-9, _ and -, other than candidate-…"
            self.problem(at, "arms", f"the name {_short(repr(name))}", must)
        entries = self.mapping(node, key, config.FIELDS)
        parts, own, _ = self.settings(entries, key, rest.base, fixed=True)
        varied = {k for k, alternatives in top.items() if len(alternatives) > 1 or alternatives[0].ranges}
        for field in config.FIELDS if isinstance(node, yaml.MappingNode) else ():
            if field not in entries and (field in varied or field in rest.ranges):
                self.problem(at, f"{key}.{field}", "nothing", "given because the space varies it")
        chosen = {kind: (parts.get(kind) or top[kind])[0].base for kind in PARTS}
        result: TrialConfig = dataclasses.replace(own.base, **chosen)
        return result

    def settings(
        self, entries: Entries, key: str, defaults: TrialConfig, fixed: bool
    ) -> tuple[dict[str, tuple[Part, ...]], Part, set[str]]:
        """The components that are given and readable, the plain settings, and which of these could not be read."""
        parts = {k: self.component(entries[k], _join(key, k), k, fixed) for k in config.COMPONENTS if k in entries}
        if "augmentation" in entries:
            inner = _join(key, "augmentation")
            what = "a mapping, {strength: 0} for none"
            maxima = self.mapping(entries["augmentation"], inner, _names(Augmentation()), what)
            is_mapping = isinstance(entries["augmentation"], yaml.MappingNode)
            part, bad = self.fill(maxima, inner, Augmentation(strength=1 if is_mapping else 0), fixed)
            off = part.greatest("strength") == 0
            if not off and not bad and all(part.greatest(name) == 0 for name in config.MAXIMA):
                must = f"one with {', '.join(config.MAXIMA[:-1])} or {config.MAXIMA[-1]} above 0"
                self.problem(self.keys[inner], inner, "a strength above 0 and no maximum", must)
            parts["augmentation"] = (Part("augmentation", Augmentation(), {}) if off else part,)
        rest, bad = self.fill({k: entries[k] for k in PLAIN if k in entries}, key, defaults, fixed)
        return parts, dataclasses.replace(rest, label=""), bad

    def component(self, node: yaml.Node, key: str, kind: str, fixed: bool) -> tuple[Part, ...]:
        """The alternatives of a model, optimizer or schedule, labelled apart; empty where none could be read."""
        options = [node]
        if isinstance(node, yaml.MappingNode) and [name.value for name, _ in node.value] == ["choice"]:
            if fixed:
                self.problem(node, key, "a choice", "one fixed option in an arm")
                return ()
            options = self.items(node.value[0][1], f"{key}.choice", "options")
        read = [(option, part) for option in options if (part := self.option(option, key, kind, fixed))]
        parts: list[Part] = []
        for option, part in read:
            twin = next((other for other, earlier in read[: len(parts)] if part.overlaps(earlier)), None)
            if twin is not None:
                got = f"an option that overlaps that of line {twin.start_mark.line + 1}"
                self.problem(option, f"{key}.{part.label}", got, "one that cannot take the same values")
            same = 1 + sum(earlier.base.name == part.base.name for earlier in parts)
            parts.append(part if same == 1 else dataclasses.replace(part, label=f"{part.label}#{same}"))
        return tuple(parts)

    def option(self, node: yaml.Node, key: str, kind: str, fixed: bool) -> Part | None:
        """One component: a name, or a name with its hyperparameters."""
        known = config.COMPONENTS[kind]
        at, inside = node.value[0] if isinstance(node, yaml.MappingNode) and len(node.value) == 1 else (node, None)
        if not isinstance(at, yaml.ScalarNode):
            must = f"one of {', '.join(known)}, {{NAME: {{KEY: value}}}} or {{choice: [...]}} of such ones"
            self.problem(at, key, _shown(at), must)
            return None
        name = at.value
        if name not in known:
            null = at.tag == f"{YAML_TAG}null"
            self.problem(at, key, _shown(at), _one_of(known, "null" if null else name, {"choice": "choice"}))
            return None
        prototype, key = known[name], f"{key}.{name}"
        self.keys[key] = at
        entries = self.mapping(inside, key, _names(prototype)) if inside is not None else {}
        for size in [size for size in config.FIXED_SIZES.get(name, ()) if size in entries]:
            must = f"left out: {name} has its own; use resnet for other sizes"
            self.problem(self.keys[f"{key}.{size}"], f"{key}.{size}", _shown(entries.pop(size)), must)
        readable = inside is None or isinstance(inside, yaml.MappingNode)
        part, bad = self.fill(entries, key, prototype, fixed, ("lr",) if kind == "optimizer" and readable else ())
        if conflict := part.conflict(bad):
            where, got, must = conflict
            self.problem(self.keys[f"{key}.{where}" if where in entries else key], f"{key}.{where}", got, must)
        return part

    def fill(
        self, entries: Entries, key: str, prototype: Any, fixed: bool, required: tuple[str, ...] = ()
    ) -> tuple[Part, set[str]]:
        """The prototype with the entries' values in place, and the names of those that could not be read."""
        fields = {field.name: field for field in dataclasses.fields(prototype)}
        read = {
            name: self.parameter(entries[name], _join(key, name), field, fixed)
            for name, field in fields.items()
            if name in entries
        }
        bad = {name for name, value in read.items() if value is None} | set(self.missing(key, required, entries))
        ranges = {name: value for name, value in read.items() if isinstance(value, Distribution)}
        base = {name: value for name, value in read.items() if name not in bad and name not in ranges}
        return Part(key.rpartition(".")[2], dataclasses.replace(prototype, **base), ranges), bad

    def parameter(
        self, node: yaml.Node, key: str, field: dataclasses.Field[Any], fixed: bool
    ) -> Value | Distribution | None:
        """A fixed value or a distribution of the field; a choice of one is that value."""
        if isinstance(node, yaml.SequenceNode) and not fixed:
            nested = any(isinstance(item, yaml.SequenceNode) for item in node.value)
            if nested or str(field.type) != "tuple[int, ...]":
                self.problem(node, key, _shown(node), f"a value, or {{choice: {_list(node)}}} to vary it")
                return None
        if not isinstance(node, yaml.MappingNode):
            constant: Value | None = self.constant(node, key, field)
            return constant
        if fixed:
            self.problem(node, key, "a mapping", "a fixed value")
            return None
        kinds = {"float": ("choice", "uniform", "log"), "int": ("choice", "int")}.get(str(field.type), ("choice",))
        if len(node.value) != 1:
            must = f"a value or {_instead(node, kinds) or 'one of ' + ', '.join(kinds)}"
            self.problem(node, key, f"a mapping of {len(node.value)} keys", must)
            return None
        for kind, inner in self.mapping(node, key, kinds).items():
            read = self.choice if kind == "choice" else self.range
            return read(inner, f"{key}.{kind}", field)
        return None

    def range(self, node: yaml.Node, key: str, field: dataclasses.Field[Any]) -> Distribution | None:
        kinds: dict[str, type[Uniform | Log | Int]] = {"uniform": Uniform, "log": Log, "int": Int}
        kind = kinds[key.rpartition(".")[2]]
        if not isinstance(node, yaml.SequenceNode) or len(node.value) != 2:
            self.problem(node, key, _shown(node), f"two numbers, [{', '.join(_two_numbers(node) or ('low', 'high'))}]")
            return None
        low, high = (self.constant(end, key, field) for end in node.value)
        if low is None or high is None:
            return None
        if low == high:
            self.problem(node, key, _shown(node), "[low, high] with low below high, or a fixed value")
        elif low > high:
            self.problem(node, key, _shown(node), f"{_list(node, reverse=True)}, with the lower first")
        elif math.isclose(low, high, abs_tol=1e-300):  # samplers round to what lies outside, or to no number
            self.problem(node, key, _shown(node), "[low, high] with low and high further apart")
        elif kind is Log and low <= 0:
            self.problem(node, key, _shown(node), "[low, high] with low above 0")
        else:
            return kind(low, high)
        return None

    def choice(self, node: yaml.Node, key: str, field: dataclasses.Field[Any]) -> Value | Distribution | None:
        nodes = self.items(node, key, "options")
        options: list[Any] = []
        for item in nodes:
            value = self.constant(item, key, field)
            if value is not None and value in options:
                self.problem(item, key, f"{_shown(item)} twice", "options that differ")
            elif value is not None:
                options.append(value)
        if not options or len(options) < len(nodes):
            return None
        only: Value = options[0]
        return Choice(tuple(options)) if len(options) > 1 else only

    def constant(self, node: yaml.Node, key: str, field: dataclasses.Field[Any]) -> Any:
        """A value of the field's type and in its range; None, reported, where it is not."""
        kind, limits = str(field.type), field.metadata.get("range", Range(-math.inf, math.inf))
        if kind == "tuple[int, ...]":
            items = self.items(node, key, f"whole numbers {limits}")
            values = tuple(self.scalar(item, key, "int", limits) for item in items)
            return None if not values or None in values else values
        return self.scalar(node, key, kind, limits)

    def scalar(self, node: yaml.Node, key: str, kind: str, limits: Range) -> bool | int | float | None:
        value = _construct(node)
        if kind == "bool" and isinstance(value, bool):
            return value
        if kind == "int" and type(value) is int and value in limits:
            return value
        if kind == "float" and type(value) in (int, float) and value in limits:
            return float(value) + 0.0  # -0.0 becomes 0.0: equal configurations have equal ids
        got = _shown(node)
        must = {"bool": "true or false", "int": f"a whole number {limits}", "float": f"a number {limits}"}[kind]
        if kind == "float" and isinstance(value, str) and (number := _as_number(value, limits)):
            comma = "," in value
            got += " (YAML 1.1 reads it as text)" if getattr(node, "style", None) is None and not comma else ""
            must = f"a number{' with a decimal point' if comma else ''}: write {number}"
        self.problem(node, key, got, must)
        return None

    def items(self, node: yaml.Node, key: str, what: str) -> list[yaml.Node]:
        """The items of a list; none, reported, where it is not one, or is empty or too long."""
        if isinstance(node, yaml.SequenceNode) and 1 <= len(node.value) <= MAX_ITEMS:
            return list(node.value)
        self.problem(node, key, _shown(node), f"a list of 1 to {MAX_ITEMS} {what}")
        return []

    def mapping(self, node: yaml.Node, key: str, known: Collection[str] | None, what: str = "a mapping") -> Entries:
        """The entries of a mapping whose keys are known (any text where None) and given once."""
        entries: Entries = {}
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, key or "file", _shown(node), what)
            return entries
        if len(node.value) > MAX_ITEMS:
            self.problem(node, key or "file", f"a mapping of {len(node.value)} keys", f"one of at most {MAX_ITEMS}")
        for at, value in node.value[:MAX_ITEMS]:
            if not isinstance(at, yaml.ScalarNode):
                self.problem(at, key or "file", f"{_shown(at)} as a key", "text")
                continue
            name, inner = at.value, _join(key, _short(at.value))
            if known is not None and name not in known:
                comma = " (for a decimal comma write a point)" if name.isdecimal() else ""
                self.problem(at, inner, "an unknown key", _one_of(known, name, {} if key else INSIDE) + comma)
            elif at.tag != f"{YAML_TAG}str":
                self.problem(at, key, f"{_shown(at)} as a key", "text: write it in quotes")
            elif name in entries:
                first = self.keys[_join(key, name)].start_mark.line + 1
                self.problem(at, inner, f"a second one beside that of line {first}", "given once")
            else:
                self.keys[_join(key, name)] = at
                entries[name] = value
        return entries

    def missing(self, key: str, required: Collection[str], entries: Entries) -> list[str]:
        names = [name for name in required if name not in entries]
        for name in names:
            self.problem(self.keys[key], _join(key, name), "nothing", "given")
        return names


def _names(prototype: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(prototype) if field.name != "name")


def _pick(kind: type[T], numbers: dict[str, Any]) -> T:
    return kind(**{name: numbers[name] for name in _names(kind)})


def _scale(numbers: dict[str, Any]) -> Scale:
    return Scale(_pick(Split, numbers), int(numbers["epochs"]), _pick(Budget, numbers), float(numbers["width"]))


def _construct(node: yaml.Node) -> Any:
    """The Python value of a scalar; None for anything else, for one too long, and for what its tag cannot read."""
    if not isinstance(node, yaml.ScalarNode) or len(node.value) > LONGEST:
        return None
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError, OverflowError):
        return None


def _as_number(text: str, limits: Range) -> str | None:
    """How YAML 1.1 wants the number written that the text means: `1.0e-4` for `1e-4`; None where it means none."""
    if re.fullmatch(r"[+-]?\d*,\d+", text):
        text = text.replace(",", ".")
    mantissa, _, exponent = text.strip().lower().lstrip("+").partition("e")
    try:
        if not text.isascii() or float(text) not in limits:
            return None
        return mantissa + ("" if "." in mantissa else ".0") + (f"e{int(exponent):+d}" if exponent else "")
    except ValueError:
        return None


def _one_of(known: Collection[str], got: str, elsewhere: dict[str, str] | None = None) -> str:
    """Return the known names, and which of them, or of `elsewhere`, is meant: the same, a synonym or the nearest."""
    texts = (elsewhere or {}) | {name: name for name in known}
    plain = {_plain(name): name for name in texts}
    name = _plain(got[:100])
    meant = (
        [plain[name]] if name in plain else [n for n, other in SYNONYMS.items() if name in other.split() and n in texts]
    )
    near = meant or [plain[n] for n in difflib.get_close_matches(name, map(_plain, known), 1)]
    hint = f" (did you mean {texts[near[0]]}?)" if near and texts[near[0]] != got else ""
    return f"one of {', '.join(known)}{hint}"


def _plain(name: str) -> str:
    """Return a name without what people and tools write differently: `Learning-Rate` as `learningrate`."""
    return re.sub(r"[\W_]", "", name.partition(":")[0].lower())


def _inside() -> dict[str, str]:
    """Return where the hyperparameters and numbers belong that are no keys of the top level."""
    found = {name: f"{section}: {{{name}: ...}}" for section, names in reversed(SECTIONS.items()) for name in names}
    found |= {name: f"augmentation: {{{name}: ...}}" for name in _names(Augmentation())}
    for kind, known in config.COMPONENTS.items():
        for option, prototype in reversed(known.items()):
            found |= {name: f"{kind}: {{{option}: {{{name}: ...}}}}" for name in _names(prototype)}
    return found


def _list(node: yaml.SequenceNode, reverse: bool = False) -> str:
    """Return a list as it can be written; one that is long or not of scalars, in short."""
    items = node.value[::-1] if reverse else node.value
    if len(items) > 4 or not all(isinstance(item, yaml.ScalarNode) for item in items):
        return "[...]"
    return f"[{', '.join(_short(item.value) for item in items)}]"


def _instead(node: yaml.MappingNode, kinds: tuple[str, ...]) -> str | None:
    """Return how to write what is written as `{min: 1, max: 2}`, `{distribution: …, values: […]}` or the like."""
    given = {_plain(name.value): value for name, value in node.value if isinstance(name, yaml.ScalarNode)}
    if isinstance(values := given.get("values"), yaml.SequenceNode):
        return f"{{choice: {_list(values)}}}"
    bounds, how = _two_numbers(node), [str(given[name].value) for name in ("distribution", "type") if name in given]
    is_log = "log" in "".join(how) or ("log" in given and _construct(given["log"]) is True)
    ranges = [kind for kind in kinds[1:] if kind == "log" or not (is_log and "log" in kinds)]
    return " or ".join(f"{{{kind}: [{', '.join(bounds)}]}}" for kind in ranges) if bounds else None


def _two_numbers(node: yaml.Node) -> tuple[str, str] | None:
    """Return the two numbers of `{min: 1, max: 2}`, or of `[0,1, 0,5]` with decimal commas."""
    if isinstance(node, yaml.MappingNode):
        scalars = [pair for pair in node.value if all(isinstance(one, yaml.ScalarNode) for one in pair)]
        given = {_plain(name.value): value.value for name, value in scalars}
        found = [(given[low], given[high]) for low, high in BOUNDS if low in given and high in given]
        return (_short(found[0][0]), _short(found[0][1])) if found else None
    if isinstance(node, yaml.SequenceNode) and len(node.value) == 4:
        whole, part, other, rest = (str(item.value) for item in node.value)
        if (whole + part + other + rest).isdecimal():
            return _short(f"{whole}.{part}"), _short(f"{other}.{rest}")
    return None


INSIDE = {name: where for name, where in _inside().items() if name not in (*config.FIELDS, "seed")}


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(node: yaml.Node) -> str:
    """A node as a message names it."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        short = 1 <= len(node.value) <= 4 and all(isinstance(item, yaml.ScalarNode) for item in node.value)
        return f"[{', '.join(map(_shown, node.value))}]" if short else f"a list of {counted(len(node.value), 'item')}"
    kind = node.tag.rpartition(":")[2]
    return "nothing" if kind == "null" else f"text {_short(repr(node.value))}" if kind == "str" else _short(node.value)


def _short(text: str) -> str:
    """1 to `LONGEST` characters that can be printed on one line."""
    text = _printable(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _printable(text: str) -> str:
    """The text, or how Python writes it where a terminal would not just show it."""
    return text if text and text.isprintable() else repr(text)
