"""A library of an extra that is not installed: the error names the extra."""

import sys
import tomllib
from pathlib import Path

import pytest
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.extras import MissingLibrary, extras_with, libraries_named

PACKAGES = Path(__file__).parents[2] / "packages"


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("moto", "cosmicai-workbench[local]"),
        ("samcli", "cosmicai-workbench[local]"),
        ("kcorrect", "cosmicai-workbench[data]"),
        ("h5py", "cosmicai-workbench[arrays]"),
        ("zarr", "cosmicai-workbench[arrays]"),
        ("pyarrow", "cosmicai[tables]"),
        ("elftools", "cosmicai-workbench[build]"),
        ("onnxruntime", "cosmicai-workbench[import]"),
        ("openvino", "cosmicai[openvino]"),
        ("torch", "cosmicai[torch]"),
    ],
)
def test_extras_are_named(module, extra):
    assert extra in extras_with(module)


def test_a_missing_library_is_named_with_its_extra_and_no_traceback(monkeypatch, capsys, tmp_path):
    for name in list(sys.modules):  # an earlier test may have imported it
        if name.startswith(("kcorrect", "cosmicai_workbench.data")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kcorrect", None)
    monkeypatch.setitem(sys.modules, "kcorrect.kcorrect", None)
    monkeypatch.setitem(sys.modules, "astropy.io", None)
    words = ["data", "make", str(tmp_path / "survey.pt"), "--galaxies", "10"]
    assert main(words) == 2
    assert "pip install 'cosmicai-workbench[data]'" in capsys.readouterr().err


def test_cuda_is_avoided_where_torch_is_missing():
    with pytest.raises(MissingLibrary, match=r"whl/cpu"), libraries_named():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_an_import_that_no_extra_explains_stays_what_it_is():
    with pytest.raises(ModuleNotFoundError, match="blunder"), libraries_named():
        raise ModuleNotFoundError("No module named 'blunder'", name="blunder")


def test_all_has_every_library_of_the_extras_except_training():
    project = tomllib.loads((PACKAGES / "workbench" / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    (everything,) = project["optional-dependencies"]["all"]
    assert everything == f"cosmicai-workbench[{','.join(sorted(extras - {'all', 'train'}))}]"
