"""What the local cloud adds to each rank, beyond the functions' own time.

    python benchmarks/overhead.py [--ranks 1000] [--concurrency 2] [--repeat 3] [--json]

Runs executions of the real application over partitions of a few galaxies, in a local cloud, and
writes ``benchmarks/results/overhead.json``. A slot is one of the Map's concurrent workers. The
overhead of a rank is the time that its slot spent on it, less the duration in its REPORT line:
interpreter, HTTP, waiting for a processor. The functions share the machine with all of that, so
their own time is measured under the same load.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from cosmicai.schema import ExecutionInput
from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.client.execution import new_name
from cosmicai_workbench.data.making import make_dataset
from cosmicai_workbench.data.splitting import split_dataset
from cosmicai_workbench.performing import perform
from cosmicai_workbench.place import own_cloud
from cosmicai_workbench.results.run_folder import Run
from measuring import machine, spread

RESULTS = Path(__file__).parent / "results" / "overhead.json"
GALAXIES_A_RANK = 4


def measure(
    folder: Path, ranks: int, concurrency: int, model: Path, engine: str
) -> dict[str, float]:
    """Run one execution in a cloud of its own; return milliseconds per rank."""
    name = new_name()
    content = {
        "bucket": "cosmicai-data",
        "file_limit": str(ranks),
        "batch_size": 512,
        "object_type": "folder",
        "S3_object_name": "model",
        "script": "inference.py",
        "result_path": f"results/{name}",
        "data_bucket": "cosmicai-data",
        "data_prefix": "few",
        "engine": engine,
    }
    checked = ExecutionInput.model_validate(content)
    with own_cloud(checked, concurrency=concurrency, root=folder / "state") as place:
        outcome = perform(
            place,
            content,
            bar=no_bar,
            model=model,
            data=folder / "partitions",
            name=name,
            runs=folder / "runs",
        )
    if outcome.run is None or outcome.run.summary.ranks_received != ranks:
        raise SystemExit(f"the execution did not end whole: {outcome.execution}")
    return figures(outcome.run, ranks, concurrency)


def figures(run: Run, ranks: int, concurrency: int) -> dict[str, float]:
    """Return the figures of one run."""
    own = [each.duration_ms for each in run.invocations if each.function == "model_inference"]
    init = [each.init_ms for each in run.invocations if each.function == "model_inference"]
    if len(own) != ranks:
        raise SystemExit(f"{len(own)} REPORT lines of {ranks} ranks")
    peaks = [each.max_memory_mb for each in run.invocations if each.function == "model_inference"]
    tenth = max(1, ranks // 10)
    started = min(record.started_at for record in run.records)
    finished = max(record.finished_at for record in run.records)
    map_ms = (finished - started).total_seconds() * 1000 + max(init)
    return {
        "wall_seconds": run.summary.wall_seconds,
        "map_seconds": map_ms / 1000,
        "function_ms": statistics.fmean(own),
        "overhead_ms": (map_ms * concurrency - sum(own) - sum(init)) / ranks,
        "memory_mb_first_tenth": statistics.fmean(peaks[:tenth]),
        "memory_mb_last_tenth": statistics.fmean(peaks[-tenth:]),
        "wall_ms_per_rank": run.summary.wall_seconds * 1000 / ranks,
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", type=Path, default=SMALL_MODEL)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "few.pt", options.ranks * GALAXIES_A_RANK, "test", 0)
        split_dataset(folder / "few.pt", folder / "partitions", GALAXIES_A_RANK)
        runs = [
            measure(folder, options.ranks, options.concurrency, options.model, options.engine)
            for _ in range(options.repeat)
        ]
    overhead = [each["overhead_ms"] for each in runs]
    document = {
        "ranks": options.ranks,
        "galaxies_a_rank": GALAXIES_A_RANK,
        "concurrency": options.concurrency,
        "engine": options.engine,
        "n": options.repeat,
        "overhead_ms": spread(overhead),
        "runs": runs,
        "machine": machine("moto", "aws-sam-cli", "awslambdaric", "boto3"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(
            f"{options.ranks} ranks on {options.concurrency} sandboxes: overhead per rank "
            f"{document['overhead_ms']['median']:.1f} ms "
            f"({min(overhead):.1f} to {max(overhead):.1f}, n = {options.repeat})"
        )


if __name__ == "__main__":
    main()
