"""What the command decides before anything runs: which study, with what, and what becomes of one that never began."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_space import read
from made_trials import ended
from rich.console import Console

from study import choose, files, opening, provenance, records, run
from study.data import FashionMNIST
from study.files import RecordError
from study.fit import SHARE
from study.opening import SCALE as SCALE_FILE
from study.opening import (
    Settings,
    Study,
    UsageError,
    check_surroundings,
    claimed,
    locked,
    open_study,
    recorded_space,
)
from study.plan import Plan, Rest, estimate
from study.probe import Speed, architecture
from study.provenance import Book
from study.records import TrialRecord
from study.schedulers import Rule
from study.space import Budget, Scale, Space, Split
from study.speeds import KnownSpeeds

SPACE = """
model: {fashion_cnn: {channels: [4], hidden: [16]}}
optimizer: {sgd: {lr: {log: [0.001, 0.3]}}}
epochs: 2
arms: {one: {optimizer: {sgd: {lr: 0.1}}}, two: {optimizer: {sgd: {lr: 0.2}}}}
budget: {trials: 16, candidates: 3, seeds: 2}
preview: {}
"""
SCALE = Scale(Split(), 2, Budget(16, 3, 2))
SETTINGS = Settings("full", "asha", 0, SCALE, fit_s=None, time_budget_s=60.0, cores=None, gpus=None)
PLAN = Plan("cpu", "bf16", {"fashion_cnn 4 16": Speed(100, 400)}, 1, 0.0, 2)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A study of which three search trials were begun before 60 s of search were over."""
    return make(tmp_path / "begun", SETTINGS, PLAN)


def make(folder: Path, settings: Settings, planned: Plan) -> Path:
    space = read(SPACE)
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    for number, status in enumerate(("completed", "completed", "stopped"), 1):
        ended(
            folder,
            TrialRecord(f"s{number:04}", "search", space.arms["one"], 0, max_epochs=2, split=space.split.text),
            [0.5, 0.6],
            status=status,
        )
    book = Book(folder, None, asdict(settings), planned.to_json(), space, [])
    book.content["stages"] = {"search": {"wall_seconds": 61.5}}
    book.search_over = True
    return folder


def opened(folder: Path, *arguments: str) -> Study:
    return open_study(run._parser().parse_args([*arguments, "--results", str(folder.parent)]))


# --extend


def test_an_extension_adds_to_the_trials_that_exist_and_forgets_the_old_time_budget(begun: Path) -> None:
    study = opened(begun, "--extend", "begun", "--trials", "5")
    assert study.settings == replace(SETTINGS, scale=replace(SCALE, budget=Budget(8, 3, 2)), time_budget_s=None)
    assert study.space.budget.trials == 8
    assert study.earlier is not None
    assert not study.earlier["search_over"]


def test_a_time_budget_of_an_extension_is_its_own(begun: Path) -> None:
    study = opened(begun, "--extend", "begun", "--trials", "5", "--time-budget", "10m")
    assert study.settings.time_budget_s == 61.5 + 600
    _, whole, left, _ = run._plan(replace(study, earlier={**(study.earlier or {}), "plan": PLAN.to_json()}))
    assert whole.search_seconds <= 661.5
    assert left.search_seconds <= 600


def test_more_seeds_alone_do_not_reopen_the_search(begun: Path) -> None:
    study = opened(begun, "--extend", "begun", "--seeds", "3")
    assert study.settings == replace(SETTINGS, scale=replace(SCALE, budget=Budget(16, 3, 3)))
    assert study.earlier is not None
    assert study.earlier["search_over"]


def test_an_extension_tries_every_arm_and_has_no_more_candidates_than_trials_beside_them(begun: Path) -> None:
    assert opened(begun, "--extend", "begun", "--trials", "1").settings.scale.budget == Budget(4, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--extend: got neither --trials nor --seeds"),
        (["--seeds", "2"], "--seeds: got 2, must be above 2, those that there are"),
        (["--seeds", "3", "--time-budget", "5m"], "--time-budget: got no --trials with it, must be given for trials"),
        (
            ["--trials", "3", "--scheduler", "none", "--cpus-per-trial", "1"],
            "--extend: got --scheduler, --cpus-per-trial too, must stand with --trials, --seeds, --time-budget,"
            " --results, --data-dir, --address, --dry-run only: a study keeps what it was begun with",
        ),
        (["--trials", "3", "--seed", "0"], "--extend: got --seed too, must stand with --trials, --seeds, "),
    ],
)
def test_an_extension_that_cannot_be_is_refused(arguments: list[str], message: str, begun: Path) -> None:
    with pytest.raises(UsageError, match=message):
        opened(begun, "--extend", "begun", *arguments)


def test_candidates_are_at_most_the_trials_that_are_no_arms(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SPACE)
    for trials, candidates in ((2, 0), (4, 2), (9, 3)):
        arguments = ["--space", str(tmp_path / "a.yaml"), "--fidelity", "full", "--trials", str(trials)]
        assert opened(tmp_path / "x", *arguments).space.budget == Budget(trials, candidates, 2)


@pytest.mark.parametrize("share", ["0", "1.5", "2", "x"])
def test_a_trial_has_one_gpu_at_most(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run._parser().parse_args(["--space", "smoke.yaml", "--gpus-per-trial", share])
    assert f"got {share}, must be a share of one GPU, in (0, 1]" in capsys.readouterr().err


def test_a_resumed_study_keeps_what_an_extension_may_change(begun: Path) -> None:
    only = "--resume: got --trials too, must stand with --results, --data-dir, --address, --dry-run only: "
    with pytest.raises(UsageError, match=only):
        opened(begun, "--resume", "begun", "--trials", "3")


# The plan as it is printed


def printed_plan(
    study: Study, capsys: pytest.CaptureFixture[str], address: str | None = None, **fields: Any
) -> dict[str, str]:
    """The lines by their first word."""
    planned = replace(PLAN, measure_seconds=7.0, search_seconds=40.0, confirm_seconds=30.0, page_seconds=20.0, **fields)
    run._show_plan(Console(), study, planned, Rest(0, 0, ()), address)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    return dict(lines)


def test_a_plan_says_what_a_preview_has_less_of_and_what_takes_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--space", "resnet.yaml", "--trials", "5", "--fidelity"]
    preview = printed_plan(opened(tmp_path / "x", *command, "preview"), capsys)
    assert preview["PREVIEW:"].startswith("8,000 of 50,000 training images, ")
    assert ", 5 of 32 trials, " in preview["PREVIEW:"]
    assert "networks of 0.5 times the width; it shows" in preview["PREVIEW:"]
    assert "warning" not in preview
    assert preview["time"] == "2 min: measuring 7 s, starting 15 s, search 40 s, confirm 30 s, page 20 s"
    of_a_cluster = printed_plan(opened(tmp_path / "x", *command, "preview"), capsys, "host:6379")
    assert of_a_cluster["time"] == preview["time"] + ", on one machine like this; a cluster's share it"
    assert not {"PREVIEW:", "warning"} & printed_plan(opened(tmp_path / "x", *command, "full"), capsys).keys()


def test_a_preview_that_has_less_of_nothing_is_the_full_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(SPACE.replace("preview: {}", ""))
    study = opened(tmp_path / "x", "--space", str(tmp_path / "a.yaml"), "--fidelity", "preview")
    assert study.settings == replace(SETTINGS, time_budget_s=None)
    assert study.space == study.space.at("full")
    printed = printed_plan(study, capsys)
    assert printed["Study"] == "a: a, full fidelity"
    assert "PREVIEW:" not in printed


# A preview that is fitted to a time

BOUNDS = "{train: [600, 4000], validation: [500, 900], epochs: 2, trials: [3, 8], candidates: 1, width: 0.5}"


@pytest.fixture
def bounded(tmp_path: Path) -> Path:
    """A space with bounds on its preview."""
    path = tmp_path / "bounded.yaml"
    path.write_text(SPACE.replace("preview: {}", f"preview: {BOUNDS}"))
    return path


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of measuring: images per second of every network, and what was asked for."""
    found = SimpleNamespace(train=1000.0, asked=[])

    def measured(space: Space, rule: Rule, *given: Any) -> Plan:
        found.asked.append((space.scale, rule, *given[:3]))
        speeds = {architecture(model): Speed(found.train, 4 * found.train) for model in space.models()}
        return estimate(Plan("cpu", given[2] or "fp32", speeds, given[0] or 1, 0.0, 2), space, rule)

    monkeypatch.setattr(choose, "make_plan", measured)
    return found


def begin(path: Path, name: str, *options: str) -> tuple[Study, Plan]:
    """Open a new study, fit it, and write what a run writes before its first trial."""
    study, whole, _, _ = run._plan(opened(path.parent / name, "--space", str(path), "--name", name, *options))
    if not study.folder.exists():
        study.folder.mkdir()
        (study.folder / "space.yaml").write_text(study.space.text)
        files.write_json(study.folder / SCALE_FILE, asdict(study.settings.scale))
        Book(study.folder, None, asdict(study.settings), whole.to_json(), study.space, [])
    return study, whole


@pytest.mark.parametrize(
    ("train", "images", "trials"), [(1.0, 600, 3), (100.0, 700, 8), (200.0, 3000, 8), (500.0, 4000, 8)]
)
def test_a_study_without_a_gpu_is_fitted_to_ten_minutes(
    train: float, images: int, trials: int, bounded: Path, reached: SimpleNamespace
) -> None:
    reached.train = train
    study, planned = begin(bounded, "new")
    assert (study.settings.fit_s, study.settings.fidelity) == (600.0, "preview")
    assert study.settings.scale == study.space.scale
    assert study.space.width == 0.5
    assert (study.space.split.train, study.space.budget) == (images, Budget(trials, 1, 2))
    assert (planned.seconds <= SHARE * 600) == (train > 1)
    assert not study.unfitted
    [asked] = reached.asked
    assert asked[1:] == ("asha", None, None, None)


def test_a_fast_machine_makes_the_full_study_of_it(bounded: Path, reached: SimpleNamespace) -> None:
    reached.train = 1e9
    study, _ = begin(bounded, "new", "--fidelity", "15m")
    assert (study.settings.fit_s, study.settings.fidelity, study.space.fidelity) == (900.0, "full", "full")
    assert study.space == study.space.at("full")
    assert study.space.scale == study.settings.scale == SCALE
    assert opened(study.folder, "--resume", "new").space.scale == SCALE


def test_with_a_gpu_nothing_is_fitted_by_default(
    bounded: Path, reached: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "gpu_count", lambda: 1)
    study = opened(bounded.parent / "x", "--space", str(bounded))
    assert (study.settings.fit_s, study.settings.fidelity, study.unfitted) == (None, "full", False)
    assert opened(bounded.parent / "x", "--space", str(bounded), "--fidelity", "5m").settings.fit_s == 300


@pytest.mark.parametrize("fidelity", ["full", "preview"])
def test_without_a_time_nothing_is_fitted(fidelity: str, bounded: Path, reached: SimpleNamespace) -> None:
    reached.train = 1.0
    study, _ = begin(bounded, "new", "--fidelity", fidelity)
    most = Scale(Split(4000, 900), 2, Budget(8, 1, 2), 0.5)
    assert study.space.scale == study.settings.scale == {"full": SCALE, "preview": most}[fidelity]
    assert (study.settings.fidelity, study.settings.fit_s) == (fidelity, None)
    assert [scale for scale, *_ in reached.asked] == [study.space.scale]


@pytest.mark.parametrize("train", [1.0, 300.0, 500.0, 1e9])
def test_given_trials_and_seeds_are_kept_whatever_fits(
    train: float, bounded: Path, reached: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    reached.train = train
    study, _ = begin(bounded, "new", "--trials", "5", "--seeds", "4")
    assert study.space.budget == Budget(5, 3 if study.settings.fidelity == "full" else 1, 4)
    assert (study.settings.fidelity == "full") == (train == 1e9)
    # What is printed now is what the page will say, and what a resumed study prints.
    about, again = files.read_json(study.folder / "study.json"), opened(study.folder, "--resume", "new")
    recorded = recorded_space(study.folder, about)
    assert study.space.reductions() == again.space.reductions() == recorded.reductions()
    assert ("5 of 16 trials" in study.space.reductions()) == (train < 1e9)
    assert again.space.scale == recorded.scale == study.space.scale
    assert again.space.arms == recorded.arms == study.space.arms


@pytest.mark.parametrize("train", [1.0, 300.0, 1e9])
def test_a_study_remembers_what_it_was_fitted_to(train: float, bounded: Path, reached: SimpleNamespace) -> None:
    reached.train = train
    study, planned = begin(bounded, "new")
    reached.train = 2 * train  # it would be fitted otherwise now
    again, whole, _, _ = run._plan(opened(study.folder, "--resume", "new"))
    assert (again.settings, again.space.scale, again.space.fidelity) == (
        study.settings, study.space.scale, study.space.fidelity
    )  # fmt: skip
    assert whole == planned
    elsewhere = replace(again, earlier={**(again.earlier or {}), "hardware": {}})
    assert run._plan(elsewhere)[0].settings == study.settings
    assert reached.asked[-1] == (study.space.scale, "asha", None, None, "fp32"), "measured anew, and fitted no more"
    budget = study.settings.scale.budget
    more = opened(study.folder, "--extend", "new", "--trials", "4", "--seeds", "9").settings
    # No trial was begun: there are as many as are added now.
    assert more.scale == replace(study.settings.scale, budget=Budget(4, min(budget.candidates, 2), 9))


@pytest.mark.parametrize("train", [1.0, 300.0, 1e9])
def test_a_study_that_has_lost_its_study_json_is_not_fitted_again(
    train: float, bounded: Path, reached: SimpleNamespace
) -> None:
    reached.train = train
    study, _ = begin(bounded, "new")
    (study.folder / "study.json").unlink()
    reached.train = 2 * train
    again = reopened(study)
    assert (again.settings, again.space.scale, again.space.fidelity, again.unfitted) == (
        study.settings, study.space.scale, study.space.fidelity, False
    )  # fmt: skip
    more = reopened(study, "--trials", "4")
    assert more.space.scale == replace(
        study.space.scale,
        budget=replace(study.space.budget, trials=4, candidates=min(study.space.budget.candidates, 2)),
    )
    assert not reopened(study, "--fidelity", "preview").settings.fit_s


def reopened(study: Study, *options: str) -> Study:
    """The study as the command opens it that its message names: --space FOLDER/space.yaml --name NAME."""
    return opened(study.folder, "--space", str(study.folder / "space.yaml"), "--name", study.folder.name, *options)


def test_trials_of_another_scale_are_refused_when_it_is_lost(bounded: Path, reached: SimpleNamespace) -> None:
    reached.train = 300.0
    study, _ = begin(bounded, "new")
    arm, config = next(iter(study.space.arms.items()))
    split = study.space.split.text
    ended(study.folder, TrialRecord("s0001", "search", config, 0, arm, max_epochs=2, split=split), [0.5, 0.6])
    for name in ("study.json", SCALE_FILE):
        (study.folder / name).unlink()
    assert run._plan(reopened(study))[0].settings == study.settings, "fitted to the same"
    reached.train = 200.0
    with pytest.raises(UsageError, match="got one to which s0001 there does not belong, must be the space, --seed and"):
        run._plan(reopened(study))


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        {},
        {"epochs": 0},
        {"epochs": "2"},
        {"width": 2.0},
        {"width": "1"},
        {"split": None},
        {"budget": {}},
    ],
    ids=str,
)
def test_a_scale_that_cannot_be_read_is_named_with_the_way_on(
    wrong: Any, bounded: Path, reached: SimpleNamespace
) -> None:
    study, _ = begin(bounded, "new")
    (study.folder / "study.json").unlink()
    path = study.folder / SCALE_FILE
    if isinstance(wrong, bytes):
        path.write_bytes(wrong)
    else:
        files.write_json(path, files.read_json(path) | wrong if wrong else {})
    with pytest.raises(RecordError) as caught:
        reopened(study)
    assert str(caught.value).startswith(f"{path}: got ")
    assert str(caught.value).count(", must be ") == 1
    assert str(caught.value).endswith("; put back the old one, or begin another study with another --name")


def test_a_plan_that_cannot_fit_says_so_and_which_steps_never_fall(
    tmp_path: Path, reached: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    reached.train = 1.0
    study, planned, *_ = run._plan(opened(tmp_path / "x", "--space", "resnet.yaml", "--fidelity", "1m"))
    run._show_plan(Console(width=400), study, planned, Rest(0, 0, ()), None)
    printed = capsys.readouterr().out
    assert "  warning  60 s are too few here, even for the least preview of this space\n" in printed
    assert "  warning  arm adam_steplr: StepLR first falls after epoch 5 of 2: it never does\n" in printed
    assert "  PREVIEW: 1,000 of 50,000 training images, " in printed
    assert "networks of 0.25 times the width; it shows that all works" in printed
    run._show_plan(Console(width=400), study, replace(planned, slowdown=7.5), Rest(0, 0, ()), None)
    said = "  warning  begun in bf16, which this processor has not: 7.5 times slower than fp32\n"
    assert said in capsys.readouterr().out
    assert said not in printed


@pytest.mark.parametrize("fidelity", ["10", "ten", "0m", "-1m", "10m ", "full,preview", ""])
def test_a_fidelity_that_is_none_is_refused(fidelity: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run._parser().parse_args(["--space", "smoke.yaml", f"--fidelity={fidelity}"])
    said = f"argument --fidelity: got {fidelity}, must be full, preview, or a time such as 10m"
    assert said in capsys.readouterr().err


# A study that goes on elsewhere


def test_fewer_cores_than_were_asked_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(tmp_path / "fixed", replace(SETTINGS, cores=4), PLAN)
    monkeypatch.setattr(provenance, "cores", lambda: 4)
    assert opened(study, "--resume", "fixed").settings.cores == 4
    monkeypatch.setattr(provenance, "cores", lambda: 2)
    with pytest.raises(UsageError, match="--resume: got 2 cores here, must be at least 4, the --cpus-per-trial that"):
        opened(study, "--resume", "fixed")


def test_a_study_begun_on_a_gpu_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(tmp_path / "fast", SETTINGS, replace(PLAN, device="Some GPU", gpus=0.25))
    monkeypatch.setattr(provenance, "gpu_count", lambda: 0)
    with pytest.raises(UsageError, match="--resume: got no GPU here, must be one: the study was begun on Some GPU"):
        opened(study, "--resume", "fast")


def test_cores_are_planned_anew_and_the_precision_stays(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def planned(*arguments: Any) -> Plan:
        asked.append(arguments[1:])
        return replace(PLAN, slots=1)

    monkeypatch.setattr(choose, "make_plan", planned)
    same = opened(begun, "--resume", "begun")
    assert run._plan(same)[1].slots == 2
    assert asked == []
    elsewhere = replace(same, earlier={**(same.earlier or {}), "hardware": {"cores": 64}})
    assert run._plan(elsewhere)[1].slots == 1
    [(*decided, tell, known)] = asked
    assert decided == ["asha", None, None, "bf16"]
    assert callable(tell)
    assert isinstance(known, KnownSpeeds)


def test_the_plan_of_a_resumed_study_is_of_the_rest(begun: Path) -> None:
    _, whole, left, runs = run._plan(opened(begun, "--resume", "begun"))
    assert (runs.trials, len(runs.runs)) == (0, 2 * 2), "the search is over, and found no candidate"
    assert left.search_seconds == 0 < whole.search_seconds
    assert left.disk_bytes <= whole.disk_bytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"cores": -1},
        {"memory_bytes": "much"},
        {"more": 1},
        {"gpus": None},
        {"speeds": {"a": 1}},
        {"speeds": {"fashion_cnn 4 16": {"train": 0.0, "evaluate": 1.0}}},
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any], begun: Path) -> None:
    about = files.read_json(begun / "study.json")
    files.write_json(begun / "study.json", about | {"plan": about["plan"] | wrong})
    with pytest.raises(RecordError, match=r"study\.json: got plan .+, must be what this program wrote"):
        run._plan(opened(begun, "--resume", "begun"))


@pytest.mark.parametrize("preview", ["epochs: 1", "train: 300, validation: 200"])
@pytest.mark.parametrize("other", [["--seed", "1"], ["--fidelity", "preview"]])
def test_trials_that_a_lost_study_json_left_are_not_mixed_with_others(
    other: list[str], preview: str, begun: Path
) -> None:
    (begun / "space.yaml").write_text(SPACE.replace("preview: {}", f"preview: {{{preview}}}"))
    (begun / "study.json").unlink()
    command = ["--space", str(begun / "space.yaml"), "--name", "begun", "--fidelity", "full"]
    assert opened(begun, *command).folder == begun
    with pytest.raises(UsageError, match="got one to which s0001 there does not belong, must be the space, --seed and"):
        opened(begun, *command, *other)
    another = begun.parent / "another.yaml"
    another.write_text((begun / "space.yaml").read_text() + "split: {train: 50000, validation: 10000, seed: 7}\n")
    with pytest.raises(UsageError, match=r"got another than .+space\.yaml, must be the space, --seed and"):
        opened(begun, "--space", str(another), *command[2:])


@pytest.mark.parametrize("address", ["local", "ray://127.0.0.1:10001", "127.0.0.1", ":6379", ""])
def test_an_address_that_is_none_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run._parser().parse_args(["--space", "smoke.yaml", "--address", address])
    assert f"--address: got {address!r}, must be HOST:PORT" in capsys.readouterr().err


def test_an_address_where_nobody_listens_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with socket.socket() as bound:  # to a port that nobody else gets meanwhile, and does not listen
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        command = ["--space", "smoke.yaml", "--address", address, "--results", str(tmp_path)]
        with pytest.raises(
            UsageError, match=rf"^--address: got {address} \(Connection refused\), must be a Ray cluster"
        ):
            open_study(run._parser().parse_args(command))


def test_a_space_of_the_projects_goes_by_its_name_too(tmp_path: Path) -> None:
    for name in ("smoke", "smoke.yaml"):
        study = open_study(run._parser().parse_args(["--space", name, "--results", str(tmp_path)]))
        assert study.folder == tmp_path / "smoke"


@pytest.mark.parametrize("option", ["--resume", "--extend"])
def test_a_study_that_other_training_code_began_is_not_gone_on_with(option: str, begun: Path) -> None:
    about = files.read_json(begun / "study.json")
    files.write_json(begun / "study.json", about | {"schema_version": 0, "git": {"commit": "abc"}})
    with pytest.raises(
        UsageError, match=rf"^{option}: got a study of version 0, must be \d+: .+ with that of commit abc,"
    ):
        opened(begun, option, "begun")


# A study that never began, and faults


def test_a_folder_in_which_nothing_was_begun_is_removed(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        assert (tmp_path / "new" / ".lock").exists()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".lock").touch()
    with locked(tmp_path / "killed"):
        pass
    (tmp_path / "theirs").mkdir()
    with locked(tmp_path / "theirs"):
        pass
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "study.json").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "theirs"]


def test_a_lock_that_another_run_has_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = fcntl.flock

    def removed(file: Any, how: int) -> None:
        (tmp_path / "new" / ".lock").unlink()
        take(file, how)

    monkeypatch.setattr("study.opening.fcntl.flock", removed)
    with pytest.raises(UsageError, match="another run"), locked(tmp_path / "new"):
        pass


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_without_flock_another_lock_is_held_by_what_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.opening.fcntl.flock", no_locks)
    command = [sys.executable, "-c", "input()"]
    with locked(tmp_path / "run") as lock:
        (tmp_path / "run" / "study.json").touch()
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(lock,))
        with pytest.raises(UsageError, match="another run"), locked(tmp_path / "run"):
            pass
    with pytest.raises(UsageError, match="another run"), locked(tmp_path / "run"):
        pass
    keeper.communicate(b"\n")
    with locked(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_named_and_nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flock", "fcntl"):
        monkeypatch.setattr(f"study.opening.fcntl.{name}", no_locks)
    got = rf"^--results: got {tmp_path}/new/results \(Function not implemented\), must be on a file system with locks"
    with pytest.raises(UsageError, match=got), locked(tmp_path / "new" / "results" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_runs_that_nobody_named_each_gets_a_number(tmp_path: Path) -> None:
    """At once, and beside one that was named; those that begin nothing leave nothing."""
    arguments = run._parser().parse_args(["--space", "smoke", "--results", str(tmp_path / "results")])
    study = open_study(arguments)
    together = threading.Barrier(4)

    def start(number: int) -> str:
        with claimed(study, numbered=True) as (own, _):
            together.wait()  # until all have theirs
            return own.folder.name

    with locked(tmp_path / "results" / "smoke-3"), ThreadPoolExecutor(4) as pool:
        names = sorted(pool.map(start, range(4)))
    assert names == ["smoke", "smoke-2", "smoke-4", "smoke-5"]
    assert list(tmp_path.iterdir()) == []
    with locked(study.folder), pytest.raises(UsageError, match="another run"), claimed(study, numbered=False):
        pass


def test_nothing_of_a_study_acts_in_the_terminal(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = files.read_json(begun / "study.json")
    about |= {"schema_version": 0, "git": {"commit": "\x1b]52;c;Y3Vy\x07\x1b[2J"}}
    files.write_json(begun / "study.json", about)
    (begun.parent / "\x1b[2J").mkdir()
    (begun.parent / "\x1b[2J" / "study.json").touch()
    for name in ("begun", "none"):
        assert run.main(["--resume", name, "--results", str(begun.parent)]) == 2
    printed = capsys.readouterr()
    assert (printed.out + printed.err).replace("\n", "").isprintable()
    assert r"\x1b]52" in printed.err


def test_what_kills_have_left_is_removed_when_a_study_goes_on(begun: Path) -> None:
    study = opened(begun, "--resume", "begun")
    record = TrialRecord("s0001", "search", next(iter(study.space.arms.values())), 0, "one", 1, status="completed")
    records.write_trial(begun, record)
    folder = records.trial_folder(begun, record)
    left = [folder / name for name in (".checkpoint.pt.deadhost.4", f".best.pt.deadhost.{10**20}", "checkpoint.pt")]
    for path in left:
        path.touch()
    (folder / ".x.deadhost.7").mkdir()
    run._drop_leftovers(study)
    assert [path.exists() for path in left] == [False, True, False]


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, 130), (SystemExit, 130), (RuntimeError, run.FAULT)])
def test_a_stop_while_measuring_leaves_nothing_behind(
    stop: type[BaseException], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], fashion_mnist: FashionMNIST,
) -> None:  # fmt: skip
    def stopped(*_: Any) -> Plan:
        raise stop("while measuring")

    monkeypatch.setattr(choose, "make_plan", stopped)
    monkeypatch.setattr("study.data.load", lambda folder: fashion_mnist)
    assert run.main(["--space", "smoke.yaml", "--results", str(tmp_path)]) == status
    printed = capsys.readouterr()
    assert "Nothing was begun." in printed.out + printed.err
    assert ("Traceback" in printed.err) == ("a fault of the program" in printed.err) == (status == run.FAULT)
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_goes_on_can_be_typed_as_it_is_printed(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(study: Study) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_plan", interrupted)
    monkeypatch.setattr("study.data.load", lambda folder: None)
    options = ["--results", str(begun.parent), "--data-dir", "/my data"]
    assert run.main(["--resume", "begun", *options]) == 130
    command = f"{provenance.typed()} -m study.run --resume begun --results {begun.parent} --data-dir '/my data'"
    assert f"Nothing that ended is lost. To go on: {command}\n" in capsys.readouterr().err
    assert (begun / "study.json").exists()


@pytest.mark.parametrize(
    ("number", "name", "said"),
    [
        (errno.ENOSPC, "space.yaml", " free in {results})."),
        (errno.ENOENT, "begun/search/s0001/trial.json", "study.run --resume begun --results {results}"),
        (errno.EACCES, "begun/study.json", "study.run --resume begun --results {results}"),
    ],
)
def test_a_lost_disk_is_said_with_the_way_on(
    number: int, name: str, said: str, begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where study.json itself cannot be looked at."""

    def lost(study: Study) -> Any:
        def unreadable(path: Path) -> Any:
            try:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            except PermissionError as error:
                raise files.broken(path, str(error), "readable") from error

        if number == errno.EACCES:
            monkeypatch.setattr(files, "read_json", unreadable)
        raise OSError(number, os.strerror(number), str(begun.parent / name))

    monkeypatch.setattr(run, "_plan", lost)
    monkeypatch.setattr("study.data.load", lambda folder: None)
    assert run.main(["--resume", "begun", "--results", str(begun.parent)]) == run.DISK
    [line] = capsys.readouterr().err.splitlines()
    assert said.format(results=begun.parent) in line
    assert "Nothing that ended is lost. To go on: " in line


def test_a_resume_that_is_stopped_early_is_typed_again(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: Any) -> Study:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "open_study", interrupted)
    typed = ["--resume", "begun", "--results", str(begun.parent)]
    assert run.main(typed) == 130
    assert f"To go on: {provenance.typed()} -m study.run {' '.join(typed)}\n" in capsys.readouterr().err


@pytest.mark.parametrize("noted", [False, True])
def test_an_extension_that_is_not_written_down_yet_is_typed_again(
    noted: bool, begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(study: Study) -> Any:
        if noted:
            Book(study.folder, study.earlier, asdict(study.settings), PLAN.to_json(), study.space, [])
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_plan", interrupted)
    monkeypatch.setattr("study.data.load", lambda folder: None)
    extend = ["--extend", "begun", "--trials", "5", "--time-budget", "10m", "--results", str(begun.parent)]
    resume = ["--resume", "begun", "--results", str(begun.parent)]
    assert run.main(extend) == 130
    command = " ".join(resume if noted else extend)
    assert f"To go on: {provenance.typed()} -m study.run {command}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("results", "free", "message"),
    [
        ("new/results", 1 << 40, ""),
        ("new/results", 1000, "--results: got 0 MiB free at {folder}, must be 70 MiB\n"),
        ("file/results", 1 << 40, "--results: got {folder}/file/results, must be a folder to write to\n"),
    ],
)
def test_a_dry_run_looks_where_the_study_would_be_written(
    results: str, free: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    (tmp_path / "a.yaml").write_text(SPACE)
    monkeypatch.setattr(choose, "make_plan", lambda *_: PLAN)
    monkeypatch.setattr("study.data.load", lambda folder: None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    command = ["--space", str(tmp_path / "a.yaml"), "--fidelity", "full", "--dry-run"]
    assert run.main([*command, "--results", str(tmp_path / results)]) == (2 if message else 0)
    assert "".join(capsys.readouterr().err.splitlines(keepends=True)[1:]) == message.format(folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yaml", "file"]


# Names


@pytest.mark.parametrize("stem", ["..", ".", "b>", "<b>x", "a\nb", "a b", "-x", "x" * 101, "ü"], ids=ascii)
def test_a_space_whose_name_is_none_for_a_study_needs_one(stem: str, tmp_path: Path) -> None:
    """Nothing is made outside the results folder, and nothing that --resume would refuse."""
    file = tmp_path / "spaces" / f"{stem}.yaml"
    file.parent.mkdir()
    file.write_text(SPACE)
    results = ["--results", str(tmp_path / "results")]
    parse = run._parser().parse_args
    with pytest.raises(
        UsageError, match=r"^--name: got none, and no name can be made of .+, must be given where [^\n]+$"
    ):
        open_study(parse(["--space", str(file), *results]))
    study = open_study(parse(["--space", str(file), "--name", "mine", *results]))
    assert study.folder == tmp_path / "results" / "mine"


@pytest.mark.parametrize("name", ["", "..", "../x", "/tmp/x", "a/b", "<script>", "a\nb", "x" * 300, "-x", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    there = [] if "/" in name else [[f"--resume={name}"], [f"--extend={name}"]]  # these may be paths
    for typed in ([f"--name={name}", f"--space={file}"], *there):
        option = typed[0].partition("=")[0]
        with pytest.raises(UsageError, match=rf"^{option}: got .+, must be 1 to 100 letters"):
            open_study(run._parser().parse_args(typed))


# The shell's limits


@pytest.mark.parametrize("command", ["study.run --space smoke.yaml", "analysis.report"])
def test_too_little_address_space_is_told_before_anything_is_measured(command: str, tmp_path: Path) -> None:
    """Less, and torch cannot even be imported; with this much Ray ends the process, or Arrow waits for ever."""
    command = f"{shlex.quote(sys.executable)} -m {command} --results {shlex.quote(str(tmp_path))}"
    shell = ["bash", "-c", f"ulimit -v 6000000; exec {command}"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert re.fullmatch(r"(error: )?ulimit -v: got 6000000, must be at least \d+ or unlimited: .+\n", done.stderr)


@pytest.mark.parametrize("free", [opening.THREADS - 1, opening.THREADS, None])
def test_too_few_threads_are_told(free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "free_threads", lambda: free)
    few = free is not None and free < opening.THREADS
    with pytest.raises(UsageError, match=rf"^ulimit -u, .+: got {free} .+ {opening.THREADS}") if few else nullcontext():
        opening.check_limits()


@pytest.mark.parametrize("typed", ["{folder}", "{folder}/", "begun", "begun/", "./begun/"])
def test_a_study_goes_by_its_path_too(typed: str, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Tab completes it, from anywhere; a name alone is one in the results folder."""
    results = ["--results", str(begun.parent)] if typed == "begun" else []
    monkeypatch.chdir(begun.parent)
    for options in (["--resume", typed.format(folder=begun)], ["--extend", typed.format(folder=begun), "--seeds", "9"]):
        arguments = run._parser().parse_args([*options, *results])
        assert open_study(arguments).folder.resolve() == begun
        assert open_study(arguments).folder.resolve() == begun, "the second time, too"


def test_a_name_may_end_in_a_slash(begun: Path) -> None:
    assert opened(begun, "--resume", "begun/").folder == begun


def test_a_path_and_results_that_contradict_each_other_are_told(begun: Path, tmp_path: Path) -> None:
    got = rf"^--resume: got {begun}/ and --results {tmp_path}/other, must be in one folder; leave out --results$"
    with pytest.raises(UsageError, match=got):
        opened(tmp_path / "other" / "x", "--resume", f"{begun}/")
    assert opened(begun, "--resume", f"{begun}/").folder == begun, "nor where they agree"


# Where it is typed


def test_a_folder_that_hides_a_package_is_told_of_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_surroundings("study.run")
    for name in ("study", "analysis"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, SimpleNamespace(__path__=[str(tmp_path / name)]))
            got = rf"^{name}: got {tmp_path / name}, must be .+/{name}, which it hides: type python -P -m study.run …"
            with pytest.raises(UsageError, match=got):
                check_surroundings("study.run")


def test_a_path_that_is_no_text_is_refused_before_ray_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.Process.cmdline", lambda self: ["python", "-m", "study.run", "b\udcfccher"])
    with pytest.raises(UsageError, match="got bytes that are no text here, must be UTF-8"):
        check_surroundings("study.run")


def test_a_cluster_without_a_token_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """In a process of its own, for Ray knows one token at a time."""
    environment = {**os.environ, "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/no/such/file"}
    command = [sys.executable, "-m", "study.run", "--space", "smoke", "--results", str(tmp_path), "--address"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run([*command, address], env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("--address: got no token in /no/such/file, must be the token that the cluster was")
    assert len(done.stderr.splitlines()) == 1
