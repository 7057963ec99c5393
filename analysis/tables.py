"""A study's JSON records as Parquet: tables that plain `pandas.read_parquet` reads tidily.

    results/<name>/tables/trials.parquet        one row a trial, failed ones included
                          epochs.parquet        one row a trial and epoch
                          predictions.parquet   one row a completed confirm trial, test image and weights
                          …                     what the analysis finds in them: see analysis/schemas.py
                          README.md             what every column means

The same records give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.schemas import CATEGORIES, EPOCHS, KEY, PREDICTIONS, SCHEMAS, TRIALS, dictionary
from study.config import hyperparameters
from study.files import RecordError, broken, temporary_of, write_whole
from study.records import (
    STAGES,
    WEIGHTS,
    EpochRecord,
    TrialRecord,
    Weights,
    check_left,
    read_epochs,
    read_study,
    read_trials,
    trial_folder,
)
from study.space import TEST_IMAGES

MADE_FROM = "made_from"  # key of the metadata
LATER = {"stress": ["amount"]}  # columns that earlier reports did not write: null in their tables
# What confirm writes of a trial: classes by their place.
WRITTEN = pa.schema(
    [(f.name, pa.int8() if pa.types.is_dictionary(f.type) else f.type) for f in PREDICTIONS if f not in KEY]
)
DECIMALS = 4  # of a probability; one more below 0.001
TRIALS_A_GROUP = 200  # trials whose rows are held in memory and written together


def build(study: Path) -> list[TrialRecord]:
    """Write the tables of the study in this folder, whole or not at all; the records of its trials.

    Raises RecordError, naming the file.
    """
    about = read_study(study)
    name, fidelity = about.get("name", study.name), about.get("fidelity")
    trials = [*read_trials(study, "search"), *read_trials(study, "confirm")]
    kept = _kept(study, trials)
    if gone := _gone(study, trials, kept):
        got = f"none of the {gone} files confirm/*/predictions.parquet"
        raise RecordError(f"{study}: got {got}, must hold them for a page; its records and tables can be read without")
    rows: list[dict[str, Any]] = []
    with (
        _writer(study, "trials") as write_rows,
        _writer(study, "epochs") as write_epochs,
        _writer(study, "predictions") as write_predictions,
    ):
        for group in (trials[i : i + TRIALS_A_GROUP] for i in range(0, len(trials), TRIALS_A_GROUP)):
            lines: list[dict[str, Any]] = []
            groups: list[pa.Table] = []
            for trial in group:
                key = _key(trial, name, fidelity)
                epochs = read_epochs(trial_folder(study, trial))
                lines += [key | vars(epoch) for epoch in epochs]
                predictions = _predictions(trial_folder(study, trial), trial, key, kept)
                if predictions is not None:
                    groups.append(predictions)
                rows.append(key | _row(trial, epochs, predictions))
            write_epochs.write_table(_table(lines, EPOCHS))
            if groups:  # in one piece: a row group for each trial takes two fifths more bytes
                write_predictions.write_table(pa.concat_tables(groups).combine_chunks())
        write_rows.write_table(_table(rows, TRIALS))
    write_whole(study / "tables" / "README.md", dictionary().encode())
    return trials


def write(study: Path, table: str, frame: pd.DataFrame, key: str = "") -> None:
    """Write a table that the analysis made, by its schema; the frame's other columns are left out.

    `key` is a digest of what it was made from: see `key_of`.
    """
    schema = SCHEMAS[table].with_metadata({**(SCHEMAS[table].metadata or {}), **({MADE_FROM: key} if key else {})})
    columns = [_column(field, frame[field.name]) for field in schema]
    with _writer(study, table, schema) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _column(field: pa.Field, values: pd.Series | Sequence[Any]) -> pa.Array:
    """NaN is null: a diverged loss is missing, and means in pandas and elsewhere agree on it."""
    if not pa.types.is_dictionary(field.type):
        return pa.array(values, field.type, from_pandas=True)
    codes = pd.Categorical(values, CATEGORIES[field.name]).codes
    return _encode(field, pa.array(codes, pa.int8(), mask=codes < 0))


def read(study: Path, table: str) -> pd.DataFrame:
    """One of the tables that `build` or `write` wrote."""
    schema = SCHEMAS[table]
    found = pq.read_table(study / "tables" / f"{table}.parquet", page_checksum_verification=True)
    for name in LATER.get(table, []):
        if name not in found.column_names:
            place = schema.get_field_index(name)
            found = found.add_column(place, schema.field(name), pa.nulls(len(found), schema.field(name).type))
    return found.replace_schema_metadata(schema.metadata).to_pandas()  # that in the file has no checksum


def key_of(study: Path, table: str) -> str:
    """The key that a table was written with; empty where it has none, or is not there."""
    try:
        metadata = pq.read_schema(study / "tables" / f"{table}.parquet").metadata or {}
    except (OSError, ValueError, pa.ArrowException):
        return ""
    return str(metadata.get(MADE_FROM.encode(), b"").decode(errors="replace"))


def earlier(study: Path, table: str) -> pd.DataFrame:
    """A table that an earlier report wrote; empty where there is none. Raises RecordError where it cannot be used."""
    path = study / "tables" / f"{table}.parquet"
    if not path.exists():
        return SCHEMAS[table].empty_table().to_pandas()
    try:
        later = LATER.get(table, [])
        before = pa.schema([field for field in SCHEMAS[table] if field.name not in later])
        if any(pq.read_schema(path).equals(schema) for schema in (SCHEMAS[table], before)):
            return read(study, table)
        found = "other columns"
    except (OSError, ValueError, pa.ArrowException) as error:
        found = str(error)
    must = "the table that a report wrote; put it back, or delete it, and with it what it alone says"
    raise RecordError(f"{path}: got {found}, must be {must}")


def _key(trial: TrialRecord, name: str, fidelity: str | None) -> dict[str, Any]:
    key = {field.name: getattr(trial, field.name) for field in KEY if field.name not in ("study", "fidelity")}
    return {"study": name, "fidelity": fidelity, **key}


def _row(trial: TrialRecord, epochs: list[EpochRecord], predictions: pa.Table | None) -> dict[str, Any]:
    """What `trials` says of a trial beside its key, and what its record holds besides."""
    best = _best(trial, epochs)
    at_best = ("train_accuracy", "val_accuracy", "train_loss", "val_loss")
    return {
        **vars(trial),
        "model": trial.config.model.name,
        "epochs": len(epochs),
        "best_epoch": best.epoch if best else None,
        **{name: getattr(best, name) if best else None for name in at_best},
        # From the predictions themselves: pandas gives the same quotient of two whole numbers, to the last bit.
        "test_accuracy": trial.test_accuracy if predictions is None else _accuracy(predictions, "best"),
        "test_accuracy_last": trial.test_accuracy_last if predictions is None else _accuracy(predictions, "last"),
        "seconds": sum(epoch.seconds for epoch in epochs),
        "cpu_seconds": sum(epoch.cpu_seconds for epoch in epochs),
        "images_per_s": float(np.median([epoch.images_per_s for epoch in epochs])) if epochs else None,
        **hyperparameters(trial.config),
    }


def _best(trial: TrialRecord, epochs: list[EpochRecord]) -> EpochRecord | None:
    """The epoch the trial named, else the first of those with the best finite validation accuracy."""
    named = next((epoch for epoch in epochs if epoch.epoch == trial.best_epoch), None)
    finite = (epoch for epoch in epochs if epoch.val_accuracy == epoch.val_accuracy and not epoch.diverged)
    return named or max(finite, key=lambda epoch: epoch.val_accuracy, default=None)


def _gone(study: Path, trials: list[TrialRecord], kept: pa.Table) -> int:
    """How many trials' predictions are missing, where all are, as in a study kept for its records alone; else 0."""
    files = [trial_folder(study, t) / "predictions.parquet" for t in trials if _predicts(t)]
    return 0 if len(kept) or any(file.exists() for file in files) else len(files)


def _predicts(trial: TrialRecord) -> bool:
    return trial.stage == "confirm" and trial.status == "completed"


def _kept(study: Path, trials: list[TrialRecord]) -> pa.Table:
    """The predictions in the table that is there already, if a trial's own are gone. Raises RecordError."""
    if all((trial_folder(study, trial) / "predictions.parquet").exists() for trial in trials if _predicts(trial)):
        return PREDICTIONS.empty_table()
    return pa.Table.from_pandas(earlier(study, "predictions"), PREDICTIONS)


def _predictions(folder: Path, trial: TrialRecord, key: dict[str, Any], kept: pa.Table) -> pa.Table | None:
    """A confirmed trial's predictions, by image; where its own file is gone, those of the table. Raises RecordError."""
    path = folder / "predictions.parquet"
    if not _predicts(trial):
        return None
    if not path.exists():
        same = pc.and_(pc.equal(kept["trial_id"], trial.trial_id), pc.equal(kept["config_id"], trial.config_id))
        own = kept.filter(pc.and_(same, pc.equal(kept["seed"], trial.seed)))
        if not len(own):
            raise broken(path, "no file", "there, or its rows in tables/predictions.parquet")
        return own
    check_left(path)
    try:
        found = pq.read_table(path)
        if "weights" not in found.column_names:  # of a study that did not keep the last epoch's
            found = found.add_column(0, "weights", pa.repeat(pa.scalar(WEIGHTS.index("best"), pa.int8()), len(found)))
        found = found.sort_by([("weights", "ascending"), ("image", "ascending")])
        images, weights = found["image"].to_numpy(), found["weights"].to_numpy()
        known = len(images) and images.min() >= 0 and images.max() < TEST_IMAGES
        known = known and ((np.diff(images) > 0) | (np.diff(weights) > 0)).all()
        if not found.schema.equals(WRITTEN) or not known or any(column.null_count for column in found.columns):
            raise ValueError("other columns or images")
        columns = [
            pa.repeat(pa.scalar(key[f.name], f.type), len(found))
            if f.name in key and not pa.types.is_dictionary(f.type)
            else _encode(
                f, pa.repeat(STAGES.index(trial.stage), len(found)) if f.name == "stage" else _rounded(f, found)
            )
            for f in PREDICTIONS
        ]
        return pa.Table.from_arrays(columns, schema=PREDICTIONS)
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        raise broken(path, str(error), "the predictions that this program wrote") from error


def _rounded(field: pa.Field, found: pa.Table) -> pa.ChunkedArray:
    """A column of predictions; of probabilities what a test set can tell apart, in a fifth of the bytes."""
    values = found[field.name]
    if field.type != pa.float32():
        return values
    fine = pc.max_element_wise(pc.round(values, DECIMALS + 1), 10.0 ** -(DECIMALS + 1))
    return pc.if_else(pc.less(values, 0.001), fine, pc.round(values, DECIMALS))


def _accuracy(predictions: pa.Table, weights: Weights) -> float | None:
    predictions = predictions.filter(pc.equal(predictions["weights"], weights))
    right = pc.sum(pc.equal(*(_codes(predictions[name]) for name in ("predicted", "label")))).as_py()
    return right / len(predictions) if len(predictions) else None


def _codes(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().indices


def _encode(field: pa.Field, values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Numbers in the column's type; where it is categorical, they are places in its categories."""
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if not pa.types.is_dictionary(field.type):
        return whole.cast(field.type)
    categories = pa.array(CATEGORIES[field.name])
    return pa.DictionaryArray.from_arrays(whole.cast(pa.int8()), categories, ordered=field.type.ordered)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([_column(f, [row.get(f.name) for row in rows]) for f in schema], schema=schema)


@contextmanager
def _writer(study: Path, table: str, schema: pa.Schema | None = None) -> Iterator[pq.ParquetWriter]:
    """Writes a table row group by row group to a temporary file that takes its place at the end, or leaves no trace."""
    path, schema = study / "tables" / f"{table}.parquet", schema or SCHEMAS[table]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    packed: dict[str, Any] = {"compression": "zstd", "compression_level": 19}
    if table == "predictions":  # images follow each other, again and again: steps of 1 take no room
        packed["use_dictionary"] = [name for name in schema.names if name != "image"]
        packed["column_encoding"] = {"image": "DELTA_BINARY_PACKED"}
    try:
        with pq.ParquetWriter(temporary, schema, write_page_checksum=True, **packed) as writer:
            yield writer
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
