"""How many true redshifts the intervals of a calibrated point model hold.

Painted galaxies of the test split are predicted once. For each seed a random half of them
calibrates, and the other half is counted: over all, in every cell of the calibration (a range of
predicted redshift and of r magnitude), and in every bin in which the figures of merit are given,
if 200 counted galaxies or more are in it.

Coverage scatters from seed to seed by the chance of which galaxies are counted, and by that of
the interval's ends. The bars are on the mean of the seeds, in which that chance averages out;
the scatter is written beside them.

    python benchmarks/coverage.py [--galaxies 100000] [--seeds 20] [--model FOLDER] [--json]

Writes ``benchmarks/results/coverage.json``; exits with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cosmicai.calibration import LabelledSet
from cosmicai.facts import BAND_NAMES
from cosmicai.models import open_model
from cosmicai.quality import MAGNITUDE_EDGES, REDSHIFT_EDGES, figures, range_of, statistics
from cosmicai_workbench.data.synthesis import synthesize
from cosmicai_workbench.modeling.calibrating import document
from cosmicai_workbench.modeling.conformal import MINIMUM, fit
from measuring import machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/coverage.json"
FEWEST = 200
"""Galaxies of a bin that counts."""
BARS = {68: 0.02, 95: 0.01}
"""Interval in per cent → how far from it the coverage may be."""


def predicted(model: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predicted and true redshift and r magnitude of painted galaxies."""
    predictor = open_model(model)
    r = BAND_NAMES.index("r")
    parts = [
        (
            predictor.predict(block.image, block.magnitude).redshift,
            block.redshift,
            block.magnitude[:, r],
        )
        for block in synthesize(count, "test", 0)
    ]
    redshift, true, magnitude = (np.concatenate(part) for part in zip(*parts, strict=True))
    return redshift, true, magnitude


def covered(
    galaxies: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int, minimum: int
) -> dict[str, dict[int, float]]:
    """Return the coverage of every bin with enough galaxies: its name → level → coverage."""
    order = np.random.default_rng(seed).permutation(len(galaxies[0]))
    half = len(order) // 2
    calibration = fit(
        *(values[order[:half]] for values in galaxies), LabelledSet(galaxies=half), minimum=minimum
    )
    redshift, true, magnitude = (values[order[half:]] for values in galaxies)
    bounds = calibration.intervals(redshift, magnitude)
    inside = {
        68: (bounds[0] <= true) & (true <= bounds[1]),
        95: (bounds[2] <= true) & (true <= bounds[3]),
    }
    places = {"all": np.ones(len(true), bool)}
    for name, values, edges in (
        ("predicted redshift", redshift, REDSHIFT_EDGES),
        ("r magnitude", magnitude, MAGNITUDE_EDGES),
    ):
        limits = (None, *edges, None)
        bins = np.searchsorted(edges, values, side="right")
        for number in range(len(edges) + 1):
            places[f"{name} {range_of(limits[number], limits[number + 1])}"] = bins == number
    cells = calibration.cells_of(redshift, magnitude)
    for number, cell in enumerate(document(calibration)["cells"]):
        z, r = range_of(*cell["redshift"]), range_of(*cell["magnitude_r"])
        places[f"cell: z {z}, r {r}"] = cells == number
    return {
        name: {level: float(found[here].mean()) for level, found in inside.items()}
        | {"galaxies": int(here.sum())}
        for name, here in places.items()
        if here.sum() >= FEWEST
    }


def summarised(seeds: list[dict[str, dict[Any, float]]]) -> dict[str, dict[str, float]]:
    """Return of every bin that most seeds have: mean, spread and extremes over the seeds."""
    rows: dict[str, dict[str, float]] = {}
    for name in sorted({name for seed in seeds for name in seed}):
        found = [seed[name] for seed in seeds if name in seed]
        if len(found) <= len(seeds) // 2:
            continue
        row: dict[str, float] = {
            "seeds": len(found),
            "galaxies": float(np.mean([each["galaxies"] for each in found])),
        }
        for level in BARS:
            values = [each[level] for each in found]
            row |= {
                f"mean_{level}": float(np.mean(values)),
                f"sd_{level}": float(np.std(values, ddof=1)),
                f"min_{level}": min(values),
                f"max_{level}": max(values),
                f"chance_sd_{level}": float(
                    np.sqrt(level / 100 * (1 - level / 100) / row["galaxies"])
                ),
            }
        rows[name] = {key: round(value, 5) for key, value in row.items()}
    return rows


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galaxies", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--minimum", type=int, default=MINIMUM)
    parser.add_argument("--model", default=str(ROOT / "models/astromae-small"))
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    galaxies = predicted(options.model, options.galaxies)
    seeds = [covered(galaxies, seed, options.minimum) for seed in range(options.seeds)]
    rows = summarised(seeds)
    worst = {
        level: max(abs(row[f"mean_{level}"] - level / 100) for row in rows.values())
        for level in BARS
    }
    quality = figures(statistics(*galaxies))
    result = {
        "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "model_digest": open_model(options.model).digest,
        "galaxies": options.galaxies,
        "calibrate": options.galaxies // 2,
        "seeds": options.seeds,
        "minimum": options.minimum,
        "nmad": quality.nmad,
        "r2": quality.r2,
        "worst": {str(level): round(value, 5) for level, value in worst.items()},
        "bins": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    if options.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        for name, row in rows.items():
            texts = [
                f"{level} %: {row[f'mean_{level}']:.4f} ± {row[f'sd_{level}']:.4f}"
                f" ({row[f'min_{level}']:.3f} to {row[f'max_{level}']:.3f})"
                for level in BARS
            ]
            print(f"{name:<44} {row['galaxies']:>7.0f}  " + "   ".join(texts))
        print(
            "furthest from nominal:",
            ", ".join(f"{k} %: {v:.4f}" for k, v in worst.items()),
        )
    return int(any(worst[level] > bar for level, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
