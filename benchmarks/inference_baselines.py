"""What one would use without CosmicAI's engines: eager PyTorch, and unmodified exports of it."""

from __future__ import annotations

import math
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from cosmicai.model.astromae import AstroMAE
    from cosmicai.model.bundle import Bundle
    from numpy.typing import NDArray


AS_PUBLISHED = "as published: eager + DataLoader + profiler"


def fill(module: AstroMAE) -> AstroMAE:
    """Fill a module with reproducible random weights by the rule of the golden vectors."""
    import torch

    state = module.state_dict()
    for name, tensor in state.items():
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values = 0.5 + rng.random(shape)
        else:
            values = rng.standard_normal(shape)
            if name.endswith("running_mean") or name in ("cls_token", "pos_embed"):
                values *= 0.1
            elif len(shape) >= 2:
                values /= math.sqrt(math.prod(shape[1:]))
            elif name.endswith(".weight"):
                values = 1 + 0.1 * values
            else:
                values *= 0.1
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))
    return module.eval()


def galaxies(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return random images (N, 5, 32, 32) and magnitudes (N, 5)."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((count, 5, 32, 32), np.float32)
    return image, rng.standard_normal((count, 5), np.float32)


def baselines(
    bundle: Bundle,
    image: NDArray[np.float32],
    magnitude: NDArray[np.float32],
    batch: int,
    cores: int,
    *,
    held: bool,
) -> dict[str, Callable[[], None]]:
    """Return the baselines by name; each predicts all galaxies in batches of ``batch``.

    ``held`` leaves out ONNX Runtime, which cannot be held to an instruction set.
    """
    import onnxruntime
    import torch
    from cosmicai.engines.quiet_openvino import ov

    torch.set_num_threads(cores)
    module = bundle.module()
    tensors = [torch.from_numpy(array) for array in (image, magnitude)]
    dataset = torch.utils.data.TensorDataset(*tensors, torch.zeros(len(image)))

    def eager() -> None:
        # As the published script drives its model, without its profiler.
        loader = torch.utils.data.DataLoader(dataset, batch_size=batch)
        with torch.no_grad():
            for images, magnitudes, _ in loader:
                module(images, magnitudes)

    def as_published() -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True):
            eager()

    exported = _export(module, batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": cores,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": 1,
    }
    core = ov.Core()
    compiled = core.compile_model(core.read_model(exported), "CPU", settings)

    def in_batches(predict: Callable[[Any, Any], object]) -> Callable[[], None]:
        def run() -> None:
            for start in range(0, len(image), batch):
                predict(image[start : start + batch], magnitude[start : start + batch])

        return run

    found = {
        AS_PUBLISHED: as_published,
        "plain eager + DataLoader": eager,
        "OpenVINO, unmodified": in_batches(lambda i, m: compiled((i, m))),
    }
    if not held:
        found["ONNX Runtime, unmodified"] = in_batches(
            lambda i, m: session.run(None, {"image": i, "magnitude": m})
        )
    return found


def _export(module: AstroMAE, batch: int) -> bytes:
    """Export the module to ONNX at a fixed batch size, which favours the runtimes."""
    import torch

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        inputs = torch.zeros(batch, 5, 32, 32), torch.zeros(batch, 5)
        names = ["image", "magnitude"]
        torch.onnx.export(module, inputs, path, input_names=names, dynamo=False)
        return path.read_bytes()
