"""The tables are built from real files and read with plain pandas."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_study import CANDIDATE, NAME, make

from analysis import tables
from analysis.schemas import SCHEMAS
from study.config import hyperparameters
from study.data import CLASS_NAMES
from study.files import RecordError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("results") / "made", fidelity="preview")
    tables.build(folder)
    return folder


def read(study: Path, table: str) -> pd.DataFrame:
    return pd.read_parquet(study / "tables" / f"{table}.parquet")


def test_accuracy_recomputed_from_predictions_is_equal_to_the_last_bit(study: Path) -> None:
    predictions, trials = read(study, "predictions"), read(study, "trials").set_index("trial_id")
    recomputed = (predictions.predicted == predictions.label).groupby(predictions.trial_id).mean()
    assert len(recomputed) == 9
    assert (recomputed == trials.test_accuracy.dropna()).all()


def test_a_study_that_kept_one_kind_of_weights_has_those_of_the_best_epoch(study: Path) -> None:
    assert (read(study, "predictions").weights == "best").all()
    trials = read(study, "trials")
    last = ["test_accuracy_last", "train_accuracy_clean_last", "test_loss_last", "train_loss_clean_last"]
    assert trials[last].isna().all(axis=None)


def with_last(path: Path, worse: int) -> pa.Table:
    """A trial's predictions with both kinds of weights; the last epoch's get `worse` more images wrong, the first."""
    best = pq.read_table(path)
    label, predicted = (best[name].to_numpy() for name in ("label", "predicted"))
    last = predicted.copy()
    last[np.flatnonzero(label == predicted)[:worse]] = (label[np.flatnonzero(label == predicted)[:worse]] + 1) % 10
    both = pa.concat_tables([best, best.set_column(best.column_names.index("predicted"), "predicted", [last])])
    return both.add_column(0, "weights", pa.array(np.repeat([1, 0], len(best)).astype(np.int8)))


def test_accuracies_with_the_last_epochs_weights_are_of_their_own_predictions(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=1, images=50)
    path = folder / "confirm" / "c0001" / "predictions.parquet"
    tables.build(folder)
    before = read(folder, "trials").set_index("trial_id").test_accuracy["c0001"]
    pq.write_table(with_last(path, worse=10), path)
    tables.build(folder)
    trial = read(folder, "trials").set_index("trial_id").loc["c0001"]
    assert trial.test_accuracy == before
    assert trial.test_accuracy_last == pytest.approx(before - 10 / 50)
    predictions = read(folder, "predictions").query("trial_id == 'c0001'")
    assert list(predictions.weights.cat.categories) == ["last", "best"]
    assert not predictions.duplicated(["weights", "image"]).any()
    right = (predictions.label == predictions.predicted).groupby(predictions.weights, observed=True).mean()
    assert right.to_dict() == {"last": trial.test_accuracy_last, "best": before}


def test_an_image_that_one_kind_of_weights_predicted_twice_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=1, images=3)
    path = folder / "confirm" / "c0001" / "predictions.parquet"
    both = with_last(path, worse=0)
    pq.write_table(both.set_column(0, "weights", pa.array([0] * len(both), pa.int8())), path)
    with pytest.raises(RecordError, match=r"c0001/predictions\.parquet: got other columns or images"):
        tables.build(folder)


def test_group_by_stage_and_arm_works_as_read(study: Path) -> None:
    found = read(study, "trials").groupby(["stage", "arm"]).test_accuracy.agg(["mean", "std", "count"])
    assert found.loc[("confirm", "baseline"), "count"] == 3
    assert found.loc[("confirm", "candidate-1"), "mean"] == pytest.approx(0.87, abs=0.004)
    assert found.loc[("search", "baseline"), "count"] == 0


def test_every_trial_has_a_row_however_it_ended(study: Path) -> None:
    trials = read(study, "trials").set_index("trial_id")
    assert len(trials) == 19
    assert trials.status["s0008"] == "diverged"
    assert trials.stop_reason["s0008"] == "diverged"
    assert trials.status["s0009"] == "failed"
    assert "out</b> of memory" in trials.error["s0009"]
    assert trials.attempts["s0009"] == 3
    assert trials.epochs["s0009"] == 0
    assert trials.loc["s0009", ["best_epoch", "val_accuracy", "images_per_s"]].isna().all()
    assert trials.best_epoch.isna()["s0008"], "an epoch whose loss was not finite is nobody's best"
    assert (trials.fidelity == "preview").all()
    assert (trials.study == NAME).all()


def test_values_of_a_trial(study: Path) -> None:
    trial = read(study, "trials").set_index("trial_id").loc["s0000"]
    epochs = read(study, "epochs").query("trial_id == 's0000'")
    assert trial.epochs == 10
    assert trial.best_epoch == 10
    assert trial.config_id == CANDIDATE.config_id
    assert trial.val_accuracy == epochs.val_accuracy.iloc[-1]
    assert trial.train_loss == epochs.train_loss.iloc[-1]
    assert trial.seconds == 95.0
    assert trial.images_per_s == 5205.5
    assert {name: trial[name] for name in hyperparameters(CANDIDATE)} == hyperparameters(CANDIDATE)


def test_hyperparameters_that_do_not_apply_are_null(study: Path) -> None:
    trials = read(study, "trials").set_index("trial_id")
    assert trials.loc["s0000", ["hp_channels", "hp_dropout", "hp_step_size"]].isna().all()
    assert trials.loc["s0006", ["hp_blocks", "hp_shortcut", "hp_momentum", "hp_nesterov"]].isna().all()


def test_losses_that_were_not_finite_are_null(study: Path) -> None:
    epoch = read(study, "epochs").query("trial_id == 's0008'").iloc[0]
    assert epoch.diverged
    assert pd.isna(epoch.train_loss)
    assert epoch.val_accuracy == 0.1
    assert pq.read_table(study / "tables" / "epochs.parquet")["val_loss"].null_count == 1


def test_categories_survive_plain_reading(study: Path) -> None:
    predictions, trials = read(study, "predictions"), read(study, "trials")
    for column in (predictions.label, predictions.predicted):
        assert tuple(column.cat.categories) == CLASS_NAMES
        assert column.cat.ordered
    assert trials.stage.cat.ordered
    assert (trials.stage < "confirm").sum() == 10
    assert not trials.status.cat.ordered


def test_columns_have_one_type_whatever_the_study(study: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "unconfirmed", confirm=False)
    tables.build(folder)
    for table in ("trials", "epochs", "predictions"):
        assert read(folder, table).dtypes.astype(str).to_dict() == read(study, table).dtypes.astype(str).to_dict()
    types = read(study, "trials").dtypes.astype(str)
    assert types["hp_step_size"] == "Int64"
    assert types["hp_shortcut"] == "boolean"
    assert types["error"] == "str"


def test_every_column_is_described(study: Path) -> None:
    text = (study / "tables" / "README.md").read_text()
    for schema in SCHEMAS.values():
        for field in schema:
            assert f"| `{field.name}` |" in text
            assert field.metadata[b"description"].decode() not in ("", field.name), f"{field.name} is not described"
        assert schema.metadata[b"description"].decode() in text


def test_the_same_records_give_the_same_bytes(study: Path) -> None:
    before = {path.name: path.read_bytes() for path in (study / "tables").iterdir()}
    tables.build(study)
    assert {path.name: path.read_bytes() for path in (study / "tables").iterdir()} == before


def test_a_broken_file_is_named_and_the_old_tables_stay(tmp_path: Path) -> None:
    folder = make(tmp_path / "broken", seeds=1, images=10)
    tables.build(folder)
    before = (folder / "tables" / "trials.parquet").read_bytes()
    (folder / "confirm" / "c0001" / "predictions.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(RecordError, match=r"c0001/predictions\.parquet"):
        tables.build(folder)
    assert (folder / "tables" / "trials.parquet").read_bytes() == before
    assert len(list((folder / "tables").iterdir())) == 4


@pytest.mark.parametrize(
    "column",
    [
        {"p_9": None},
        {"image": pa.array([0, 1, 1], pa.int32())},
        {"image": pa.array([0, 1, 10_000], pa.int32())},
        {"image": pa.array([-1, 0, 1], pa.int32())},
        {"image": pa.array(["0", "1", "2"])},
        {"label": pa.array([0, 1, 10], pa.int8())},
        {"predicted": pa.array([0, 1, -1], pa.int8())},
        {"confidence": pa.array([0.5, 0.5, None], pa.float32())},
    ],
    ids=str,
)
def test_predictions_of_anything_else_are_named(column: dict[str, pa.Array | None], tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=1, images=3)
    path = folder / "confirm" / "c0001" / "predictions.parquet"
    table = pq.read_table(path)
    for name, values in column.items():
        at = table.column_names.index(name)
        table = table.remove_column(at) if values is None else table.set_column(at, name, values)
    pq.write_table(table, path)
    with pytest.raises(RecordError) as caught:
        tables.build(folder)
    assert str(caught.value).startswith(f"{path}: got ")
    assert f"must be the predictions that this program wrote; delete {path.parent} and resume the study" in str(
        caught.value
    )


def test_predictions_that_are_nowhere_are_missed_before_a_table_is_touched(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=1, images=3)
    tables.build(folder)
    for path in folder.glob("confirm/*/predictions.parquet"):
        path.unlink()
    table = folder / "tables" / "predictions.parquet"
    before = table.read_bytes()
    tables.build(folder)
    assert table.read_bytes() == before
    table.unlink()
    with pytest.raises(RecordError, match=f"^{folder}: got none of the 3 files confirm/.+, must hold them "):
        tables.build(folder)
    assert not table.exists()


def test_a_trials_predictions_that_are_nowhere_are_missed(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=1, images=3)
    path = next(folder.glob("confirm/*/predictions.parquet"))
    path.unlink()
    with pytest.raises(RecordError, match=f"^{path}: got no file, must be there, or its rows in tables"):
        tables.build(folder)
    assert not (folder / "tables" / "predictions.parquet").exists()


def test_a_garbled_byte_of_an_earlier_table_changes_no_number(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", seeds=1, images=30)
    tables.build(folder)
    path, before = folder / "tables" / "predictions.parquet", tables.earlier(folder, "predictions")
    whole, group, refused = path.read_bytes(), pq.read_metadata(path).row_group(0), 0
    by_name = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
    columns = [by_name[name] for name in ("image", "p_0")]  # without a dictionary, and with one
    begins = [column.dictionary_page_offset or column.data_page_offset for column in columns]
    ranges = [range(b, b + column.total_compressed_size) for b, column in zip(begins, columns, strict=True)]
    for at in (at for one in ranges for at in one):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert tables.earlier(folder, "predictions").equals(before)
        except RecordError as error:
            refused += str(error).startswith(f"{path}: got ")
    assert refused > 50


def test_an_earlier_table_without_amounts_is_read_as_one_that_does_not_know_them(tmp_path: Path) -> None:
    """What lacks another column is no table of a report."""
    row = dict.fromkeys(("study", "fidelity", "trial_id", "config_id", "arm", "corruption", "family"), "made")
    row |= {"stage": "confirm", "seed": 1, "severity": 1, "amount": 0.5, "accuracy": 1.0, "n": 8, "inside": False}
    tables.write(tmp_path, "stress", pd.DataFrame([row | {"right": b"\xff"}]), "a key")
    path = tmp_path / "tables" / "stress.parquet"
    assert tables.earlier(tmp_path, "stress").amount.tolist() == [0.5]
    pq.write_table(pq.read_table(path).drop_columns("amount"), path)
    found = tables.earlier(tmp_path, "stress")
    assert [*found] == SCHEMAS["stress"].names
    assert found.amount.isna().all()
    assert tables.read(tmp_path, "stress").amount.dtype == "float64"
    pq.write_table(pq.read_table(path).drop_columns("n"), path)
    with pytest.raises(RecordError, match=f"^{path}: got other columns"):
        tables.earlier(tmp_path, "stress")


def test_names_beside_the_columns_of_an_earlier_table_have_no_effect(tmp_path: Path) -> None:
    """pandas would name and type columns by them, and they have no checksum."""
    folder = make(tmp_path / "made", seeds=1, images=30)
    tables.build(folder)
    path, before = folder / "tables" / "predictions.parquet", tables.earlier(folder, "predictions")
    assert path.read_bytes().count(b'{"name": "trial_id"') == 1
    path.write_bytes(path.read_bytes().replace(b'{"name": "trial_id"', b'{"name": "urial_id"'))
    pd.testing.assert_frame_equal(tables.earlier(folder, "predictions"), before)
    path.write_bytes(path.read_bytes().replace(b'{"name": "urial_id"', b'{"nbme": \xff"urial_id'))
    pd.testing.assert_frame_equal(tables.earlier(folder, "predictions"), before)
