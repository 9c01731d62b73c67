"""What ``inference.py`` measures in a process of its own: memory, start, one rank."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def first(engine: str, bundle: str, count: str) -> dict[str, Any]:
    """Load an engine and predict a first batch; report the processor time of each part."""
    parts = {"starting Python": time.process_time()}

    def done(part: str) -> None:
        parts[part] = time.process_time() - sum(parts.values())

    import numpy as np

    done("importing NumPy")
    from cosmicai.engines.base import load_engine
    from cosmicai.engines.registry import find_engine

    importlib.import_module(find_engine(engine).module)
    done("importing the rest")
    loaded = load_engine(engine, Path(bundle), threads=int(os.environ["INFERENCE_THREADS"]))
    done("loading the model")
    image = np.ones((int(count), 5, 32, 32), np.float32)
    loaded.predict(image, image[:, :, 0, 0].copy())
    done("the first batch")
    return {"at": time.time(), "processor_seconds": parts}


def reference(checkpoint: str) -> dict[str, Any]:
    """Import torch and load the pickled module, as the reference script does."""
    import torch

    torch.load(checkpoint, map_location="cpu", weights_only=False)
    return {"at": time.time()}


def rank(bundle: str, *partitions: str) -> dict[str, Any]:
    """Do what one rank does with local partitions; report its time and peak memory."""
    from cosmicai import open_model
    from cosmicai.engines.registry import DEFAULT_ENGINE
    from cosmicai.machine import peak_memory_mb

    started = time.perf_counter()
    threads = int(os.environ["INFERENCE_THREADS"])
    model = open_model(bundle, engine=DEFAULT_ENGINE, threads=threads)
    loaded = time.perf_counter()
    return {
        "galaxies": len(model.predict_partitions(partitions)),
        "load_seconds": loaded - started,
        "seconds": time.perf_counter() - loaded,
        "peak_memory_mb": peak_memory_mb(),
    }


if __name__ == "__main__":
    found = {"first": first, "reference": reference, "rank": rank}[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(found))
