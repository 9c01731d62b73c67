"""OpenVINO without its telemetry; nothing else in CosmicAI imports ``openvino`` first.

At ``import openvino``, the package ``openvino-telemetry`` (a dependency of OpenVINO's wheel) writes
a client id below the home folder and reports to an analytics host. OpenVINO does without it where
it cannot be imported, as in the deployed layers, which do not carry it.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # not importable

import openvino as ov  # noqa: E402 - after the line above
from openvino import opset13 as op  # noqa: E402

__all__ = ["op", "ov"]
