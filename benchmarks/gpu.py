"""Galaxies per second on an NVIDIA GPU, with the native engine of the same machine beside it.

    python benchmarks/gpu.py            # results/gpu.json

Full-size architecture with random weights, 16,384 galaxies from the machine's memory and back:
what `cosmicai.open_model(..., device="cuda")` does for a user who has a GPU at hand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cosmicai.engines.base import load_engine
from cosmicai.engines.native_engine import NativeEngine, widest_instruction_set
from cosmicai.errors import InvalidInput
from cosmicai.model.astromae import AstroMAE
from cosmicai.model.bundle import save_bundle
from cosmicai.model.config import ModelConfig
from inference_baselines import fill, galaxies

RESULTS = Path(__file__).parent / "results" / "gpu.json"
GALAXIES = 16_384
COMPARED = 512  # galaxies whose redshifts are compared with the plain module's
ROUNDS = 15


def rates(engine: Any, image: Any, magnitude: Any, rounds: int) -> dict[str, float]:
    """Return galaxies per second over some rounds, after one that is not counted."""
    engine.predict(image, magnitude)
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        engine.predict(image, magnitude)
        found.append(len(image) / (time.perf_counter() - started))
    return {
        "median": statistics.median(found),
        "min": min(found),
        "max": max(found),
        "n": len(found),
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs an NVIDIA GPU and a PyTorch that finds it")
    image, magnitude = galaxies(GALAXIES)
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "cpu_instruction_set": widest_instruction_set(),
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = save_bundle(fill(AstroMAE(ModelConfig())), Path(folder))
        few = image[:COMPARED], magnitude[:COMPARED]
        expected = load_engine("plain", bundle, threads=2).predict(*few)
        for precision in ("float32", "bfloat16"):
            engine = load_engine("torch", bundle, threads=2, precision=precision, device="cuda")
            results[f"gpu, {precision}"] = {
                "galaxies_per_second": rates(engine, image, magnitude, ROUNDS),
                "max_abs_dz": float(np.abs(engine.predict(*few) - expected).max()),
            }
        for name in ("avx2", "avx512", "neon"):
            try:
                native = NativeEngine(bundle, 2, name)
            except InvalidInput:
                continue
            found = rates(native, *few, 5)
            results[f"native on 2 cores, {name}"] = {"galaxies_per_second": found}
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
