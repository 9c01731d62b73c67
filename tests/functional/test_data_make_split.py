"""Data sets as files: made, split, inspected, read back by torch."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cosmicai.errors import InvalidInput
from cosmicai.partition.imaging import GalaxyShape, Imaging
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import PartitionWriter, write_partition
from cosmicai_workbench.data.photometry import is_test_parent
from cosmicai_workbench.data.preview import colour_bands
from cosmicai_workbench.data.splitting import galaxies_per_partition
from cosmicai_workbench.data.synthesis import synthesize
from matplotlib.image import imread


def torch_tensors(path: Path) -> list[np.ndarray]:
    import torch
    from torch.utils.data import TensorDataset

    with torch.serialization.safe_globals([TensorDataset]):
        dataset = torch.load(path, weights_only=True)
    assert isinstance(dataset, TensorDataset)
    return [tensor.numpy() for tensor in dataset.tensors]


def object_ids(path: Path) -> list[object]:
    with open_partition(path, batch_size=1) as reader:
        catalogue = reader.catalogue()
    assert catalogue is not None
    return catalogue.columns["object_id"].plain()


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "survey.pt"
    assert main(["data", "make", "-n", "23", "--seed", "5", str(path)]) == 0
    return path


def test_torch_reads_what_was_made_and_metadata_says_what_is_real(survey: Path) -> None:
    image, magnitude, redshift = torch_tensors(survey)
    assert (image.shape, magnitude.shape, redshift.shape) == ((23, 5, 32, 32), (23, 5), (23,))
    assert {array.dtype for array in (image, magnitude, redshift)} == {np.dtype("float32")}
    expected = next(synthesize(23, "test", 5))
    np.testing.assert_array_equal(image, expected.image)
    np.testing.assert_array_equal(redshift, expected.redshift)
    metadata = json.loads(survey.with_suffix(".json").read_text())
    assert metadata["images"] == "painted"
    assert "real" in metadata["notice"]
    names = object_ids(survey)
    assert len(names) == 23
    assert all(is_test_parent(int(str(name).split("-")[1])) for name in names)
    with survey.with_suffix(".catalogue.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [int(row["index"]) for row in rows] == list(range(23))
    assert [row["object_id"] for row in rows] == names


def test_torch_maps_the_file_and_python_reads_its_checksums(survey: Path) -> None:
    import zipfile

    import torch
    from torch.utils.data import TensorDataset

    with torch.serialization.safe_globals([TensorDataset]):
        mapped = torch.load(survey, weights_only=True, mmap=True)
    np.testing.assert_array_equal(mapped.tensors[2].numpy(), torch_tensors(survey)[2])
    with zipfile.ZipFile(survey) as archive:
        assert archive.testzip() is None


def test_the_references_own_loader_reads_it(survey: Path) -> None:
    import torch
    from torch.utils.data import DataLoader

    dataset = torch.load(survey, weights_only=False)  # as the reference does; it is our own file
    batches = [*DataLoader(dataset, batch_size=10)]
    assert [len(redshift) for _, _, redshift in batches] == [10, 10, 3]
    assert batches[0][0].shape == (10, 5, 32, 32)


def test_same_seed_makes_the_same_bytes(survey: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pt"
    assert main(["data", "make", "-n", "23", "--seed", "5", str(again)]) == 0
    assert again.read_bytes() == survey.read_bytes()


def test_split_keeps_every_galaxy_in_order(survey: Path, tmp_path: Path) -> None:
    assert main(["data", "split", "--galaxies", "10", str(survey), str(tmp_path)]) == 0
    parts = [tmp_path / f"{number}.pt" for number in (1, 2, 3)]
    assert sorted(tmp_path.glob("*.pt")) == parts
    assert [len(torch_tensors(part)[2]) for part in parts] == [10, 10, 3]
    for whole, pieces in zip(
        torch_tensors(survey), zip(*map(torch_tensors, parts), strict=True), strict=True
    ):
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert [name for part in parts for name in object_ids(part)] == object_ids(survey)
    with parts[1].with_suffix(".catalogue.csv").open() as file:
        assert [int(row["index"]) for row in csv.DictReader(file)] == list(range(10))


def test_split_takes_the_users_own_table(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "objects.csv"
    rows = [f"{number:05},{number / 10},{number % 3}" for number in range(23)]
    table.write_text("\n".join(["objid,mass,class", *rows, ""]))
    command = ["data", "split", str(survey), "--galaxies", "10", "--catalogue", str(table)]
    parts = tmp_path / "parts"
    assert main([*command, str(parts), "--keep", "mass", "--keep", "CLASS"]) == 0
    assert object_ids(parts / "2.pt") == [f"{number:05}" for number in range(10, 20)]
    with open_partition(parts / "3.pt", batch_size=1) as reader:
        catalogue = reader.catalogue()
    assert catalogue is not None
    assert catalogue.columns["mass"].plain() == [2.0, 2.1, 2.2]
    assert catalogue.columns["class"].plain() == [2, 0, 1]

    assert main([*command, str(tmp_path / "a"), "--keep", "radius"]) == 2
    assert "column 'radius' to keep expected, found objid, mass, class" in capsys.readouterr().err
    table.write_text("objid\n1\n")
    assert main([*command, str(tmp_path / "b")]) == 2
    assert "a row for each of 23 galaxies expected, found 1" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_split_reads_what_torch_wrote(tmp_path: Path) -> None:
    import torch
    from torch.utils.data import TensorDataset

    source = tmp_path / "source.pt"
    tensors = (torch.randn(300, 5, 32, 32), torch.randn(300, 5), torch.rand(300))
    torch.save(TensorDataset(*tensors), source)
    assert main(["data", "split", "--galaxies", "290", str(source), str(tmp_path / "parts")]) == 0
    second = torch_tensors(tmp_path / "parts" / "2.pt")
    np.testing.assert_array_equal(second[0], tensors[0][290:].numpy())
    np.testing.assert_array_equal(second[2], tensors[2][290:].numpy())


def test_split_refuses_to_mix_with_other_partitions(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "7.pt").write_bytes(b"other")
    command = ["data", "split", "--galaxies", "20", str(survey), str(tmp_path)]
    assert main(command) == 2
    assert "7.pt" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["1.pt", "2.pt"]


def test_truncated_source_leaves_no_partial_partition(survey: Path, tmp_path: Path) -> None:
    source = tmp_path / "cut.pt"
    source.write_bytes(survey.read_bytes()[:-5000])
    assert main(["data", "split", "--galaxies", "9", str(source), str(tmp_path / "parts")]) == 2
    assert not (tmp_path / "parts").exists()


def test_source_damaged_at_its_end_leaves_no_partitions(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(survey.read_bytes())
    redshift = torch_tensors(survey)[2].tobytes()
    content[content.find(redshift) + len(redshift) - 1] ^= 1  # the last galaxy's redshift
    source, folder = tmp_path / "damaged.pt", tmp_path / "parts"
    source.write_bytes(content)
    assert main(["data", "split", "--galaxies", "5", str(source), str(folder)]) == 2
    assert "CorruptPartition" in capsys.readouterr().err
    assert not folder.exists()
    assert [*tmp_path.iterdir()] == [source]


def test_writer_leaves_nothing_when_galaxies_are_missing(tmp_path: Path) -> None:
    galaxies = next(synthesize(2, "test", 0))
    with (
        pytest.raises(ValueError, match="3 galaxies announced, 2 came"),
        PartitionWriter(tmp_path / "1.pt", 3, {}) as writer,
    ):
        writer.write(galaxies.image, galaxies.magnitude, galaxies.redshift)
    assert not [*tmp_path.iterdir()]


def test_sizes_are_the_references() -> None:
    assert galaxies_per_partition(100) == 5113
    with pytest.raises(InvalidInput, match="one galaxy"):
        galaxies_per_partition(0.001)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-n", "0", "a.pt"], "positive"),
        (["--split", "all", "a.pt"], "train, test"),
        (["a.fits"], ".pt"),
        (["--seed", "-1", "a.pt"], "seed"),
    ],
)
def test_make_refuses_bad_options(
    options: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "make", *options]) == 2
    assert reason in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_make_does_not_replace_a_file_unasked(survey: Path) -> None:
    before = survey.read_bytes()
    assert main(["data", "make", "-n", "2", str(survey)]) == 2
    assert survey.read_bytes() == before


def test_inspect_counts_missing_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    galaxies = next(synthesize(4, "test", 0))
    galaxies.image[0, 1, 3, 3] = np.nan
    galaxies.image[0, 1, 3, 4] = np.inf
    galaxies.magnitude[2, 4] = np.nan
    galaxies.redshift[3] = np.nan
    path = tmp_path / "1.pt"
    write_partition(path, galaxies, {"notice": "a test"})
    assert main(["data", "inspect", "--json", str(path)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["galaxies"] == 4
    assert summary["galaxies_with_nonfinite_inputs"] == 2
    assert summary["galaxies_without_redshift"] == 1
    image = summary["tensors"]["image"]
    assert image["shape"] == [4, 5, 32, 32]
    assert (image["ranges"]["g"]["nan"], image["ranges"]["g"]["infinite"]) == (1, 1)
    assert summary["tensors"]["magnitude"]["ranges"]["z"]["nan"] == 1
    assert summary["metadata"] == {"notice": "a test"}
    assert main(["data", "inspect", str(path)]) == 0
    assert "a test" in capsys.readouterr().out


def test_inspect_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "1.pt"
    assert main(["data", "inspect", str(path)]) == 2
    assert "PartitionNotFound" in capsys.readouterr().err
    path.write_bytes(b"not a partition")
    assert main(["data", "inspect", str(path)]) == 2
    assert "CorruptPartition" in capsys.readouterr().err


def test_reader_streams_what_was_written(survey: Path) -> None:
    with open_partition(survey, batch_size=9) as reader:
        assert reader.num_samples == 23
        assert sum(len(batch) for batch in reader) == 23


def test_preview_draws_a_picture(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "sheet.png"
    assert main(["data", "preview", "-n", "12", str(survey), str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "preview", str(survey), str(tmp_path / "sheet.doc")]) == 2
    assert ".png" in capsys.readouterr().err


def test_other_sides_and_bands_are_made_split_and_drawn(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path, folder = tmp_path / "survey.pt", tmp_path / "parts"
    assert main(["data", "make", str(path), "-n", "9", "--side", "40", "--bands", "i,g"]) == 0
    assert main(["data", "split", str(path), str(folder), "--galaxies", "4"]) == 0
    parts = [torch.load(folder / f"{n}.pt", weights_only=False).tensors for n in (1, 2, 3)]
    image, magnitude, redshift = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    expected = next(synthesize(9, "test", 0, side=40))
    np.testing.assert_array_equal(image, expected.image[:, [3, 1]])
    np.testing.assert_array_equal(magnitude, expected.magnitude[:, [3, 1]])
    np.testing.assert_array_equal(redshift, expected.redshift)
    with open_partition(folder / "2.pt") as reader:
        assert reader.bands == ("i", "g")
        assert (reader.imaging.pixel_scale, reader.imaging.photometric_system) == (0.396, "SDSS")
        catalogue = reader.catalogue()
        assert catalogue is not None
        assert len(catalogue) == 4
    assert main(["data", "preview", str(folder / "1.pt"), str(tmp_path / "a.png")]) == 0


def split_off(source: Path, folder: Path, *words: str) -> tuple[list[np.ndarray], Imaging]:
    """Split with some options; return what torch reads, and what the file says of it."""
    assert main(["data", "split", str(source), str(folder), "--galaxies", "9", *words]) == 0
    with open_partition(folder / "1.pt") as reader:
        return torch_tensors(folder / "1.pt"), reader.imaging


def test_part_of_the_images_for_a_model_that_takes_less(tmp_path: Path) -> None:
    path = tmp_path / "survey.pt"
    galaxies = next(synthesize(9, "test", 0))
    assert main(["data", "make", str(path), "-n", "9"]) == 0

    words = ("--bands", "i=I,g", "--side", "21")
    (image, magnitude, redshift), imaging = split_off(path, tmp_path / "parts", *words)

    np.testing.assert_array_equal(image, galaxies.image[:, [3, 1], 5:26, 5:26])
    np.testing.assert_array_equal(magnitude, galaxies.magnitude[:, [3, 1]])
    np.testing.assert_array_equal(redshift, galaxies.redshift)
    assert imaging == Imaging(("I", "g"), ("I", "g"), 0.396, "SDSS")


def test_a_file_that_names_no_bands_gets_names(tmp_path: Path) -> None:
    galaxies = next(synthesize(9, "test", 0))
    path = tmp_path / "mine.pt"
    write_partition(path, galaxies, {})

    (image, _, _), imaging = split_off(path, tmp_path / "a", "--bands", "g,r,i,z,y")
    np.testing.assert_array_equal(image, galaxies.image)
    assert imaging == Imaging(("g", "r", "i", "z", "y"), ("g", "r", "i", "z", "y"))

    (image, _, _), imaging = split_off(path, tmp_path / "b", "--bands", "r,i")  # SDSS's, else
    np.testing.assert_array_equal(image, galaxies.image[:, 2:4])
    assert imaging == Imaging(("r", "i"), ("r", "i"), 0.396, "SDSS")

    _, imaging = split_off(path, tmp_path / "c", "--side", "30")
    assert not imaging.stated


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bands", "g,q"], "--bands: among u, g, r, i, z of"),
        (["--bands", "g,g"], "different names"),
        (["--side", "33"], "at most 32 pixels"),
        (["--side", "3"], "4 to 1024 pixels"),
    ],
)
def test_what_cannot_be_taken_is_named(
    tmp_path: Path, survey: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    command = ["data", "split", str(survey), str(tmp_path / "parts"), "--galaxies", "9"]
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        (("u", "g", "r", "i", "z"), (3, 2, 1)),
        (("hsc-g", "hsc-r", "hsc-i", "hsc-z", "hsc-y"), (2, 1, 0)),
        (("des-g", "des-r", "des-z"), (2, 1, 0)),
        (("band1",), (0, 0, 0)),
        (("f090w", "f150w", "f277w", "f444w"), (3, 1, 0)),
    ],
)
def test_a_preview_shows_red_bands_as_red(
    bands: tuple[str, ...], expected: tuple[int, int, int]
) -> None:
    assert colour_bands(bands) == expected


def test_a_preview_of_large_images_in_other_units_is_a_picture(tmp_path: Path) -> None:
    image = np.zeros((3, 2, 512, 512), np.float32)
    image[:, :, 200:300, 200:300] = 4e-9
    image[1, 0, 0, 0] = np.nan
    path, picture = tmp_path / "1.pt", tmp_path / "a.png"
    metadata = {"bands": ["Y", "J"], "units": {"image": "Jy"}}
    shape = GalaxyShape(2, 512, 0)
    with PartitionWriter(path, 3, metadata, shape=shape) as writer:
        writer.write(image, np.empty((3, 0), np.float32), np.zeros(3, np.float32))
    assert main(["data", "preview", str(path), str(picture)]) == 0
    grey = imread(picture)[..., :3].mean(axis=2)
    assert (grey < 0.1).mean() > 0.3  # the sky
    assert ((grey > 0.5) & (grey < 0.99)).sum() > 500  # the galaxies
