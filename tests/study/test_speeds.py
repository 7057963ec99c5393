"""What was measured on this machine before: kept, recalled, and left out where it is of another or garbled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from study import files, speeds
from study.probe import Speed
from study.speeds import Key, KnownSpeeds, of_this_user

KEY: Key = ("resnet 1 4", 128, "bf16", 1, 2)
NAME = "resnet 1 4 128 bf16 1 2"
SPEED = Speed(100.0, 400.0)
OTHER = Speed(7.0, 8.0)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file that knows a speed and a precision, in a folder that had to be made."""
    path = tmp_path / "cache" / "study" / "speeds.json"
    known = KnownSpeeds(path)
    assert known.speed(KEY, lambda: SPEED) == SPEED
    assert known.precision(lambda: "bf16") == "bf16"
    assert not known.recalled(KEY)
    known.write()
    return path


def recall(path: Path | None) -> tuple[Speed, str, bool]:
    """The speed and the precision, which would now be measured otherwise, and whether the speed is an earlier one."""
    known = KnownSpeeds(path)
    return known.speed(KEY, lambda: OTHER), known.precision(lambda: "fp32"), known.recalled(KEY)


def test_what_was_measured_is_recalled(kept: Path) -> None:
    assert recall(kept) == (SPEED, "bf16", True)


@pytest.mark.parametrize(
    "key",
    [
        ("resnet 1 8", *KEY[1:]),
        (KEY[0], 64, *KEY[2:]),
        (*KEY[:2], "fp32", *KEY[3:]),
        (*KEY[:3], 2, KEY[4]),
        (*KEY[:4], 1),
    ],
)
def test_what_was_measured_otherwise_is_not_recalled(key: Key, kept: Path) -> None:
    known = KnownSpeeds(kept)
    assert known.speed(key, lambda: OTHER) == OTHER
    assert not known.recalled(key)


@pytest.mark.parametrize("of", ["machine", "version"])
def test_another_machine_or_version_measures_for_itself_and_forgets_nothing(
    of: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        if of == "machine":
            elsewhere.setattr(speeds, "hardware", lambda: {"cpu": "another"})
        else:
            elsewhere.setattr(torch, "__version__", "99.0")
        assert recall(kept) == (OTHER, "fp32", False)
        known = KnownSpeeds(kept)
        known.speed(KEY, lambda: OTHER)
        known.write()
        assert recall(kept) == (OTHER, "fp32", True)
    assert recall(kept) == (SPEED, "bf16", True)


@pytest.mark.parametrize(
    "garbled",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"sha256": 1}', b"[" * 10_000, b"{}\n"],
    ids=lambda garbled: repr(garbled[:20]),
)
def test_a_garbled_file_counts_as_none_and_is_written_anew(garbled: bytes, kept: Path) -> None:
    kept.write_bytes(garbled)
    assert recall(kept) == (OTHER, "fp32", False)
    known = KnownSpeeds(kept)
    known.speed(KEY, lambda: SPEED)
    known.write()
    assert recall(kept)[0] == SPEED


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "fast",
        [1.0, 2.0],
        {},
        {"train": 1.0},
        {"train": 1.0, "evaluate": 2.0, "more": 3.0},
        {"train": "1.0", "evaluate": 2.0},
        {"train": 0.0, "evaluate": 2.0},
        {"train": -1.0, "evaluate": 2.0},
        {"train": None, "evaluate": 2.0},
        {"train": True, "evaluate": 2.0},
    ],
    ids=str,
)
def test_a_speed_that_cannot_be_is_measured(value: Any, kept: Path) -> None:
    change(kept, {NAME: value})
    assert recall(kept) == (OTHER, "bf16", False)


@pytest.mark.parametrize("value", [None, 16, "fp16", ["bf16"], {}], ids=str)
def test_a_precision_that_cannot_be_is_measured(value: Any, kept: Path) -> None:
    change(kept, {"precision": value})
    assert recall(kept) == (SPEED, "fp32", True)


@pytest.mark.parametrize("value", [None, 1, "x", [NAME]], ids=str)
def test_a_machine_of_which_nothing_can_be_read_counts_as_unknown(value: Any, kept: Path) -> None:
    of = files.read_json(kept)
    files.write_json(kept, dict.fromkeys(of, value))
    assert recall(kept) == (OTHER, "fp32", False)


def change(kept: Path, values: dict[str, Any]) -> None:
    """Write other values of this machine, with a right checksum."""
    [(machine, here)] = files.read_json(kept).items()
    files.write_json(kept, {machine: here | values})


def test_what_cannot_be_kept_is_measured_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "cache" / "speeds.json").mkdir(parents=True)
    for path in (None, tmp_path / "file" / "speeds.json", tmp_path / "cache" / "speeds.json"):
        known = KnownSpeeds(path)
        assert known.speed(KEY, lambda: SPEED) == SPEED
        known.write()
        assert recall(path) == (OTHER, "fp32", False)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"file", "cache", "cache/speeds.json"}, "and nothing half written is left"


def test_it_is_kept_among_the_users_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    of_this_user().write()
    assert [path.name for path in tmp_path.iterdir()] == ["fashion-mnist-study"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert of_this_user().path == tmp_path / "home" / ".cache" / "fashion-mnist-study" / "speeds.json"
