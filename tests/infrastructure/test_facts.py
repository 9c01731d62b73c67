"""Facts agree with the template that deploys them, and everything that uses them agrees."""

from pathlib import Path

import numpy as np
import pytest
from cosmicai import facts
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.data.splitting import galaxies_per_partition
from cosmicai_workbench.report import text
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.results.table import summary_rows
from cosmicai_workbench.simulation.planning import work_for
from cosmicai_workbench.tuning.estimates import Setting, estimate
from run_folders import make_run
from s3_stack import make_galaxies
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
FUNCTIONS = {
    resource["Properties"]["CodeUri"].rsplit("/", 1)[-1]: resource["Properties"]
    for resource in TEMPLATE["Resources"].values()
    if resource["Type"] == "AWS::Serverless::Function"
}
INFERENCE_MEMORY = TEMPLATE["Parameters"]["InferenceMemorySize"]


@pytest.mark.parametrize("function", ["initialize", "invoke_fmi", "summarize"])
def test_the_fixed_memory_sizes_are_the_templates(function: str) -> None:
    assert FUNCTIONS[function]["MemorySize"] == facts.FUNCTION_MEMORY_MB[function]


def test_model_inferences_memory_is_the_templates_parameter() -> None:
    assert FUNCTIONS["model_inference"]["MemorySize"] == {"Ref": "InferenceMemorySize"}
    assert INFERENCE_MEMORY["Default"] == facts.DEFAULT_INFERENCE_MEMORY_MB
    assert INFERENCE_MEMORY["MinValue"] >= facts.MIN_MEMORY_MB
    assert INFERENCE_MEMORY["MaxValue"] == facts.MAX_MEMORY_MB
    assert f"{facts.MEMORY_MB_PER_VCPU:,} MB" in INFERENCE_MEMORY["Description"]


def test_a_galaxy_has_the_bytes_that_a_partition_grows_by(tmp_path: Path) -> None:
    for count in (100, 200):
        write_partition(tmp_path / f"{count}.pt", make_galaxies(count), {})
    sizes = [(tmp_path / f"{count}.pt").stat().st_size for count in (100, 200)]
    padding = 1024  # archives align their entries
    assert abs(sizes[1] - sizes[0] - 100 * facts.GALAXY_BYTES) < padding


def test_planning_and_tuning_cut_the_same_partitions() -> None:
    """The published 25 MB partitions held 1,278 galaxies."""
    planned = work_for(1_278_000, 25, facts.GALAXY_BYTES)
    tuned = estimate(
        Setting(memory_mb=1769, batch_size=512, partition_mb=25),
        galaxies=1_278_000,
        galaxies_per_second=100,
        start_seconds=1,
        vcpus=1,
        concurrency=1000,
    )
    assert facts.galaxies_in(25) == 1278
    assert facts.galaxies_in(100) == galaxies_per_partition(100) == 5113
    assert planned.ranks == tuned.ranks == 1000


@pytest.mark.parametrize(
    ("memory", "threads"), [(128, 1), (1769, 1), (1770, 2), (3538, 2), (5307, 3), (10_240, 6)]
)
def test_the_vcpus_of_a_memory_size(memory: int, threads: int) -> None:
    assert facts.threads(memory) == threads == max(1, int(np.ceil(facts.vcpus(memory))))


def test_the_default_size_is_what_every_account_has_and_uses_two_threads() -> None:
    assert facts.DEFAULT_INFERENCE_MEMORY_MB <= facts.NEW_ACCOUNT_MEMORY_MB
    assert facts.threads(facts.DEFAULT_INFERENCE_MEMORY_MB) == 2
    assert facts.vcpus(facts.DEFAULT_INFERENCE_MEMORY_MB) > 1.5  # both threads are well fed


def test_a_size_is_the_same_number_in_every_table(tmp_path: Path) -> None:
    assert text.size(25 * facts.MB) == "25 MB"
    assert text.size(12.6 * 1024 * facts.MB) == "12.6 GB"
    assert text.size(1000 * facts.MB) == "0.977 GB"
    summary = load_run(make_run(tmp_path)).summary
    rows = dict(summary_rows(summary.model_copy(update={"num_bytes": 25 * facts.MB})))
    assert rows["Data"] == "25.0 MB"
