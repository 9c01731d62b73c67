"""Experiment files: what they stand for, and what is refused by name."""

from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.sweep.experiment import load_experiment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "experiment.toml"
        path.write_text(text)
        return path

    return write


def test_every_combination_once_in_order(write):
    experiment = load_experiment(
        write('name = "x"\n[grid]\npartition = ["25MB", "50MB"]\nbatch_size = [32, 64, 32]\n')
    )
    assert [point.folder for point in experiment.points()] == [
        "filelimit-1_batchsize-32_prefix-25MB",
        "filelimit-1_batchsize-64_prefix-25MB",
        "filelimit-1_batchsize-32_prefix-50MB",
        "filelimit-1_batchsize-64_prefix-50MB",
    ]


def test_folders_are_named_as_the_published_ones_are(write):
    text = 'name="x"\n[fixed]\npartition="50MB"\nbatch_size=256\n[grid]\nfile_limit=[10]\n'
    (point,) = load_experiment(write(text)).points()
    assert point.folder == "filelimit-10_batchsize-256_prefix-50MB"


def test_different_settings_never_share_a_folder(write):
    text = (
        'name="x"\n[grid]\nworld_size=[2,4]\nmemory_mb=[1769,3538]\nengine=["plain","torch"]\n'
        "fmi=[true,false]\nfile_limit=[4]\n"
    )
    folders = [point.folder for point in load_experiment(write(text)).points()]
    assert len(set(folders)) == len(folders) == 16


@pytest.mark.parametrize(
    ("data_gb", "partition", "files"), [(1, "25MB", 41), (1, "100MB", 11), (12.6, "75MB", 173)]
)
def test_data_size_becomes_the_published_number_of_partitions(write, data_gb, partition, files):
    text = f'name="x"\n[grid]\ndata_gb=[{data_gb}]\npartition=["{partition}"]\n'
    (point,) = load_experiment(write(text)).points()
    assert point["file_limit"] == files


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('name="x"\n[grid]\nbatchsize=[1]\n', r"unknown key 'grid\.batchsize'.*batch_size"),
        ('name="x"\n[grid]\n', "the grid is empty"),
        ('name="x"\n[grid]\nbatch_size=[]\n', "no values for batch_size"),
        ('name="x"\n', "grid: Field required"),
        ('name="x"\nrepeat=3\n[grid]\nbatch_size=[1]\n', "unknown key 'repeat'.*repetitions"),
        ('name="x"\n[grid]\nbatch_size=[0]\n', "batch_size"),
        ('name="x"\n[grid]\npartition=["25 GB"]\n', "25 GB"),
        ('name="x"\n[grid]\nengine=["abacus"]\n', "engine"),
        ('name="x"\n[grid]\nfile_limit=[1]\ndata_gb=[1.0]\n', "keep one of them"),
        ('name="../x"\n[grid]\nbatch_size=[1]\n', "name"),
        ("name=", "not a TOML file"),
    ],
)
def test_bad_files_are_refused_by_name(write, text, named):
    with pytest.raises(InvalidInput, match=named):
        load_experiment(write(text))


def test_a_missing_file_says_where_ready_ones_are(tmp_path):
    with pytest.raises(InvalidInput, match=r"experiments/\*\.toml"):
        load_experiment(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda p: p.stem
)
def test_ready_experiments_are_valid_and_draw_something(path):
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert experiment.plots
    assert experiment.description


def test_one_that_ships_goes_by_its_name(tmp_path, monkeypatch, capsys):
    from cosmicai_workbench.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "quick", "--local", "--dry-run"]) == 0
    assert "quick:" in capsys.readouterr().out
    assert main(["sweep", "quickest", "--local", "--dry-run"]) == 2
    assert "quick" in capsys.readouterr().err
