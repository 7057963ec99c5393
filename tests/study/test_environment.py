"""What people's environments hold: limits, settings of other programs, libraries that do not load, closed streams."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from study import files
from study.opening import UsageError, broken_library, check_limits, check_surroundings


@pytest.mark.parametrize("name", ["f", "v"])
def test_a_limit_under_which_ray_does_not_start_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = {"f": resource.RLIMIT_FSIZE, "v": resource.RLIMIT_AS}[name]
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr("resource.getrlimit", lambda limit: (1000 << 10 if limit == of else unlimited, unlimited))
    with pytest.raises(UsageError, match=rf"^ulimit -{name}: got 1000, must be at least \d+ or unlimited: Ray"):
        check_limits()


@pytest.mark.parametrize("value", ["expandable_segments", "a:", "a:[1:2", "a:1,b"])
def test_a_setting_with_which_torch_aborts_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", value)
    with pytest.raises(UsageError, match=rf"^PYTORCH_ALLOC_CONF: got '{re.escape(value)}', must be as in key:value"):
        check_surroundings("study.run")


@pytest.mark.parametrize("value", ["", "expandable_segments:True", "a:[1:2,>:4],b:0.8,"])
def test_settings_of_torchs_memory_are_left_to_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", value)
    check_surroundings("study.run")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("raise ValueError('\\nInvalid log settings: x\\nmore')", "ValueError (Invalid log settings: x)"),
        ("import no_such_module", "ModuleNotFoundError (No module named 'no_such_module')"),
        ("import ctypes; ctypes.CDLL('no-such-lib.so')", "OSError (no-such-lib.so: cannot open shared object file"),
    ],
)
def test_a_library_that_cannot_be_imported_is_named(broken: str, said: str, tmp_path: Path) -> None:
    """As with TORCH_LOGS=nonsense, or with a CUDA library missing; it is no fault of this program."""
    (tmp_path / "torch.py").write_text(broken)
    command = [sys.executable, "-m", "study.run", "--space", "smoke", "--dry-run", "--results", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TORCH_LOGS": "x"}
    environment.pop("LD_LIBRARY_PATH", None)  # OpenCV sets it in whoever imports it
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"torch: got {said}")
    assert done.stderr.endswith("must be a library that can be imported; the environment sets PYTHONPATH, TORCH_LOGS\n")
    assert len(done.stderr.splitlines()) == 1


def test_a_fault_of_this_program_is_none_of_a_librarys() -> None:
    with pytest.raises(KeyError) as raised:
        files.broken.__globals__["AGAIN"].format()
    assert broken_library(raised.value) is None


CLOSED = """
import os, sys
from study.files import plain_signs
plain_signs()
with open(sys.argv[1], "w") as file:
    os.write(1, b"printed")
    os.write(2, b"printed")
    print("printed", flush=True)
    sys.stderr.write("printed")
    assert sys.stdin.read() == "" and file.fileno() > 2
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_printed_to_a_stream_that_is_closed_reaches_no_file(closed: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", CLOSED, str(file)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert file.read_text() == ""


def test_lines_are_drawn_anew_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.openpty()
    monkeypatch.setenv("FORCE_COLOR", "1")
    with open(writer, "w") as terminal, open(os.devnull, "w") as log:
        monkeypatch.setenv("TERM", "xterm")
        assert (files.is_terminal(terminal), files.is_terminal(log)) == (True, False)
        monkeypatch.setenv("TERM", "dumb")
        assert not files.is_terminal(terminal)
    os.close(reader)


def test_tune_heeds_no_variables_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of which end a run, such as TUNE_RESULT_DIR, while others hold back results, or break the Ctrl-C."""
    from ray.tune.constants import TUNE_ENV_VARS

    from study import execution

    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", dict.fromkeys(TUNE_ENV_VARS, "x"))
        execution.quiet()
        assert set(os.environ) & TUNE_ENV_VARS == {"TUNE_GLOBAL_CHECKPOINT_S", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"}
        assert "x" not in os.environ.values()


def test_a_studys_own_ray_heeds_no_settings_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With RAY_REDIS_ADDRESS Ray aborts, with RAY_RUNTIME_ENV_HOOK it imports what is not there."""
    from study import cluster

    of_another = ("RAY_REDIS_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_OVERRIDE_RESOURCES")
    of_this = {"RAY_AUTH_MODE": "token", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_task_oom_retries": "2", "PATH": "/bin"}
    monkeypatch.setattr(os, "environ", of_this | dict.fromkeys(of_another, "x"))
    cluster._forget_other_rays()
    assert os.environ == of_this


def test_a_reader_that_ends_is_no_fault_of_the_program(tmp_path: Path) -> None:
    """As of `2>&1 | head`."""
    command = [sys.executable, "-m", "study.run", "--space", "smoke", "--fidelity", "preview", "--dry-run", "--results"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*command, str(tmp_path)], stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 130


def test_settings_of_python_that_end_rays_processes_do_not_reach_them() -> None:
    """Of which one has warnings raised and the other leaves out docstrings."""
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2"}
    code = "import os, study; print({'PYTHONWARNINGS', 'PYTHONOPTIMIZE'} & set(os.environ))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_loopback_interface_that_is_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray waits for minutes."""

    def unreachable(*_: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", unreachable)
    with pytest.raises(UsageError, match=r"^127\.0\.0\.1: got Network is unreachable, must be reached by programs"):
        check_limits()


def test_a_folder_for_semaphores_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from study import choose

    class Context:
        def Barrier(self, count: int) -> None:  # noqa: N802
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("multiprocessing.get_context", lambda kind: Context())
    said = r"^/dev/shm: got Read-only file system, must be a folder to write to"
    with pytest.raises(UsageError, match=said), choose._processes(1):
        pass
