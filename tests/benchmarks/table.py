"""Where benchmarks leave what they measured: results/benchmarks, as Parquet, and as a table to read.

What a machine with a GPU measured is apart from what one without did, in results/benchmarks/gpu.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from study import provenance
from study.files import write_whole

ALL = Path(__file__).parents[2] / "results" / "benchmarks"
FOLDER = ALL / "gpu" if torch.cuda.is_available() else ALL


def write(name: str, measured: pd.DataFrame, summary: pd.DataFrame, *notes: str) -> None:
    """Every measurement to NAME.parquet, the summary and notes to NAME.md, with machine and versions; prints it too."""
    git = provenance.git_state("tests/benchmarks", "analysis")
    measured.attrs = {"hardware": provenance.hardware(), "versions": provenance.versions(), "git": git}
    FOLDER.mkdir(parents=True, exist_ok=True)
    packed, decimals = io.BytesIO(), [*measured.select_dtypes("floating")]
    small = measured.astype(dict.fromkeys(decimals, "float32"))  # seven digits of a clock are enough, in half the room
    small.to_parquet(packed, index=False, compression="zstd", use_dictionary=[c for c in small if c not in decimals])
    write_whole(FOLDER / f"{name}.parquet", packed.getbuffer())
    text = page(name, measured.attrs, summary, *notes)
    write_whole(FOLDER / f"{name}.md", text.encode())
    print(text)


def page(name: str, measured_by: dict[str, Any], summary: pd.DataFrame, *notes: str) -> str:
    """The text of NAME.md. `measured_by`: the attributes of NAME.parquet."""
    hardware, versions, git = (measured_by[key] for key in ("hardware", "versions", "git"))
    machine = f"{hardware['cpu']}, {hardware['cores']} cores, {', '.join(hardware['gpus']) or 'no GPU'}"
    used = ", ".join(
        f"{package} {version}"
        for package, version in versions.items()
        if package in ("python", "torch", "ray", "optuna")
    )
    lines = [f"# {name}", "", f"{machine}; {used}; commit {git['commit']}{' with changes' * bool(git['dirty'])}.", ""]
    lines += ["| " + " | ".join(summary.columns) + " |", "|" + "---|" * len(summary.columns)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in summary.itertuples(index=False)]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
