"""What a layer drops is nothing that its engine needs."""

import fnmatch
import importlib.util
import tomllib
from pathlib import Path

LAYERS = Path(__file__).parents[2] / "layers"


def test_the_openvino_layer_reads_imported_models() -> None:
    """The reader of ``model.xml`` is a library of its own among frontends that are dropped."""
    layer = tomllib.loads((LAYERS / "openvino" / "layer.toml").read_text())
    dropped = {
        pattern for key, table in layer.items() if key.startswith("drop") for pattern in table
    }
    found = importlib.util.find_spec("openvino")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    libraries = [str(path.relative_to(package.parent)) for path in package.glob("libs/*.so*")]
    kept = {
        name for name in libraries if not any(fnmatch.fnmatch(name, pattern) for pattern in dropped)
    }
    assert any("_ir_frontend" in name for name in kept)
    assert any("_intel_cpu_plugin" in name for name in kept)
    assert not any("_onnx_frontend" in name for name in kept)
