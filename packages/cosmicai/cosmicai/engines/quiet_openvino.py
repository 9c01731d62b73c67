"""OpenVINO without its telemetry; nothing else in CosmicAI imports ``openvino`` first.

At ``import openvino``, the package ``openvino-telemetry`` (a dependency of OpenVINO's wheel) writes
a client id below the home folder and reports to an analytics host. OpenVINO does without it where
it cannot be imported, as in the deployed layers, which do not carry it.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # not importable

import openvino as ov  # noqa: E402 - after the line above
from openvino import opset13 as op  # noqa: E402

__all__ = ["compile_model", "op", "ov"]


def compile_model(core: ov.Core, model: ov.Model, threads: int) -> ov.CompiledModel:
    """Compile a model for the CPU, to compute in float32."""
    settings = {
        # Where the processor has bfloat16, the plugin would use it by default.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Which of the host's processors a function gets is not for it to choose.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(model, "CPU", settings)
