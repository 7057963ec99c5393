"""A study's JSON records as Parquet: tables that plain `pandas.read_parquet` reads tidily.

    results/<name>/tables/trials.parquet        one row a trial, failed ones included
                          epochs.parquet        one row a trial and epoch
                          predictions.parquet   one row a completed confirm trial and test image
                          README.md             what every column means

The schemas are explicit, so a column keeps its type where it is empty: whole numbers and booleans that may be missing
read as `Int64` and `boolean`, text as `str`. The same records give the same bytes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from study.config import MODELS, OPTIMIZERS, SCHEDULES, TrialConfig, hyperparameters
from study.data import CLASS_NAMES
from study.records import (
    ENDED,
    STAGES,
    EpochRecord,
    RecordError,
    TrialRecord,
    read_epochs,
    read_json,
    read_trials,
    trial_folder,
    write_whole,
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "stage": STAGES,
    "status": ("pending", "running", *ENDED),
    "label": CLASS_NAMES,
    "predicted": CLASS_NAMES,
}
TRIALS_A_GROUP = 200  # trials whose epochs are held in memory and written together

HYPERPARAMETERS = {
    "hp_blocks": "basic blocks in each stage, as text: 2-2-2-2",
    "hp_widths": "channels of each stage, as text: 64-128-256-512",
    "hp_stem": "channels of the first convolution",
    "hp_shortcut": "whether the residual connections are there",
    "hp_channels": "channels of each convolution, as text: 32-64-128",
    "hp_hidden": "units of each hidden layer, as text: 256-128",
    "hp_dropout": "probability of dropping a unit",
    "hp_optimizer": "name of the optimizer",
    "hp_lr": "learning rate at the first step",
    "hp_momentum": "momentum of SGD, 0 is none",
    "hp_nesterov": "whether the momentum is Nesterov's",
    "hp_weight_decay": "weight decay: added to the gradient (sgd, adam) or decoupled (adamw)",
    "hp_schedule": "name of the learning rate schedule",
    "hp_step_size": "epochs between two steps of the learning rate",
    "hp_gamma": "factor of each step of the learning rate",
    "hp_augmentation_strength": "multiplies the maxima of the augmentation, 0 is none",
    "hp_augmentation_rotation": "maximum at strength 1, degrees, both directions",
    "hp_augmentation_translation": "maximum at strength 1, fraction of the side, both directions",
    "hp_augmentation_scale": "maximum at strength 1, the factor is drawn from 1 ± this",
    "hp_augmentation_shear": "maximum at strength 1, degrees, both directions",
    "hp_augmentation_flip": "probability of a horizontal flip at strength 1",
    "hp_augmentation_erasing": "probability of erasing a rectangle at strength 1",
    "hp_epochs": "epochs of a full run",
    "hp_batch_size": "images a step",
    "hp_label_smoothing": "share of the target spread over all classes",
    "hp_mean": "pixels in [0, 1] are normalised as (x - mean) / std",
    "hp_std": "pixels in [0, 1] are normalised as (x - mean) / std",
}

TEXT, WHOLE, REAL, YES_NO = pa.string(), pa.int64(), pa.float64(), pa.bool_()
READ_AS = {TEXT: "str", WHOLE: "Int64", YES_NO: "boolean"}


def _field(name: str, kind: pa.DataType, description: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": description})


def _category(name: str, description: str, *, ordered: bool = True) -> pa.Field:
    return _field(name, pa.dictionary(pa.int8(), pa.string(), ordered=ordered), description)


def _schema(description: str, fields: list[pa.Field]) -> pa.Schema:
    """The schema with pandas' own metadata: where it is, nullable columns read as one type with nulls or without."""
    columns = {
        f.name: pd.Categorical([], CATEGORIES[f.name], ordered=f.type.ordered)
        if pa.types.is_dictionary(f.type)
        else pd.Series([], dtype=READ_AS[f.type] if f.nullable and f.type in READ_AS else f.type.to_pandas_dtype())
        for f in fields
    }
    metadata = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False).schema.metadata
    return pa.schema(fields, metadata={**metadata, b"description": description.encode()})


def _hyperparameter_fields() -> list[pa.Field]:
    """One column for each hyperparameter of the vocabulary, whatever this study used."""
    kinds = {str: TEXT, bool: YES_NO, int: WHOLE, float: REAL}
    found: dict[str, type] = {}
    for model, optimizer, schedule in itertools.product(MODELS.values(), OPTIMIZERS.values(), SCHEDULES.values()):
        config = dataclasses.replace(TrialConfig(), model=model, optimizer=optimizer, schedule=schedule)
        found |= {name: type(value) for name, value in hyperparameters(config).items()}
    order = {name: place for place, name in enumerate(HYPERPARAMETERS)}
    names = sorted(found, key=lambda name: (order.get(name, len(order)), name))
    return [_field(name, kinds[found[name]], HYPERPARAMETERS.get(name, name), null=True) for name in names]


KEY = [
    _field("study", TEXT, "name of the study"),
    _category("stage", "search, then confirm"),
    _field("fidelity", TEXT, "full, or preview: fewer images, epochs, trials and seeds", null=True),
    _field("trial_id", TEXT, "s0007 in the search, c0007 in confirm"),
    _field("config_id", TEXT, "ten hexadecimal digits, equal for equal configurations"),
    _field("arm", TEXT, "the arm's name; candidate-1, candidate-2, … in confirm; null for a searched one", null=True),
    _field("seed", WHOLE, "seed of the weights, the order of the images and the augmentation"),
]
TRIALS = _schema(
    "One row a trial, failed ones included.",
    [
        *KEY,
        _field("model", TEXT, "name of the model"),
        _category("status", "pending, running, completed, stopped, diverged or failed", ordered=False),
        _field("stop_reason", TEXT, "finished, asha, one-epoch, diverged, error or time-budget", null=True),
        _field("error", TEXT, "what was raised, where the trial failed", null=True),
        _field("attempts", WHOLE, "how many times it was started; more than 1 after a failure"),
        _field("epochs", WHOLE, "epochs it ran"),
        _field("max_epochs", WHOLE, "epochs it might have run"),
        _field("best_epoch", WHOLE, "the epoch of the best validation accuracy, 1 is the first", null=True),
        _field("train_accuracy", REAL, "in [0, 1], at the best epoch, running mean in training mode", null=True),
        _field("train_accuracy_clean", REAL, "in [0, 1], train split evaluated with the best weights", null=True),
        _field("val_accuracy", REAL, "in [0, 1], at the best epoch", null=True),
        _field("test_accuracy", REAL, "in [0, 1], confirm only, with the best weights", null=True),
        _field("train_loss", REAL, "nats, at the best epoch, running mean in training mode", null=True),
        _field("train_loss_clean", REAL, "nats, train split evaluated with the best weights", null=True),
        _field("val_loss", REAL, "nats, at the best epoch", null=True),
        _field("test_loss", REAL, "nats, confirm only, with the best weights", null=True),
        _field("seconds", REAL, "wall time of its epochs, training and validation"),
        _field("cpu_seconds", REAL, "processor time of its epochs"),
        _field("images_per_s", REAL, "training images a second, median over its epochs", null=True),
        _field("device", TEXT, "what it ran on", null=True),
        _field("precision", TEXT, "number format of the training", null=True),
        *_hyperparameter_fields(),
    ],
)
EPOCHS = _schema(
    "One row a trial and epoch; of an epoch run more than once, the last attempt.",
    [
        *KEY,
        _field("epoch", WHOLE, "1 is the first"),
        _field("attempt", WHOLE, "1, or more where the trial was started again after a failure"),
        _field("lr", REAL, "learning rate at the first step of the epoch", null=True),
        _field("train_loss", REAL, "nats, running mean in training mode, on augmented images", null=True),
        _field("train_accuracy", REAL, "in [0, 1], likewise", null=True),
        _field("val_loss", REAL, "nats", null=True),
        _field("val_accuracy", REAL, "in [0, 1]", null=True),
        _field("seconds", REAL, "wall time of training and validation", null=True),
        _field("cpu_seconds", REAL, "processor time of the trial's process", null=True),
        _field("images_per_s", REAL, "training images a second of training", null=True),
        _field("diverged", YES_NO, "whether a loss was not finite; it is null here"),
    ],
)
PREDICTIONS = _schema(
    "One row a completed confirm trial and test image, by the weights of the best validation epoch.",
    [
        *KEY,
        _field("image", pa.int32(), "place in the test split, 0 is the first"),
        _category("label", "the class it is"),
        _category("predicted", "the class it was taken for"),
        _field("confidence", pa.float32(), "probability of the predicted class, in [0, 1]"),
        *(_field(f"p_{k}", pa.float32(), f"probability of {name}, in [0, 1]") for k, name in enumerate(CLASS_NAMES)),
    ],
)
SCHEMAS = {"trials": TRIALS, "epochs": EPOCHS, "predictions": PREDICTIONS}


def build(study: Path) -> None:
    """Write the tables of the study in this folder, whole or not at all. Raises RecordError, naming the file."""
    about = read_json(study / "study.json")
    name, fidelity = about.get("name", study.name), about.get("fidelity")
    trials = [*read_trials(study, "search"), *read_trials(study, "confirm")]
    rows: list[dict[str, Any]] = []
    with (
        _writer(study, "trials") as write_rows,
        _writer(study, "epochs") as write_epochs,
        _writer(study, "predictions") as write_predictions,
    ):
        for group in (trials[i : i + TRIALS_A_GROUP] for i in range(0, len(trials), TRIALS_A_GROUP)):
            lines: list[dict[str, Any]] = []
            for trial in group:
                key = _key(trial, name, fidelity)
                epochs = read_epochs(trial_folder(study, trial))
                lines += [key | _finite(dataclasses.asdict(epoch)) for epoch in epochs]
                predictions = _predictions(trial_folder(study, trial), trial, key)
                if predictions is not None:
                    write_predictions.write_table(predictions)
                rows.append(key | _finite(_row(trial, epochs, predictions)))
            write_epochs.write_table(_table(lines, EPOCHS))
        write_rows.write_table(_table(rows, TRIALS))
    write_whole(study / "tables" / "README.md", _dictionary().encode())


def read(study: Path, table: str) -> pd.DataFrame:
    """One of the tables that `build` wrote."""
    return pd.read_parquet(study / "tables" / f"{table}.parquet")


def _key(trial: TrialRecord, name: str, fidelity: str | None) -> dict[str, Any]:
    key = {field.name: getattr(trial, field.name) for field in KEY if field.name not in ("study", "fidelity")}
    return {"study": name, "fidelity": fidelity, **key}


def _row(trial: TrialRecord, epochs: list[EpochRecord], predictions: pa.Table | None) -> dict[str, Any]:
    """What `trials` says of a trial beside its key."""
    recorded = {name: getattr(trial, name) for name in TRIALS.names if hasattr(trial, name)}
    best = _best(trial, epochs)
    at_best = ("train_accuracy", "val_accuracy", "train_loss", "val_loss")
    return {
        **recorded,
        "model": trial.config.model.name,
        "epochs": len(epochs),
        "best_epoch": best.epoch if best else None,
        **{name: getattr(best, name) if best else None for name in at_best},
        # From the predictions themselves: pandas gives the same quotient of two whole numbers, to the last bit.
        "test_accuracy": trial.test_accuracy if predictions is None else _accuracy(predictions),
        "seconds": sum(epoch.seconds for epoch in epochs),
        "cpu_seconds": sum(epoch.cpu_seconds for epoch in epochs),
        "images_per_s": statistics.median(epoch.images_per_s for epoch in epochs) if epochs else None,
        **hyperparameters(trial.config),
    }


def _best(trial: TrialRecord, epochs: list[EpochRecord]) -> EpochRecord | None:
    """The epoch the trial named, else the first of those with the best finite validation accuracy."""
    named = next((epoch for epoch in epochs if epoch.epoch == trial.best_epoch), None)
    finite = (epoch for epoch in epochs if epoch.val_accuracy == epoch.val_accuracy and not epoch.diverged)
    return named or max(finite, key=lambda epoch: epoch.val_accuracy, default=None)


def _predictions(folder: Path, trial: TrialRecord, key: dict[str, Any]) -> pa.Table | None:
    """A completed trial's predictions, by image; None where it has none."""
    path = folder / "predictions.parquet"
    if trial.status != "completed" or not path.exists():
        return None
    try:
        found = pq.read_table(path).sort_by("image")
        columns = [
            pa.repeat(pa.scalar(key[f.name], f.type), len(found))
            if f.name in key and not pa.types.is_dictionary(f.type)
            else _encode(f, pa.repeat(STAGES.index(trial.stage), len(found)) if f.name == "stage" else found[f.name])
            for f in PREDICTIONS
        ]
        return pa.Table.from_arrays(columns, schema=PREDICTIONS)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise RecordError(f"{path}: got {error}, must be the predictions that this program wrote") from error


def _accuracy(predictions: pa.Table) -> float | None:
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
    columns = []
    for field in schema:
        values: list[Any] = [row.get(field.name) for row in rows]
        if pa.types.is_dictionary(field.type):
            places = {name: place for place, name in enumerate(CATEGORIES[field.name])}
            columns.append(_encode(field, pa.array([places[value] for value in values], pa.int8())))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """NaN as null: a diverged loss is missing, and means in pandas and elsewhere agree on it."""
    return {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}


@contextmanager
def _writer(study: Path, table: str) -> Iterator[pq.ParquetWriter]:
    """Writes a table row group by row group to a temporary file that takes its place at the end, or leaves no trace."""
    path = study / "tables" / f"{table}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(temporary, SCHEMAS[table], compression="zstd") as writer:
            yield writer
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _dictionary() -> str:
    """The data dictionary in Markdown: every column of every table, with its type and meaning."""
    parts = [
        "# The tables\n\nRead with `pandas.read_parquet`. Columns join on `trial_id`; `null` marks what may be missing."
    ]
    for name, schema in SCHEMAS.items():
        lines = [f"\n## {name}\n\n{schema.metadata[b'description'].decode()}\n\n| column | type | |\n|---|---|---|"]
        for field in schema:
            kind = "category" if pa.types.is_dictionary(field.type) else str(field.type)
            text = field.metadata[b"description"].decode()
            lines.append(f"| `{field.name}` | {kind}{', null' if field.nullable else ''} | {text} |")
        parts.append("\n".join(lines))
    return "\n".join(parts) + "\n"
