"""Local against distributed: the same galaxies, the same predictions, figures side by side."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from cosmicai.errors import InvalidInput
from cosmicai.quality import statistics
from cosmicai.scores import Scores
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.results.binned import quality_by_bin
from cosmicai_workbench.results.compare import compare
from cosmicai_workbench.results.run_folder import load_run
from run_folders import make_run
from skies import run_with


def test_a_run_agrees_with_itself_and_not_with_another(tmp_path):
    shared = {"samples": 60, "galaxies_seed": 2}
    a = load_run(make_run(tmp_path, name="a", ranks=4, **shared))
    b = load_run(make_run(tmp_path, name="b", ranks=3, seed=1, digest="aa" * 32, **shared))
    same = compare(a, a)
    assert same.same_model
    assert same.agreement.identical == same.agreement.galaxies == 240
    assert same.agreement.largest_difference == 0
    assert {figure.ratio for figure in same.figures} <= {1.0, None}
    other = compare(a, b)
    assert not other.same_model
    assert (other.agreement.galaxies, other.agreement.only_a) == (180, 60)
    assert other.agreement.largest_difference > 0


def test_galaxies_match_by_file_name_wherever_they_lie(tmp_path):
    run = make_run(tmp_path, ranks=2, samples=10, straggler=None)
    moved = make_run(tmp_path, name="moved", ranks=2, samples=10, straggler=None)
    for rank in (0, 1):
        path = moved / "predictions" / f"{rank}.npz"
        with np.load(path) as arrays:
            content = dict(arrays) | {"data_paths": np.array([f"/elsewhere/{rank + 1}.pt"])}
        np.savez(path, **content)
    agreement = compare(load_run(run), load_run(moved)).agreement
    assert agreement.identical == 20


def rewrite(run, rank, **change):
    path = run / "predictions" / f"{rank}.npz"
    with np.load(path) as arrays:
        content = dict(arrays) | change
    np.savez(path, **content)


def test_other_galaxies_in_files_of_the_same_name_are_not_compared(tmp_path):
    a = load_run(make_run(tmp_path, name="a", ranks=2, samples=10, straggler=None))
    b = load_run(make_run(tmp_path, name="b", ranks=2, samples=10, straggler=None, seed=1))
    agreement = compare(a, b).agreement
    assert (agreement.galaxies, agreement.only_a, agreement.only_b) == (0, 20, 20)
    assert agreement.largest_difference is None


def test_folders_with_the_same_file_names_are_told_apart(tmp_path):
    runs = []
    for name, order in (("a", ("x", "y")), ("b", ("y", "x"))):
        run = make_run(tmp_path, name=name, ranks=2, samples=10, straggler=None)
        first, second = ({**np.load(run / f"predictions/{rank}.npz")} for rank in (0, 1))
        for rank, folder in enumerate(order):
            content = first if folder == "x" else second
            rewrite(run, rank, **content | {"data_paths": np.array([f"{name}/{folder}/1.pt"])})
        runs.append(load_run(run))
    agreement = compare(*runs).agreement
    assert (agreement.galaxies, agreement.identical) == (20, 20)


def test_copies_of_a_partition_and_unknown_redshifts_match_one_to_one(tmp_path):
    unknown = np.full(10, np.nan, np.float32)
    runs = []
    for name, ranks in (("a", 2), ("b", 1)):
        run = make_run(tmp_path, name=name, ranks=ranks, samples=10, straggler=None)
        content = {**np.load(run / "predictions/0.npz"), "true_redshift": unknown}
        for rank in range(ranks):
            rewrite(run, rank, **content | {"data_paths": np.array([f"{rank}/1.pt"])})
        runs.append(load_run(run))
    agreement = compare(*runs).agreement
    assert (agreement.identical, agreement.only_a, agreement.only_b) == (10, 10, 0)


def test_unpredicted_galaxies_are_counted_not_compared(tmp_path):
    a = load_run(make_run(tmp_path, name="a", ranks=2, samples=30, straggler=None))
    b = load_run(make_run(tmp_path, name="b", ranks=2, samples=30, straggler=None, nan=5))
    agreement = compare(a, b).agreement
    assert agreement.predicted_by_one == 5
    assert agreement.identical == 55


@pytest.mark.parametrize("bins", [None, 1, 5])
def test_bins_hold_every_galaxy_once(tmp_path, bins):
    run = load_run(make_run(tmp_path, ranks=3, samples=200, nan=7))
    quality = quality_by_bin(run, bins)
    assert quality.num_galaxies == 593
    for binned in (quality.by_redshift, quality.by_magnitude):
        assert len(binned) == (bins or len(binned)) > 0
        assert sum(bin_.num_galaxies for bin_ in binned) == 593
        assert all(left.high == right.low for left, right in itertools.pairwise(binned))
        if bins:
            assert max(abs(bin_.num_galaxies - 593 / bins) for bin_ in binned) <= 2


def test_fixed_bins_come_from_the_records_or_from_the_predictions_of_older_ones(tmp_path):
    run = load_run(make_run(tmp_path, ranks=3, samples=200))
    assert quality_by_bin(run) == run.summary.quality
    rows = json.loads((run.path / "combined_data.json").read_text())
    for row in rows:
        del row["quality"]["by_redshift"]
    (run.path / "combined_data.json").write_text(json.dumps(rows))
    again = quality_by_bin(load_run(run.path))
    for one, other in zip(again.by_redshift, run.summary.quality.by_redshift, strict=True):
        assert (one.low, one.num_galaxies, one.nmad) == (other.low, other.num_galaxies, other.nmad)
        assert one.mae == pytest.approx(other.mae)


def test_bins_without_known_redshifts_are_refused(tmp_path):
    run = make_run(tmp_path, ranks=1, samples=5, straggler=None, nan=5)
    with pytest.raises(InvalidInput, match="known redshift"):
        quality_by_bin(load_run(run))


def test_commands_print_json(tmp_path, capsys):
    run = make_run(tmp_path, ranks=2, samples=40)
    assert main(["compare", str(run), str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["galaxies"] == 80
    assert main(["results", "show", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["num_galaxies"] == 80
    assert shown["by_redshift"]
    assert shown["by_magnitude"]
    assert main(["results", "show", str(run), "--bins", "2"]) == 0
    assert "predicted redshift" in capsys.readouterr().out
    assert main(["results", "export", str(run), "--to", "fits"]) == 0
    assert (run / "catalogue.fits").is_file()


def test_a_missing_run_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no such run folder" in error


def test_pictures_are_drawn_of_what_there_are_figures_for(tmp_path, capsys):
    run = make_run(tmp_path, ranks=1, samples=200, straggler=None)
    assert main(["results", "plot", str(run)]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == ["redshifts.png"]
    rows = json.loads((run / "combined_data.json").read_text())
    true = np.linspace(0.01, 0.3, 200)
    intervals = {
        f"z_{end}{level}": true + sign * level / 1e4
        for level in (68, 95)
        for end, sign in (("lo", -1), ("hi", 1))
    }
    scores = Scores(np.linspace(0, 1, 200), true, true, true)
    quality = statistics(true, true, 15 + 10 * true, intervals=intervals, scores=scores)
    rows[0]["quality"] = quality.model_dump(mode="json")
    (run / "combined_data.json").write_text(json.dumps(rows))
    assert main(["results", "plot", str(run)]) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in drawn] == ["redshifts.png", "pit.png", "coverage.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert main(["results", "show", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "in 68 %" in shown
    assert "PIT KS" in shown
    assert "…" not in shown


def test_bins_of_equal_numbers_have_the_figures_of_distributions(tmp_path):
    run = run_with(tmp_path, "mixture", samples=200)
    quality = quality_by_bin(run, 4)
    assert quality.num_distributions == quality.num_intervals == 598
    for bins in (quality.by_redshift, quality.by_magnitude):
        assert [bin_.num_distributions for bin_ in bins] == pytest.approx([149.5] * 4, abs=2)
        assert sum(bin_.crps * bin_.num_distributions for bin_ in bins) == pytest.approx(
            quality.crps * 598
        )
