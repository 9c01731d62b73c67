"""The catalogue's columns: each declared once, and stored by whoever predicts."""

from dataclasses import replace

import numpy as np
import pytest
from cosmicai import columns
from cosmicai.columns import Column, PredictedBatch, StoredColumn
from cosmicai.errors import InvalidInput
from cosmicai.model.interface import (
    ImageInput,
    Inputs,
    Interface,
    MagnitudeInput,
    NormalOutput,
)
from cosmicai.prediction import Predictions


def batch(count: int = 3) -> PredictedBatch:
    magnitude = np.arange(count * 5, dtype=np.float32).reshape(count, 5)
    return PredictedBatch(
        partition=1,
        start=10,
        image=np.zeros((count, 5, 32, 32), np.float32),
        magnitude=magnitude,
        true_redshift=np.full(count, 0.1, np.float32),
        estimates={"redshift": np.full(count, 0.2, np.float32)},
        model=Interface(),
    )


def test_stored_columns_compute_what_they_describe() -> None:
    known = columns.columns_of(Interface())
    values = {name: column.value(batch()) for name, column in known.items()}
    assert values["index"].tolist() == [10, 11, 12]
    assert values["magnitude_r"].tolist() == [2, 7, 12]
    assert values["redshift"].tolist() == pytest.approx([0.2] * 3)
    assert values["true_redshift"].tolist() == pytest.approx([0.1] * 3)


def test_a_model_has_the_columns_that_its_output_gives() -> None:
    with_distribution = columns.columns_of(Interface(output=NormalOutput())).keys()
    without = columns.columns_of(Interface()).keys()
    intervals = {"z_lo68", "z_hi68", "z_lo95", "z_hi95"}
    estimates = {"z_mode", "z_median", "z_mean", "odds"}
    assert with_distribution - without == intervals | estimates


def test_the_r_magnitude_is_unknown_where_there_is_none() -> None:
    other = replace(batch(), magnitude_bands=("g", "i", "z", "y", "w"))
    assert np.isnan(columns.COLUMNS["magnitude_r"].value(other)).all()
    none = replace(batch(), magnitude=np.empty((3, 0), np.float32))
    assert np.isnan(columns.COLUMNS["magnitude_r"].value(none)).all()


def test_every_column_says_what_it_holds() -> None:
    for name, column in columns.COLUMNS.items():
        assert column.name == name
        assert column.description
        assert column.ucd
        assert column.dtype == "str" or np.dtype(column.dtype)


def test_a_new_column_takes_one_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "COLUMNS", dict(columns.COLUMNS))
    colour = StoredColumn(
        name="g_r",
        dtype="float32",
        description="colour",
        ucd="phot.color;em.opt.B;em.opt.R",
        unit="mag",
        value=lambda batch: batch.magnitude[:, 1] - batch.magnitude[:, 2],
    )
    columns.register(colour)
    assert columns.stored_columns()["g_r"].value(batch()).tolist() == [-1, -1, -1]
    with pytest.raises(InvalidInput, match="'g_r' is declared already"):
        columns.register(Column(name="g_r", dtype="float32", description="twice", ucd="x"))


def test_bands_of_one_model_leave_no_columns_to_the_next() -> None:
    before = dict(columns.COLUMNS)
    bands = ("H", "J", "VIS")
    odd = Interface(
        Inputs(image=ImageInput(bands=bands, side=16), magnitude=MagnitudeInput(bands=bands))
    )
    own = {f"magnitude_{band}" for band in bands}
    assert own <= columns.columns_of(odd).keys()
    empty = Predictions(odd)
    assert own <= set(empty.columns)
    assert empty["magnitude_H"].dtype == np.float32
    assert empty.to_arrow().field("magnitude_VIS").metadata[b"unit"] == b"mag"
    assert empty.to_table()["magnitude_H"].unit == "mag"
    assert before == columns.COLUMNS
    assert not own & columns.columns_of(Interface()).keys()
    assert not own & set(Predictions(Interface()).columns)
