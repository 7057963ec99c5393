"""A study whose files were cut, garbled, swapped or made by somebody else says so, or goes on as if they were not."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_space import read
from made_trainer import CPU
from ray._raylet import getproctitle, setproctitle
from ray.tune.experiment import Trial

from analysis import forward, report, tables
from study import confirm, files, records, run
from study.config import SGD, to_dict
from study.data import Splits
from study.execution import Recorder
from study.files import RecordError
from study.opening import Settings, UsageError, open_study
from study.plan import Plan
from study.probe import Speed
from study.provenance import Book
from study.records import TrialRecord
from study.search import Search, candidates
from study.space import Budget, Scale, Split
from study.space_file import SpaceError
from study.trainable import Job, TrialTrainable
from study.trainer import Trainer, save_whole

SPACE = """
model: {fashion_cnn: {channels: [4], hidden: [16]}}
optimizer: {sgd: {lr: {log: [0.001, 0.3]}}}
epochs: 2
batch_size: 64
arms: {one: {optimizer: {sgd: {lr: 0.1}}}}
budget: {trials: 5, candidates: 1, seeds: 2}
preview: {}
"""
SCALE = Scale(Split(), 2, Budget(5, 1, 2))
SETTINGS = Settings("full", "asha", 0, SCALE, fit_s=None, time_budget_s=60.0, cores=None, gpus=None)
PLAN = Plan("cpu", "fp32", {"fashion_cnn 4 16": Speed(100, 400)}, 1, 0.0, 2, search_seconds=1.0, confirm_seconds=1.0)
ENDED = ("search/s0001", "search/s0002", "search/s0003", "confirm/c0001", "confirm/c0002")
RUNNING = ("search/s0004", "confirm/c0003")
FILES = [
    *("study.json", "space.yaml"),
    *(f"{trial}/trial.json" for trial in (*ENDED, *RUNNING)),
    *(f"{trial}/epochs.jsonl" for trial in ENDED),
    *(f"{trial}/predictions.parquet" for trial in ENDED[-2:]),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_splits: Splits) -> Iterator[Path]:
    """A study whose trials were trained, recorded and, two of them, cut off by the study's own code; with a report."""
    title, threads = getproctitle(), torch.get_num_threads()
    folder, space = tmp_path_factory.mktemp("results") / "made", read(SPACE)
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    book = Book(folder, None, asdict(SETTINGS), PLAN.to_json(), space, [])
    book.content["stages"] = {"search": {"wall_seconds": 9.5}}
    for number, epochs in enumerate((2, 2, 1, 1), 1):
        config = replace(space.arms["one"], optimizer=SGD(lr=0.1 / number))
        record = TrialRecord(f"s{number:04}", "search", config, 0, "one" if number == 1 else None, 2)
        train(folder, small_splits, record, epochs, ends=number < 4)
    for number, (arm, lr) in enumerate((("candidate-1", 0.05), ("one", 0.1), ("candidate-1", 0.05)), 1):
        config = replace(space.arms["one"], optimizer=SGD(lr=lr))
        record = TrialRecord(f"c{number:04}", "confirm", config, (number + 1) // 2, arm, 2)
        train(folder, small_splits, record, 2 if number < 3 else 1, ends=number < 3)
    book.finish()
    tables.build(folder)
    yield folder
    setproctitle(title)
    torch.set_num_threads(threads)


def train(study: Path, splits: Splits, record: TrialRecord, epochs: int, ends: bool) -> None:
    """Train the trial as Tune does, without its workers."""

    class Worker(TrialTrainable):
        def splits_of_study(self) -> Splits:
            return splits

    records.write_trial(study, record)
    folder, confirmed = records.trial_folder(study, record), record.stage == "confirm"
    config = to_dict(record.config)
    job = Job(record.trial_id, record.label, config, record.seed, 2, str(folder), "fp32", 1, 0.0, confirmed)
    trial = Trial("tiny", config={"job": asdict(job)}, stub=True)
    recorder = Recorder(study, "fp32", [], "asha", keep_stopped=False)
    recorder.on_trial_start(0, [trial], trial)
    worker = Worker(trial.config)
    for _ in range(epochs):
        result = worker.train()
        recorder.on_trial_result(0, [trial], trial, result)
        trial.update_last_result(result)
    if ends:
        recorder.on_trial_complete(0, [trial], trial)


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to change."""
    return Path(shutil.copytree(made, tmp_path / "results" / "made"))


def read_again(study: Path, *extend: str) -> Any:
    """What is made of the study when it goes on, and when it is reported, up to what trains."""
    command = ["--extend" if extend else "--resume", study.name, *extend, "--results", str(study.parent)]
    opened = open_study(run._parser().parse_args(command))
    search = Search(study, opened.space, opened.settings.seed, opened.settings.rule)
    told = [
        (trial.state, trial.values, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in search.proposer.study.get_trials()
    ]
    planned = confirm.plan(study, opened.space, candidates(study, opened.space), opened.settings.seed)
    tables.build(study)
    written = {path.name: path.read_bytes() for path in (study / "tables").iterdir()}
    return opened.space, opened.settings, opened.earlier, told, search.waiting, search.ended, planned, written


@pytest.fixture(scope="module")
def expected(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is made of the study as it was written."""
    return read_again(Path(shutil.copytree(made, tmp_path_factory.mktemp("whole") / "made")))


# Garbled by accident


def garble(rng: Random, content: bytes, another: bytes) -> bytes:
    """Other bytes than the content: cut, with a bit or a range changed, or another file's."""
    at = rng.randrange(len(content))
    end = min(len(content), at + rng.randrange(1, 65))
    garbled = rng.choice(
        [
            content[:at],
            content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
            content[:at] + rng.randbytes(end - at) + content[end:],
            content[:at] + bytes(len(content) - at),
            content[:at] + content[end:],
            content[end:] + content[:end],
            content[:end] + content[at:],
            another,
            edit(rng, content),
        ]
    )
    assume(garbled != content)
    return garbled


def edit(rng: Random, content: bytes) -> bytes:
    """JSON with a value changed, left out or added; other content as it is."""
    try:
        whole = json.loads(content)
    except ValueError:
        return content
    part = rng.choice(objects(whole))
    key = rng.choice([*part, "another"])
    if rng.randrange(4):
        part[key] = rng.choice([None, True, -1, 1, 0.5, 10**30, "", "x", "../x", "0.1", [], {}, [[0]], {"name": "sgd"}])
    else:
        part.pop(key, None)
    return json.dumps(whole, indent=2).encode()


def objects(value: Any) -> list[dict[str, Any]]:
    """The object and all in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(found for one in inner for found in objects(one))]


def many(examples: int) -> settings:
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None)


@many(240)
@given(name=st.sampled_from(FILES), seed=st.integers(0, 10**9))
def test_a_garbled_file_is_named_in_one_line_or_changes_nothing(
    name: str, seed: int, made: Path, expected: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study, rng = Path(shutil.copytree(made, tmp_path_factory.mktemp("garbled") / "made")), Random(seed)
    path = study / name
    alike = [other for other in FILES if other != name and other.endswith(path.name)] or ["confirm/c0001/trial.json"]
    path.write_bytes(garble(rng, path.read_bytes(), (made / rng.choice(alike)).read_bytes()))
    said = None
    try:
        found = read_again(study)
    except RecordError as error:
        said = str(error)
    if said is None:
        assert found == expected
    else:
        assert said.startswith(f"{path}: got ")
        assert said.isprintable()
        assert any(way_on in said for way_on in ("; delete ", "; move it aside", "; put back the old one")), said
    shutil.rmtree(study.parent)


@many(100)
@given(trial=st.sampled_from(RUNNING), seed=st.integers(0, 10**9))
def test_of_a_trial_that_runs_garbled_epochs_are_left_out(
    trial: str, seed: int, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("garbled") / Path(trial).name
    content, another = ((made / of / "epochs.jsonl").read_bytes() for of in (trial, ENDED[0]))
    folder.mkdir()
    (folder / "epochs.jsonl").write_bytes(garble(Random(seed), content, another))
    assert set(records.read_epochs(folder)) <= set(records.read_epochs(made / trial))


@many(60)
@given(trial=st.sampled_from(RUNNING), seed=st.integers(0, 10**9))
def test_a_garbled_checkpoint_is_named(
    trial: str, seed: int, made: Path, small_splits: Splits, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record = records.read_trial(made / trial)
    path = tmp_path_factory.mktemp("garbled") / "checkpoint.pt"
    content, another = ((made / of / "checkpoint.pt").read_bytes() for of in (trial, *set(RUNNING) - {trial}))
    path.write_bytes(garble(Random(seed), content, another))
    with pytest.raises(ValueError, match=f"^{path}: got .*, must be a checkpoint of this trial"):
        Trainer(record.config, record.seed, small_splits, CPU, "fp32").load(path)


@many(60)
@given(seed=st.integers(0, 10**9))
def test_garbled_weights_are_named(seed: int, made: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path(shutil.copytree(made / "confirm/c0001", tmp_path_factory.mktemp("garbled") / "confirm" / "c0001"))
    path, another = folder / "best.pt", (made / "confirm/c0002/best.pt").read_bytes()
    path.write_bytes(garble(Random(seed), path.read_bytes(), another))
    with pytest.raises(RecordError, match=f"^{path}: got another file, must be the one that the trial ended with; "):
        forward.load_network(path)


@many(100)
@given(name=st.sampled_from(["predictions", "trials"]), seed=st.integers(0, 10**9))
def test_a_garbled_table_of_an_earlier_report_is_named(
    name: str, seed: int, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("garbled")
    path = folder / "tables" / f"{name}.parquet"
    content, another = ((made / "tables" / f"{of}.parquet").read_bytes() for of in (name, "epochs"))
    path.parent.mkdir()
    path.write_bytes(garble(Random(seed), content, another))
    with suppress(RecordError):
        pd.testing.assert_frame_equal(tables.earlier(folder, name), tables.earlier(made, name))


@many(60)
@given(seed=st.integers(0, 10**9))
def test_a_garbled_part_of_the_cache_is_made_again(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("garbled")
    table, other = pd.DataFrame({"x": [1.5, 2.5]}), pd.DataFrame({"x": [3.5]})
    for name, of in (("one", table), ("other", other)):
        forward.keep(folder / name, name, of)
    content, another = ((folder / name).read_bytes() for name in ("one", "other"))
    (folder / "one").write_bytes(garble(Random(seed), content, another))
    assert forward.cached(folder / "one", "one", lambda: other) is other


# The ways on that the messages give


def test_without_its_study_json_a_study_that_is_begun_again_keeps_its_trials(study: Path) -> None:
    (study / "study.json").unlink()
    command = ["--space", str(study / "space.yaml"), "--name", study.name, "--fidelity", "full"]
    again = open_study(run._parser().parse_args([*command, "--results", str(study.parent)]))
    search = Search(study, again.space, again.settings.seed, again.settings.rule)
    assert (again.folder, search.ended) == (study, {"s0001", "s0002", "s0003"})
    planned = confirm.plan(study, again.space, candidates(study, again.space), again.settings.seed)
    assert [(record.trial_id, record.status) for record in planned[:2]] == [(f"c{n:04}", "completed") for n in (1, 2)]


@pytest.mark.parametrize("trial", ["search/s0001", "confirm/c0002"])
def test_what_becomes_of_a_trial_whose_folder_is_deleted(trial: str, study: Path) -> None:
    def pending() -> list[tuple[str, str | None, int]]:
        *_, waiting, _, planned, _ = read_again(study)
        return [(r.stage, r.arm, r.seed) for r in [*waiting, *planned] if r.status == "pending"]

    lost, before = records.read_trial(study / trial), pending()
    shutil.rmtree(study / trial)
    assert sorted(map(str, pending())) == sorted(map(str, [*before, (lost.stage, lost.arm, lost.seed)]))


# Made by somebody else: checksums and all


@many(100)
@given(name=st.sampled_from([name for name in FILES if name.endswith(".json")]), seed=st.integers(0, 10**9))
def test_a_study_that_somebody_made_is_read_or_refused(
    name: str, seed: int, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = Path(shutil.copytree(made, tmp_path_factory.mktemp("garbled") / "made"))
    edited = edit(Random(seed), json.dumps(files.read_json(study / name)).encode())
    files.write_json(study / name, json.loads(edited))
    for extend in ((), ("--trials", "1")):
        refusal(lambda extend=extend: read_again(study, *extend))
    shutil.rmtree(study.parent)


@pytest.mark.parametrize("key", ["settings", "plan", "space", "stages", "hardware"])
def test_a_study_that_does_not_say_what_it_was_begun_with_is_refused(key: str, study: Path) -> None:
    about = files.read_json(study / "study.json")
    del about[key]
    files.write_json(study / "study.json", about)
    for extend in ((), ("--trials", "1")):
        said = refusal(lambda extend=extend: read_again(study, *extend))
        assert said.startswith(
            f"{study / 'study.json'}: got KeyError('{key}'), must be what this program wrote; move it aside, and begin "
            f"again with --space {study}/space.yaml --name made --results {study.parent} and "
        )


@pytest.mark.parametrize("option", ["--trials", "--seeds"])
def test_no_study_is_begun_with_what_would_be_refused_afterwards(option: str, tmp_path: Path) -> None:
    command = ["--space", "smoke.yaml", option, "1000000", "--results", str(tmp_path)]
    with pytest.raises(UsageError, match=rf"^{option}: got 1000000, must be in \[1, "):
        open_study(run._parser().parse_args(command))


def refusal(read: Callable[[], Any], refused: Any = (RecordError, SpaceError, UsageError)) -> str:
    """The message with which something is refused, a line; empty where it is read."""
    said = ""
    try:
        read()
    except refused as error:
        said = str(error)
    assert said.isprintable()
    return said


class Payload:
    """A pickle that, loaded as Python's, runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["touch", str(self.target)],)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that the payload makes, as is shown here."""
    target = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()
    target.unlink()
    return target


def write_pickle(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value))


def read_everything(study: Path, splits: Splits) -> None:
    """Read all that is read of a study; what is not whole is refused."""
    for extend in ((), ("--trials", "1")):
        refusal(lambda extend=extend: read_again(study, *extend))
    refusal(lambda: tables.earlier(study, "claims"))
    refusal(lambda: forward.load_network(study / "confirm/c0001/best.pt"))
    trainer = Trainer(read(SPACE).arms["one"], 2, splits, CPU, "fp32")
    refusal(lambda: trainer.load(study / "confirm/c0003/checkpoint.pt"), ValueError)


@pytest.mark.parametrize(
    "name",
    [
        "confirm/c0003/checkpoint.pt",
        "confirm/c0001/best.pt",
        "confirm/c0001/predictions.parquet",
        "confirm/c0001/epochs.jsonl",
        "search/optuna.journal",
        "tables/predictions.parquet",
        "tables/claims.parquet",
        "space.yaml",
        "study.json",
    ],
)
@pytest.mark.parametrize("write", [write_pickle, save_whole], ids=["pickle", "torch"])
def test_nothing_in_a_study_is_executed(
    name: str, write: Callable[[Path, Any], None], study: Path, target: Path, small_splits: Splits
) -> None:
    write(study / name, {"config": 1, "weights": Payload(target)})
    sign(study)
    read_everything(study, small_splits)
    assert not target.exists()


def test_no_object_of_a_space_is_made(study: Path, target: Path, small_splits: Splits) -> None:
    text = SPACE.replace("epochs: 2", f"epochs: !!python/object/apply:subprocess.check_call [[touch, {target}]]")
    (study / "space.yaml").write_text(text)
    about = files.read_json(study / "study.json")
    del about["space_sha256"]
    files.write_json(study / "study.json", about)
    read_everything(study, small_splits)
    assert not target.exists()


@pytest.mark.parametrize("name", ["confirm/c0001/predictions.parquet", "tables/predictions.parquet"])
def test_no_type_of_a_table_is_made(name: str, study: Path, target: Path, small_splits: Splits) -> None:
    """Arrow's Python types were pickles in the schema (CVE-2023-47248)."""
    table = pq.read_table(study / name)
    pickled = {"ARROW:extension:name": "arrow.py_extension_type"}
    pickled["ARROW:extension:metadata"] = pickle.dumps(Payload(target), 0)
    pq.write_table(table.cast(pa.schema([field.with_metadata(pickled) for field in table.schema])), study / name)
    sign(study)
    read_everything(study, small_splits)
    assert not target.exists()


def sign(study: Path) -> None:
    """Let the trials' records say that what is there now is what they left."""
    for trial in (*ENDED, *RUNNING):
        values = files.read_json(study / trial / "trial.json")
        files.write_json(study / trial / "trial.json", {**values, "files": {}})


# Links


@pytest.mark.parametrize("name", ["search", "search/s0001", "confirm/c0003/epochs.jsonl", "tables", "study.json", "."])
@pytest.mark.parametrize("command", ["--resume", "--extend", "report"])
def test_a_study_with_a_link_in_it_is_refused(name: str, command: str, study: Path, tmp_path: Path) -> None:
    outside = (study / name).rename(tmp_path / "outside")
    (study / name).symlink_to(outside)
    before = contents(outside)
    said = "got a link, pipe or device, must be a file or folder; delete or replace it"
    assert refused(command, study) == f"{study / name}: {said}"
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["cache/inspect-c0001.cached", "figures", "report.html", "search/s0009"])
def test_neither_does_a_link_that_leads_nowhere_nor_a_pipe(name: str, study: Path, tmp_path: Path) -> None:
    (study / name).parent.mkdir(exist_ok=True)
    for make in (lambda path: path.symlink_to(tmp_path / "nowhere"), os.mkfifo):
        make(study / name)
        assert refused("--resume", study).startswith(f"{study / name}: got a link, pipe or device")
        (study / name).unlink()
    assert not (tmp_path / "nowhere").exists()


def refused(command: str, study: Path) -> str:
    """The message with which the command refuses the study."""
    extend = ("--trials", "1") if command == "--extend" else ()
    return refusal(lambda: report.build(study) if command == "report" else read_again(study, *extend))


def contents(path: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in [path, *path.rglob("*")] if path.is_file()}
