"""Which room may import which: read from the source, and seen in a fresh process."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> set[str]:
    """Every dotted name that a file imports, wherever in it: `a.b` and, of `from a import b`, both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import, which this test does not follow"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def source_of(name: str) -> Path | None:
    """The file of a module of this project."""
    base = ROOT.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file() and name.split(".")[0] in ("study", "analysis"):
            return path
    return None


def closure(name: str) -> dict[str, set[str]]:
    """The project's modules that importing `name` leads to, each with what it imports."""
    found: dict[str, set[str]] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        path = source_of(module)
        if path is not None and module not in found:
            found[module] = imports(path)
            waiting += [*found[module], module.rpartition(".")[0]]
    return found


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_study_never_imports_analysis() -> None:
    files = sorted((ROOT / "study").rglob("*.py"))
    assert ROOT / "study" / "models" / "resnet.py" in files
    assert [str(path) for path in files if "analysis" in tops(imports(path))] == []


def test_nothing_that_the_trainer_imports_imports_ray() -> None:
    modules = closure("study.trainer")
    assert {"study", "study.augment", "study.config", "study.models.resnet", "study.records"} <= modules.keys()
    assert [name for name, imported in modules.items() if "ray" in tops(imported)] == []


def test_what_follows_imports_sees_ray_where_it_is() -> None:
    assert "ray" in tops(set().union(*closure("study.search").values()))


def test_a_fresh_process_that_trains_has_not_loaded_ray() -> None:
    absent = "print([name for name in ('ray', 'optuna', 'analysis') if name in sys.modules])"
    code = f"import sys, study.trainer; {absent}; import study.probe; {absent}; print(study.probe.Trainer.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["[]", "[]", "Trainer"], 0), done.stderr


def test_help_and_bad_input_are_answered_before_anything_heavy_is_imported() -> None:
    code = """
import sys
from analysis import report
from study import run

for main, typed in (
    (run.main, "--help"), (run.main, "--none"), (run.main, "--space none"), (run.main, "--resume none"),
    (report.main, "--help"), (report.main, "--none"), (report.main, "none"), (report.main, "--top -1"),
):
    try:
        status = main(typed.split())
    except SystemExit as ended:
        status = ended.code
    print(status, file=sys.stderr)
print({"torch", "ray", "pandas", "matplotlib", "sklearn", "scipy", "cv2", "pyarrow"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert [line for line in done.stderr.splitlines() if line.isdecimal()] == list("02220222")
