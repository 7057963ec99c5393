"""What is written is read again, whatever a kill left behind."""

import dataclasses
import hashlib
import json
import math
import os
import platform
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import files, records
from study.config import MODELS, SGD, Augmentation, Cosine, FashionCNN, Step, TrialConfig
from study.files import RecordError
from study.records import EpochRecord, TrialRecord

EPOCH = EpochRecord(
    epoch=1,
    lr=0.1,
    train_loss=2.25,
    train_accuracy=0.5,
    val_loss=1.5,
    val_accuracy=0.625,
    seconds=3.5,
    cpu_seconds=6.75,
    images_per_s=1000.0,
)
CONFIG = TrialConfig(
    FashionCNN(channels=(8, 16)), SGD(lr=0.05, nesterov=True), Step(step_size=3, gamma=0.5), Augmentation(1, flip=0.5)
)
ENDED = TrialRecord(
    trial_id="c0003",
    stage="confirm",
    config=CONFIG,
    seed=2,
    arm="baseline",
    max_epochs=15,
    status="failed",
    stop_reason="error",
    error="RuntimeError: “out of memory”\nand so on",
    attempts=3,
    started=1.7e9,
    ended=1.7e9 + 0.125,
    device="cpu",
    precision="fp32",
    best_epoch=7,
    train_accuracy_clean=1 / 3,
    train_loss_clean=0.1,
    test_accuracy=0.9,
    test_loss=0.3,
)


def lines(folder: Path) -> list[str]:
    return (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()


# Trials


@pytest.mark.parametrize(
    "record",
    [
        ENDED,
        *(TrialRecord("s0000", "search", TrialConfig(model, schedule=Cosine()), 0) for model in MODELS.values()),
    ],
    ids=lambda record: record.label,
)
def test_a_trial_is_read_as_it_was_written(record: TrialRecord, tmp_path: Path) -> None:
    records.write_trial(tmp_path, record)
    folder = records.trial_folder(tmp_path, record)
    assert folder == tmp_path / record.stage / record.trial_id
    found = records.read_trial(folder)
    assert found == record
    assert found.config_id == record.config_id


def test_a_trial_written_again_replaces_the_first(tmp_path: Path) -> None:
    for attempts in (1, 2):
        records.write_trial(tmp_path, dataclasses.replace(ENDED, attempts=attempts))
    assert records.read_trials(tmp_path, "confirm") == [dataclasses.replace(ENDED, attempts=2)]
    assert [path.name for path in (tmp_path / "confirm" / "c0003").iterdir()] == ["trial.json"]


def test_trials_come_in_the_order_of_their_ids_and_by_stage(tmp_path: Path) -> None:
    for number in (10, 2, 7):
        records.write_trial(tmp_path, TrialRecord(f"s{number:04d}", "search", CONFIG, number))
    records.write_trial(tmp_path, ENDED)
    assert [record.seed for record in records.read_trials(tmp_path, "search")] == [2, 7, 10]
    assert records.read_trials(tmp_path, "confirm") == [ENDED]
    assert records.read_trials(tmp_path / "elsewhere", "search") == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("colour", "blue", "colour"),
        ("config", {}, "model"),
        ("config", None, "must be a trial"),
        ("config", {**records.to_dict(CONFIG), "depth": 3}, "depth"),
        ("config", {**records.to_dict(CONFIG), "model": {"name": "transformer"}}, "transformer"),
        ("config", {**records.to_dict(CONFIG), "optimizer": {"name": "adam", "momentum": 0.9}}, "momentum"),
        ("config", {**records.to_dict(CONFIG), "optimizer": {"name": "sgd", "lr": "0.1"}}, "optimizer SGD"),
        ("config", {**records.to_dict(CONFIG), "model": {"name": "resnet", "blocks": [10**9]}}, "model ResNet"),
        ("config", {**records.to_dict(CONFIG), "batch_size": 1}, "batch_size 1"),
        ("config", {**records.to_dict(CONFIG), "augmentation": []}, "must be a trial"),
        ("seed", "2", "seed '2'"),
        ("seed", 10**30, "seed 1000"),
        ("attempts", True, "attempts True"),
        ("status", "paused", "status 'paused'"),
        ("arm", 3, "arm 3"),
        ("started", [], "started []"),
        ("files", ["epochs.jsonl"], "['epochs.jsonl']"),
        ("trial_id", "c0004", "confirm c0004"),
        ("trial_id", "../../c0003", "confirm ../../c0003"),
        ("stage", "search", "search c0003"),
        ("error", ["x" * 10**6], "error ['xxx"),
    ],
)
def test_what_this_version_does_not_write_is_an_error_that_names_the_file(
    key: str, value: object, said: str, tmp_path: Path
) -> None:
    records.write_trial(tmp_path, ENDED)
    path = records.trial_folder(tmp_path, ENDED) / "trial.json"
    files.write_json(path, {**files.read_json(path), key: value})
    with pytest.raises(RecordError) as caught:
        records.read_trial(path.parent)
    assert str(caught.value).startswith(f"{path}: got ")
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"; delete {path.parent} and resume the study, which makes up for it")
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("old", "new"),
    [('"seed": 2', '"seed": 3'), ('"attempts": 3', '"attempts": 30'), ("  ]", "   0]"), ("baseline", "base")],
)
def test_a_changed_value_is_found(old: str, new: str, tmp_path: Path) -> None:
    records.write_trial(tmp_path, ENDED)
    path = records.trial_folder(tmp_path, ENDED) / "trial.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecordError, match=f"^{path}: got "):
        records.read_trial(path.parent)


def test_a_missing_key_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    records.write_trial(tmp_path, ENDED)
    path = records.trial_folder(tmp_path, ENDED) / "trial.json"
    values = files.read_json(path)
    del values["seed"]
    files.write_json(path, values)
    with pytest.raises(RecordError, match=f"^{path}: got .*seed"):
        records.read_trial(path.parent)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b'{"seed": 1', b"[" * 10**5, b"1" * 10**4, b'{"a": NaN}']
)
def test_a_file_that_is_no_object_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=f"^{path}: got .*, must be a JSON object"):
        records.read_trial(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=f"^{tmp_path / 'trial.json'}: got "):
        records.read_trial(tmp_path)


# Epochs


@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    diverged=st.booleans(),
    attempt=st.integers(1, 9),
)
@settings(max_examples=50, deadline=None)
def test_an_epoch_is_read_to_the_last_bit(
    numbers: list[float],
    shares: tuple[float, float],
    diverged: bool,
    attempt: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("trial")
    numbers[2], numbers[4] = shares  # accuracies
    record = EpochRecord(4, *numbers, diverged=diverged, attempt=attempt)
    records.append_epoch(folder, record)
    assert records.read_epochs(folder) == [record]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(value: float, tmp_path: Path) -> None:
    record = dataclasses.replace(EPOCH, train_loss=value, val_loss=value, diverged=True)
    records.append_epoch(tmp_path, record)
    written = json.loads(lines(tmp_path)[0], parse_constant=pytest.fail)
    assert (written["train_loss"], written["val_loss"], written["lr"]) == (None, None, 0.1)
    (found,) = records.read_epochs(tmp_path)
    assert math.isnan(found.train_loss)
    assert math.isnan(found.val_loss)
    assert dataclasses.replace(found, train_loss=0, val_loss=0) == dataclasses.replace(record, train_loss=0, val_loss=0)


def test_the_last_attempt_of_each_epoch_counts(tmp_path: Path) -> None:
    for epoch, attempt in ((1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 2)):
        records.append_epoch(tmp_path, dataclasses.replace(EPOCH, epoch=epoch, attempt=attempt))
    assert [(r.epoch, r.attempt) for r in records.read_epochs(tmp_path)] == [(1, 1), (2, 2), (3, 2), (4, 2)]


def test_no_epochs_yet(tmp_path: Path) -> None:
    assert records.read_epochs(tmp_path) == []


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_last_line_that_a_kill_cut_is_left_out(kept: float, tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        records.append_epoch(tmp_path, dataclasses.replace(EPOCH, epoch=epoch))
    *whole, last = lines(tmp_path)
    cut = "".join(line + "\n" for line in whole) + last[: int(kept * len(last))]
    (tmp_path / "epochs.jsonl").write_text(cut)
    assert [record.epoch for record in records.read_epochs(tmp_path)] == [1, 2]


def test_a_garbled_line_or_one_of_another_trial_is_left_out(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        records.append_epoch(tmp_path, dataclasses.replace(EPOCH, epoch=epoch))
    (tmp_path / "other").mkdir()
    records.append_epoch(tmp_path / "other", dataclasses.replace(EPOCH, epoch=3, val_accuracy=0.75))
    one, two, three = lines(tmp_path)
    (tmp_path / "epochs.jsonl").write_text(
        "\n".join([one, two.replace("0.625", "0.925"), three, *lines(tmp_path / "other")])
    )
    assert records.read_epochs(tmp_path) == [EPOCH, dataclasses.replace(EPOCH, epoch=3)]


def test_what_follows_a_cut_line_is_not_lost(tmp_path: Path) -> None:
    """A trial that was killed while it wrote goes on in the same file."""
    records.append_epoch(tmp_path, EPOCH)
    with (tmp_path / "epochs.jsonl").open("a") as file:
        file.write(lines(tmp_path)[0][:40])
    records.append_epoch(tmp_path, dataclasses.replace(EPOCH, epoch=2))
    assert [record.epoch for record in records.read_epochs(tmp_path)] == [1, 2]


# What a trial left


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder of a trial that has ended, with its files."""
    folder = records.trial_folder(tmp_path, ENDED)
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        records.append_epoch(folder, dataclasses.replace(EPOCH, epoch=epoch))
    for name in ("predictions.parquet", "best.pt"):
        (folder / name).write_text(name)
    records.write_trial(tmp_path, ENDED)
    return folder


@pytest.mark.parametrize("change", ["cut", "gone", "one more"])
def test_the_epochs_of_a_trial_that_has_ended_are_all_there(change: str, left: Path) -> None:
    path = left / "epochs.jsonl"
    assert records.read_trial(left) == ENDED
    if change == "cut":
        path.write_text(path.read_text().splitlines(keepends=True)[0])
    elif change == "gone":
        path.unlink()
    else:
        records.append_epoch(left, dataclasses.replace(EPOCH, epoch=3))
    got = "no file" if change == "gone" else "another file"
    with pytest.raises(
        RecordError, match=f"^{path}: got {got}, must be the one that the trial ended with; delete {left} "
    ):
        records.read_trial(left)


@pytest.mark.parametrize("name", ["predictions.parquet", "best.pt"])
def test_another_file_than_the_trial_left_is_found(name: str, left: Path) -> None:
    records.check_left(left / name)
    records.read_trial(left)
    (left / name).write_text("another")
    with pytest.raises(
        RecordError, match=f"^{left / name}: got another file, must be the one that the trial ended with"
    ):
        records.check_left(left / name)


def test_a_trial_that_is_begun_again_may_leave_other_files(left: Path) -> None:
    again = dataclasses.replace(ENDED, status="pending")
    records.write_trial(left.parent.parent, again)
    records.append_epoch(left, dataclasses.replace(EPOCH, epoch=3))
    assert records.read_trial(left) == again


def test_a_trial_without_its_record_is_not_forgotten(left: Path) -> None:
    (left / "trial.json").unlink()
    with pytest.raises(RecordError, match=f"^{left / 'trial.json'}: got no such file, must be .*; delete {left} and"):
        records.read_trials(left.parent.parent, "confirm")


def test_a_folder_in_which_nothing_was_written_is_no_trial(tmp_path: Path) -> None:
    """As a kill before the first whole file leaves it."""
    (tmp_path / "search" / "s0001").mkdir(parents=True)
    (tmp_path / "search" / "s0001" / ".trial.json.7").write_text("{")
    assert records.read_trials(tmp_path, "search") == []


def test_a_copied_folder_is_named(left: Path) -> None:
    copy = shutil.copytree(left, left.with_name("c0003 (copy)"))
    with pytest.raises(RecordError) as caught:
        records.read_trials(left.parent.parent, "confirm")
    assert str(caught.value).startswith(f"{copy / 'trial.json'}: got confirm c0003, must be ")


# Studies


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("plan", [], "plan []"),
        ("stages", {"search": {"wall_seconds": "9"}}, "wall_seconds '9'"),
        ("stages", {"rest": {}}, "stages 'rest'"),
        ("arms", "baseline", "arms 'baseline'"),
        ("earlier_runs", [{"command": 1}], "command 1"),
        ("search_over", "no", "search_over 'no'"),
        ("space", None, "space None"),
        ("name", ["\x1b[2J\n"], r"name ['\x1b[2J\n']"),
    ],
)
def test_what_no_study_says_is_an_error_that_names_the_file(key: str, value: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    files.write_json(path, {"name": "a study", "status": "running"})
    assert records.read_study(tmp_path) == {"name": "a study", "status": "running"}
    files.write_json(path, {key: value})
    with pytest.raises(RecordError) as caught:
        records.read_study(tmp_path)
    again = f"move it aside, and begin again with --space {tmp_path}/space.yaml --name {tmp_path.name} --results "
    assert str(caught.value).startswith(f"{path}: got {said}, must be what this program wrote; {again}")


def test_a_space_that_was_changed_since_is_named(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("epochs: 12\n")
    digest = hashlib.sha256(space.read_bytes()).hexdigest()
    files.write_json(tmp_path / "study.json", {"space_sha256": digest})
    assert records.read_study(tmp_path) == {"space_sha256": digest}
    space.write_text("epochs: 13\n")
    with pytest.raises(
        RecordError, match=f"^{space}: got another space, must be the one that the study was begun with;"
    ):
        records.read_study(tmp_path)


def test_no_name_in_a_message_acts_in_a_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2J\nb"
    folder.mkdir()
    with pytest.raises(RecordError) as caught:
        files.read_json(folder / "study.json")
    assert str(caught.value).startswith(f"{tmp_path}/a\\x1b[2J\\nb/study.json: got no such file")


# Files, whole or not at all


def test_nothing_is_written_into_a_study_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write_json(tmp_path / "removed" / "study.json", {})
    with pytest.raises(FileNotFoundError):
        records.write_trial(tmp_path / "removed", ENDED)
    assert not (tmp_path / "removed").exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_whole(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        files.write_whole(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_knows_no_nan_and_the_old_file_stays(value: float, tmp_path: Path) -> None:
    files.write_json(tmp_path / "study.json", {"ended": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "study.json", {"ended": value})
    assert files.read_json(tmp_path / "study.json") == {"ended": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def test_a_checkpoint_is_dropped_once_and_again(tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"state")
    records.drop_checkpoint(tmp_path)
    records.drop_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_epochs_are_on_disk_before_a_record_that_says_the_trial_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: forced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    temporary = files.temporary_of(Path("trial.json")).name
    records.write_trial(tmp_path, ENDED)
    assert forced == [temporary], "there are no epochs yet"
    records.append_epoch(records.trial_folder(tmp_path, ENDED), EPOCH)
    forced.clear()
    records.write_trial(tmp_path, dataclasses.replace(ENDED, status="running"))
    assert forced == [temporary]
    records.write_trial(tmp_path, ENDED)
    assert forced[1:] == ["epochs.jsonl", temporary]


NOBODY = 2**22 + 1  # no process has so large a number


def test_what_a_kill_left_half_written_goes_with_the_checkpoint(tmp_path: Path) -> None:
    here = platform.node()
    elsewhere = f".checkpoint.pt.not-{here}.{NOBODY}"  # of another machine, whose processes cannot be seen from here
    kept = ["best.pt", "trial.json", files.temporary_of(Path("trial.json")).name, ".epochs.3.old", elsewhere]
    left = [f".{name}.{here}.{NOBODY}" for name in ("checkpoint.pt", "trial.json", "best.pt")]
    for name in (*kept, "checkpoint.pt", *left):
        (tmp_path / name).write_bytes(b"state")
    records.drop_checkpoint(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
