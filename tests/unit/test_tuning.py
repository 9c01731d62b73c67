"""Right-sizing: the estimates add up, the recommendation follows them, parameters are written."""

import json
import os
import tomllib

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cli.tune import app
from cosmicai_workbench.tuning.estimates import (
    Estimate,
    Setting,
    estimate,
    pareto,
    recommend,
    survey_cost,
)
from cosmicai_workbench.tuning.grid import write_parameters
from cosmicai_workbench.tuning.measure import measure
from model_fill import SMALL, filled_bundle
from typer.testing import CliRunner


def one(seconds, dollars):
    return Estimate(
        setting=Setting(memory_mb=1769, batch_size=512, partition_mb=100),
        vcpus=1,
        galaxies_per_second=1,
        start_seconds=0,
        ranks=1,
        rank_seconds=seconds,
        seconds=seconds,
        gb_seconds=1,
        dollars=dollars,
    )


def survey(**changes):
    arguments = {
        "galaxies": 51_130,
        "galaxies_per_second": 100.0,
        "start_seconds": 2.0,
        "vcpus": 1.0,
        "concurrency": 1000,
    }
    setting = Setting(memory_mb=1769, batch_size=512, partition_mb=100)
    return estimate(setting, **(arguments | changes))


def test_an_estimate_adds_up():
    found = survey()
    assert found.ranks == 10
    assert found.rank_seconds == pytest.approx(2 + 5113 / 100)
    assert found.seconds == found.rank_seconds
    assert found.gb_seconds == pytest.approx((511.3 + 20) * 1769 / 1024)
    # Nine tenths and more of the cost are GB-seconds of arm64.
    assert found.gb_seconds * 0.0000133334 == pytest.approx(found.dollars, rel=0.1)


def test_the_cost_of_a_survey_is_that_of_its_gb_seconds_and_little_more():
    found = survey_cost(
        galaxies=645_000, ranks=126, galaxies_per_second=100.0, memory_mb=1769, start_seconds=2.0
    )
    assert found["gb_seconds"] == pytest.approx((6450 + 252) * 1769 / 1024)
    for architecture, price in (("arm64", 0.0000133334), ("x86_64", 0.0000166667)):
        compute = found["gb_seconds"] * price
        assert compute < found["total_dollars"][architecture] < 1.1 * compute
        items = found["items"][architecture].values()
        assert found["total_dollars"][architecture] == pytest.approx(sum(items))


def test_fewer_ranks_at_once_take_waves():
    assert survey(concurrency=4).seconds == pytest.approx(3 * survey().seconds)
    assert survey(concurrency=4).dollars == survey().dollars


def test_twice_the_speed_costs_half_and_starts_cost_money():
    assert survey(galaxies_per_second=200.0).gb_seconds < 0.52 * survey().gb_seconds
    assert survey(start_seconds=12.0).dollars > survey().dollars


def test_the_pareto_front_leaves_out_what_another_beats():
    quick, cheap, beaten = one(1, 3), one(3, 1), one(4, 2)
    assert pareto([beaten, cheap, quick]) == [quick, cheap]


def test_the_recommendation_is_the_fastest_of_the_cheap():
    quick, nearly, cheap = one(1, 3), one(2, 1.04), one(3, 1)
    assert recommend([quick, nearly, cheap]) == nearly
    assert recommend([quick, nearly, cheap], max_seconds=1.5) == quick
    assert recommend([nearly, cheap], max_seconds=0.5) == nearly


def test_parameters_are_merged_into_the_environment_asked_for(tmp_path):
    file = tmp_path / "samconfig.toml"
    file.write_text(
        "version = 0.1\n"
        '[default.deploy.parameters]\nparameter_overrides = "LogLevel=DEBUG Engine=torch"  # ours\n'
        'tags = "a=b"\n\n[prod.deploy.parameters]\nparameter_overrides = "Engine=torch"\n'
    )
    write_parameters(file, {"Engine": "openvino", "InferenceMemorySize": "1769"})
    found = tomllib.loads(file.read_text())
    assert "# ours" in file.read_text()
    default = found["default"]["deploy"]["parameters"]
    overrides = "LogLevel=DEBUG Engine=openvino InferenceMemorySize=1769"
    assert default == {"parameter_overrides": overrides, "tags": "a=b"}
    assert found["prod"]["deploy"]["parameters"] == {"parameter_overrides": "Engine=torch"}


def test_parameters_are_added_where_there_are_none(tmp_path):
    file = tmp_path / "samconfig.toml"
    file.write_text('[default.deploy.parameters]\ntags = "a=b"\n')
    write_parameters(file, {"Engine": "openvino"})
    found = tomllib.loads(file.read_text())["default"]["deploy"]["parameters"]
    assert found == {"parameter_overrides": "Engine=openvino", "tags": "a=b"}


def test_a_list_of_parameters_stays_a_list(tmp_path):
    file = tmp_path / "samconfig.toml"
    file.write_text('[default.deploy.parameters]\nparameter_overrides = ["LogLevel=DEBUG"]\n')
    write_parameters(file, {"Engine": "openvino"})
    found = tomllib.loads(file.read_text())["default"]["deploy"]["parameters"]
    assert found == {"parameter_overrides": ["LogLevel=DEBUG", "Engine=openvino"]}


def test_a_file_that_is_no_toml_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "samconfig.toml"
    file.write_text("[default.deploy.parameters\n")
    with pytest.raises(InvalidInput, match="not a TOML file"):
        write_parameters(file, {"Engine": "openvino"})
    assert file.read_text() == "[default.deploy.parameters\n"


def test_a_file_without_the_section_is_refused(tmp_path):
    file = tmp_path / "samconfig.toml"
    with pytest.raises(InvalidInput, match="cannot be read"):
        write_parameters(file, {"Engine": "openvino"})
    file.write_text("version = 0.1\n")
    with pytest.raises(InvalidInput, match=r"no section \[default"):
        write_parameters(file, {"Engine": "openvino"})


def test_more_vcpus_than_cores_cannot_be_measured(tmp_path):
    size = (len(os.sched_getaffinity(0)) + 1) * 1769
    with pytest.raises(InvalidInput, match="measure at most"):
        measure(tmp_path, "plain", memory_mb=size, batch_size=8, galaxies=8)


def test_the_command_measures_estimates_and_recommends(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path / "bundle")
    arguments = ["--memory", "885", "--memory", "1769", "--batch-size", "32", "--sample", "64"]
    out = ["--out", str(tmp_path / "tune"), "--partition-mb", "25", "--json"]

    result = CliRunner().invoke(app, [str(bundle.path), *arguments, *out])

    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "tune" / "tune.json").read_text())
    assert [entry["memory_mb"] for entry in found["measurements"]] == [885, 1769]
    assert found["recommended"]["setting"]["batch_size"] == 32
    assert found["parameter_overrides"]["Engine"] == "native"
    assert (tmp_path / "tune" / "tune.png").stat().st_size > 1000


def test_a_failed_measurement_says_why(tmp_path):
    result = CliRunner().invoke(app, [str(tmp_path), "--memory", "1769", "--out", str(tmp_path)])
    assert result.exit_code != 0
    assert "holds no model" in str(result.exception)
