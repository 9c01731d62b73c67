"""torch's packed layer: unpacked once, whole or not at all, whoever else is at it."""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

STUBS = Path(__file__).parents[2] / "layers/pytorch_fmi/stubs"
TORCH = "WHO = 'the real torch'\nfrom torch.inner import VALUE\n"
IMPORT = "import torch; print(torch.WHO, torch.VALUE, torch.__file__)"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer's python folder as the build leaves it, with a torch of two lines."""
    python = tmp_path / "opt"
    subprocess.run(["cp", "-r", str(STUBS), str(python)], check=True)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        files = {
            "torch/__init__.py": TORCH,
            "torch/inner.py": "VALUE = 7\n",
            "torch/big": "x" * 10**7,
        }
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(content.getvalue())
    (python / "torch.tar.zst").write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    (python / "torch.tar.zst.sha256").write_text(f"{digest}\n")
    return python


def environment(layer: Path, folder: Path) -> dict[str, str]:
    # -S: this machine's own torch must not be found.
    zstd = Path(zstandard.__file__).parents[1]
    path = f"{layer}:{folder / 'zstd'}"
    (folder / "zstd").mkdir(exist_ok=True)
    link = folder / "zstd/zstandard"
    if not link.exists():
        link.symlink_to(zstd / "zstandard")
    return {**os.environ, "PYTHONPATH": path, "COSMICAI_UNPACK_FOLDER": str(folder)}


def start(layer: Path, folder: Path, code: str = IMPORT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        env=environment(layer, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def imported(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def test_the_first_import_becomes_the_real_module(layer: Path, tmp_path: Path) -> None:
    output = imported(start(layer, tmp_path))
    assert output.startswith("the real torch 7 ")
    assert str(tmp_path / "torch.tar.zst-") in output


def test_nothing_is_unpacked_without_an_import(layer: Path, tmp_path: Path) -> None:
    imported(start(layer, tmp_path, "import packed_import"))
    assert not list(tmp_path.glob("torch.tar.zst-*"))


def test_processes_that_come_at_once_share_one_copy(layer: Path, tmp_path: Path) -> None:
    environment(layer, tmp_path)
    outputs = {imported(process) for process in [start(layer, tmp_path) for _ in range(6)]}
    assert len(outputs) == 1
    assert len([path for path in tmp_path.glob("torch.tar.zst-*") if path.is_dir()]) == 1


def test_what_a_killed_process_left_is_replaced(layer: Path, tmp_path: Path) -> None:
    digest = (layer / "torch.tar.zst.sha256").read_text()[:16]
    partial = tmp_path / f"torch.tar.zst-{digest}.partial"
    (partial / "torch").mkdir(parents=True)
    (partial / "torch/__init__.py").write_text("raise SystemExit('half a torch')")
    assert imported(start(layer, tmp_path)).startswith("the real torch")
    assert not partial.exists()


def test_a_damaged_archive_leaves_nothing_behind(layer: Path, tmp_path: Path) -> None:
    archive = layer / "torch.tar.zst"
    archive.write_bytes(archive.read_bytes()[:-100])
    process = start(layer, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not [path for path in tmp_path.glob("torch.tar.zst-*") if path.is_dir()]


def test_the_build_writes_what_the_loader_reads() -> None:
    spec = importlib.util.spec_from_file_location("build", STUBS.parents[1] / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.RUNTIME_PYTHON == "3.13"
    assert "manylinux_2_34" in build.WHEEL_TAGS
    assert "manylinux_2_35" not in build.WHEEL_TAGS
