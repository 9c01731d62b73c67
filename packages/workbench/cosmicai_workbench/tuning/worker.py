"""The process that ``measure`` runs: load an engine, predict, print what it took as JSON."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from cosmicai.engines.base import load_engine
from cosmicai.engines.registry import galaxies_at_once
from cosmicai.machine import peak_memory_mb
from cosmicai.model.bundle import Bundle


def main() -> None:
    """Measure; the arguments are those that ``measure`` gives."""
    bundle, name, threads, batch_size, galaxies, spawned = sys.argv[1:]
    size, count = galaxies_at_once(name, int(batch_size)), int(galaxies)
    model = Bundle(Path(bundle))
    engine = load_engine(name, model, threads=int(threads))
    inputs = model.config.inputs
    rng = np.random.default_rng(0)
    image = rng.standard_normal((size, *inputs.image_shape), np.float32)
    values = rng.standard_normal((size, inputs.num_values), np.float32)
    engine.predict(image, values)  # the first batch is slower: what it loses is start
    first = time.time() - float(spawned)
    batches = max(1, round(count / size))
    started = time.perf_counter()
    for _ in range(batches):
        engine.predict(image, values)
    a_batch = (time.perf_counter() - started) / batches
    found = {
        "start_seconds": max(0.0, first - a_batch),
        "galaxies_per_second": size / a_batch,
        "peak_memory_mb": peak_memory_mb(),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
