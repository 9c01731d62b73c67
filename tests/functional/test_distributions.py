"""Models that give p(z): from the engine's raw numbers to predictions files and the Python API."""

from pathlib import Path

import numpy as np
import pytest
from cosmicai import keys, model_cache, storage
from cosmicai.calibration import Calibration
from cosmicai.errors import InvalidInput, PartitionMismatch
from cosmicai.model.interface import (
    Distribution,
    ImageInput,
    Inputs,
    Interface,
    MagnitudeInput,
    MixtureOutput,
    PdfOutput,
    ScalarInput,
    parse_output,
)
from cosmicai.outputs import quantiles
from cosmicai.partition.catalogue import Catalogue, ColumnInfo, column_of
from cosmicai.partition.imaging import GalaxyShape
from cosmicai.partition.reader import open_partition
from cosmicai.prediction import Predictor, npz_columns
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.results.run_folder import load_run
from model_fill import CALIBRATION
from numpy.typing import NDArray
from s3_stack import BUCKET, Stack, make_galaxies, running_stack
from scipy import stats

PDF = PdfOutput(start=0.0, stop=1.0, bins=101, logits=True, point="mode")
MIXTURE = MixtureOutput(components=2)
SIGMA = 0.05


class MeanPixel:
    """An engine whose p(z) is a normal distribution around a twentieth of the mean pixel."""

    name = "plain"

    def __init__(self, output: Distribution) -> None:
        self.output = output
        self.values: list[NDArray[np.float32]] = []

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        self.values.append(values)
        z = image.mean(axis=(1, 2, 3))[:, None] / 20
        if isinstance(self.output, PdfOutput):
            grid = np.linspace(0, 1, 101, dtype=np.float32)
            return -0.5 * ((grid - z) / SIGMA) ** 2
        ones = np.ones_like(z)
        parts = [ones, -20 * ones, np.log1p(z), ones, -3 * ones, ones]
        return np.concatenate(parts, axis=1).astype(np.float32)


def predictor(output: Distribution, inputs: Inputs | None = None) -> Predictor:
    interface = Interface(output=output) if inputs is None else Interface(inputs, output)
    return Predictor(MeanPixel(output), digest="0" * 64, interface=interface)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for running in running_stack(monkeypatch, tmp_path):
        running.put_model()
        yield running


@pytest.mark.parametrize("output", [PDF, MIXTURE], ids=lambda output: output.kind)
def test_a_run_keeps_p_of_z_rank_by_rank(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: Distribution
) -> None:
    monkeypatch.setattr(model_cache, "load", lambda item, threads: (predictor(output), 0.0))
    image = make_galaxies(6).image
    image[2, 0, 0, 0] = np.nan
    stack.put_partitions(["1.pt"], image=image)
    stack.put_partitions(["2.pt", "3.pt"])
    plan = stack.initialize(world_size=4)  # one rank has no data
    stack.run_ranks(plan)
    stack.run_ranks(plan, [0])  # again, as a retry does
    summary = stack.summarize()
    assert (summary.status, summary.num_unpredicted) == ("SUCCEEDED", 1)

    path = stack.input["result_path"]
    arrays = npz_columns(storage.store(BUCKET).read(keys.predictions(path, 0)))
    assert arrays["pdf"].shape == (6, output.values)
    assert arrays["pdf"].dtype == (np.float16 if output is PDF else np.float32)
    kept = parse_output(str(arrays["output"]))
    median = quantiles(kept, arrays["pdf"], [0.5])[:, 0]
    np.testing.assert_allclose(median, arrays["z_median"], atol=1e-3)
    assert np.isnan(median).tolist() == [False, False, True, False, False, False]
    if output is PDF:
        assert arrays["z_lo68"][0] == pytest.approx(
            stats.norm(arrays["z_mean"][0], SIGMA).ppf(0.16), abs=2e-3
        )

    fetched = tmp_path / "run"
    for item in storage.store(BUCKET).list(keys.folder(path)):
        target = fetched / item.key.removeprefix(keys.folder(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.store(BUCKET).read(item.key))
    run = load_run(fetched)
    assert np.isfinite(run.predictions.stored["z_median"]).sum() == 17
    np.testing.assert_array_equal(run.predictions.stored["z_median"][:6], arrays["z_median"])


def test_a_rank_that_ran_twice_keeps_the_first_distributions(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.put_partitions(["1.pt"])
    plan = stack.initialize()
    key = keys.predictions(stack.input["result_path"], 0)
    seen = []
    for sigma in (SIGMA, 2 * SIGMA):
        monkeypatch.setitem(globals(), "SIGMA", sigma)
        monkeypatch.setattr(model_cache, "load", lambda item, threads: (predictor(PDF), 0.0))
        storage.store(BUCKET).delete([keys.rank(stack.input["result_path"], 0)])
        stack.run_ranks(plan)
        seen.append(storage.store(BUCKET).read(key))
    assert seen[0] == seen[1]
    assert stack.summarize().status == "SUCCEEDED"


def test_a_run_of_points_has_neither_intervals_nor_distributions(stack: Stack) -> None:
    stack.put_partitions(["1.pt"])
    stack.run_ranks(stack.initialize())
    body = storage.store(BUCKET).read(keys.predictions(stack.input["result_path"], 0))
    assert {"pdf", "output", "z_lo68", "z_mode", "odds"}.isdisjoint(npz_columns(body))


@pytest.mark.parametrize("output", [PDF, MIXTURE], ids=lambda output: output.kind)
def test_the_python_api_gives_densities(output: Distribution) -> None:
    galaxies = make_galaxies(5)
    found = predictor(output).predict(galaxies.image, galaxies.magnitude)
    assert found.pdf.shape == (5, len(found.grid))
    np.testing.assert_allclose(found.pdf.sum(axis=1) * np.diff(found.grid)[0], 1, atol=0.01)
    peak = found.grid[found.pdf.argmax(axis=1)]
    np.testing.assert_allclose(peak, found["z_mode"], atol=0.011)
    assert np.array_equal(found.redshift, found[f"z_{output.point}"])
    own = found.pdf_on([0.1, 0.2, 0.3])
    assert own.shape == (5, 3)
    assert {"z_lo95", "odds"} <= set(found.to_table().colnames)


def test_a_model_of_points_has_no_densities_but_may_be_calibrated() -> None:
    class Points(MeanPixel):
        def predict(
            self, image: NDArray[np.float32], values: NDArray[np.float32]
        ) -> NDArray[np.float32]:
            return np.full(len(image), 0.3, np.float32)

    galaxies = make_galaxies(3)
    calibration = Calibration.model_validate(CALIBRATION)
    for interface in (Interface(), Interface(calibration=calibration)):
        model = Predictor(Points(PDF), digest="", interface=interface)
        found = model.predict(galaxies.image, galaxies.magnitude)
        with pytest.raises(InvalidInput, match=r"no p\(z\): the model gives redshifts alone"):
            _ = found.pdf
        assert ("z_lo68" in found.columns) == (interface.calibration is not None)
    lo68, *_ = calibration.intervals(found.redshift, found["magnitude_r"])
    np.testing.assert_array_equal(found["z_lo68"], lo68)


INPUTS = Inputs(
    image=ImageInput(bands=("g", "r"), side=8),
    magnitude=MagnitudeInput(bands=("g", "r")),
    scalars=(ScalarInput(name="ebv"), ScalarInput(name="airmass")),
)


def test_scalars_come_with_arrays_or_from_the_partitions_catalogue(tmp_path: Path) -> None:
    image = np.ones((4, 2, 8, 8), np.float32)
    magnitude = np.arange(8, dtype=np.float32).reshape(4, 2)
    ebv, airmass = np.array([0.1, 0.2, np.nan, 0.4], np.float32), np.full(4, 1.5)
    expected = np.column_stack((magnitude, ebv, airmass))[[0, 1, 3]]

    model = predictor(PDF, INPUTS)
    found = model.predict(image, magnitude, {"airmass": airmass, "ebv": ebv})
    assert np.isnan(found.redshift).tolist() == [False, False, True, False]
    np.testing.assert_array_equal(model._engine.values[-1][[0, 1, 3]], expected)

    infos = [ColumnInfo("airmass", "float64"), ColumnInfo("ebv", "float32")]
    carried = [airmass.tolist(), [None if np.isnan(x) else float(x) for x in ebv]]
    metadata = {"bands": ["g", "r"], "pixel_scale": 0.2}
    with PartitionWriter(tmp_path / "1.pt", 4, metadata, shape=GalaxyShape(2, 8, 2)) as writer:
        writer.write(image, magnitude, np.zeros(4, np.float32))
        columns = [column_of(info, values) for info, values in zip(infos, carried, strict=True)]
        writer.write_catalogue(Catalogue(columns))
    found = model.predict_partitions([tmp_path / "1.pt"])
    assert np.isnan(found.redshift).tolist() == [False, False, True, False]
    np.testing.assert_array_equal(model._engine.values[-1][[0, 1, 3]], expected)
    assert found["magnitude_r"].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magnitude": None}, r"magnitude: the model takes 2 of a galaxy \(g, r\), found none"),
        ({"magnitude": np.ones((4, 5))}, r"magnitude must be float32 \(B, 2\)"),
        ({"image": np.ones((4, 5, 32, 32))}, r"image must be float32 \(B, 2, 8, 8\)"),
        ({"image": np.ones((3, 2, 8, 8))}, "3 images but 4 magnitude vectors"),
        ({"image": 1.0}, "image must be"),
        ({"scalars": None}, "scalars: the model takes ebv, airmass, found none"),
        ({"scalars": {"ebv": np.ones(4)}}, "takes ebv, airmass, found ebv"),
        ({"scalars": {"ebv": np.ones(4), "airmass": np.ones(3)}}, r"airmass: \(4,\) expected"),
        ({"scalars": {"ebv": ["a"] * 4, "airmass": np.ones(4)}}, "ebv: an array of numbers"),
    ],
)
def test_arrays_that_the_model_does_not_take_are_refused(change: dict, message: str) -> None:
    given = {
        "image": np.ones((4, 2, 8, 8)),
        "magnitude": np.ones((4, 2)),
        "scalars": {"ebv": np.ones(4), "airmass": np.ones(4)},
    }
    with pytest.raises(InvalidInput, match=message):
        predictor(PDF, INPUTS).predict(**given | change)


def test_magnitudes_for_a_model_without_any_are_refused() -> None:
    alone = predictor(PDF, Inputs(image=INPUTS.image))
    image = np.ones((4, 2, 8, 8))
    assert len(alone.predict(image)) == 4
    with pytest.raises(InvalidInput, match="magnitude: the model takes none"):
        alone.predict(image, np.ones((4, 2)))


def test_partitions_that_the_model_does_not_take_are_refused(tmp_path: Path) -> None:
    with PartitionWriter(tmp_path / "1.pt", 1, {}, shape=GalaxyShape(2, 16, 2)) as writer:
        writer.write(*(np.ones(shape, np.float32) for shape in ((1, 2, 16, 16), (1, 2), (1,))))
    with pytest.raises(PartitionMismatch, match=r"1\.pt: .* 8 × 8 pixels, and these have 16 × 16"):
        predictor(PDF, INPUTS).predict_partitions([tmp_path / "1.pt"])
    with pytest.raises(PartitionMismatch, match="16 × 16"):
        open_partition(tmp_path / "1.pt", inputs=INPUTS)


def put_sides(stack: Stack, sides: dict[str, int]) -> None:
    for name, side in sides.items():
        path = stack.folder / name
        with PartitionWriter(path, 1, {}, shape=GalaxyShape(5, side, 5)) as writer:
            arrays = (np.ones(shape, np.float32) for shape in ((1, 5, side, side), (1, 5), (1,)))
            writer.write(*arrays)
        storage.store(BUCKET).write(f"100MB/{name}", path.read_bytes())


def test_initialize_refuses_partitions_that_the_model_does_not_take(stack: Stack) -> None:
    put_sides(stack, {f"{number}.pt": 32 for number in range(1, 33)} | {"17.pt": 64})
    with pytest.raises(PartitionMismatch, match=r"100MB/17\.pt: .* 32 × 32 .* have 64 × 64"):
        stack.initialize(file_limit=32)
    assert stack.files() == {}
    # It looks at 16 of them; a rank looks at its own.
    put_sides(stack, {"17.pt": 32, "18.pt": 64})
    plan = stack.initialize(file_limit=32)
    with pytest.raises(PartitionMismatch, match=r"18\.pt"):
        stack.run_ranks(plan, [17])


def test_a_partition_that_cannot_be_read_is_left_to_its_rank(stack: Stack) -> None:
    put_sides(stack, {"1.pt": 32, "2.pt": 32})
    storage.store(BUCKET).write("100MB/2.pt", b"damaged")
    assert stack.initialize(file_limit=2).world_size == 2
