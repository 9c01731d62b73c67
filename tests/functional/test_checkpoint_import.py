"""``cosmicai model import``: right numbers from a checkpoint, clear errors, nothing executed."""

from __future__ import annotations

import enum
import gzip
import json
import sys
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cosmicai.errors import InvalidInput, ModelMismatch, ModelNotFound, UnsafePickle
from cosmicai.model.bundle import Bundle
from cosmicai.model.config import ModelConfig
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.modeling.checkpoint import import_checkpoint
from model_fill import SHARED_MODEL, SMALL, filled_state
from reference_checkpoint import save_reference_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")

needs_shared = pytest.mark.skipif(
    not SHARED_MODEL.is_dir(), reason="../shared/model with the reference's files is absent"
)


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    return save_reference_checkpoint(path, SMALL, filled_state(SMALL))


@pytest.mark.shared
@needs_shared
def test_a_full_checkpoint_predicts_the_golden_vectors(tmp_path: Path) -> None:
    config = ModelConfig(depth=12, heads=12)
    path = save_reference_checkpoint(tmp_path / "mae.pt", config, filled_state(config))
    golden = np.load(SHARED_MODEL / "golden_vectors.npz")

    imported = import_checkpoint(path, tmp_path / "bundle")

    assert imported.bundle.config == config
    assert (imported.tensors, imported.parameters) == (508, 47_698_947)
    from cosmicai.engines.base import load_engine

    predicted = load_engine("plain", imported.bundle.path, threads=2).predict(
        golden["image"], golden["magnitude"]
    )
    np.testing.assert_allclose(
        predicted, golden["depth12_heads12_redshift"].ravel(), rtol=0, atol=1e-5
    )


@pytest.mark.shared
@needs_shared
def test_the_references_own_file_is_read(tmp_path: Path) -> None:
    path = SHARED_MODEL / "reference_checkpoint_depth1_zeros.pt.gz"

    bundle = import_checkpoint(path, tmp_path / "bundle").bundle

    assert bundle.config == ModelConfig(depth=1, heads=4, norm_eps=1e-6)
    assert not any(name in sys.modules for name in ("blocks", "NormalCell", "timm"))
    assert not any(array.any() for array in bundle.tensors().values())


def test_every_tensor_and_attribute_comes_over(small_checkpoint: Path, tmp_path: Path) -> None:
    bundle = import_checkpoint(small_checkpoint, tmp_path / "bundle").bundle

    assert Bundle(tmp_path / "bundle").config == SMALL
    expected = filled_state(SMALL)
    found = bundle.tensors()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_an_epsilon_is_read_from_the_modules(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"norm_eps": 1e-5, "batch_norm_eps": 2e-5})
    path = save_reference_checkpoint(tmp_path / "mae.pt", config, filled_state(config))

    assert import_checkpoint(path, tmp_path / "bundle").bundle.config == config


def save_state_dict(path: Path, wrap: Any = lambda state: state, prefix: str = "") -> Path:
    state = {prefix + name: torch.from_numpy(a) for name, a in filled_state(SMALL).items()}
    torch.save(wrap(state), path)
    return path


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "net.model."]
)
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_state_dict_needs_the_head_count(tmp_path: Path, prefix: str, key: str | None) -> None:
    def wrap(state: Any) -> Any:
        return state if key is None else {key: state, "epoch": 7}

    path = save_state_dict(tmp_path / "state.pt", wrap, prefix)

    with pytest.raises(InvalidInput, match="attention heads"):
        import_checkpoint(path, tmp_path / "bundle")
    assert import_checkpoint(path, tmp_path / "bundle", heads=3).bundle.config == SMALL


def test_heads_that_contradict_the_checkpoint_are_refused(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="heads: 4 given, but the checkpoint has 3"):
        import_checkpoint(small_checkpoint, tmp_path / "bundle", heads=4)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- another architecture -----------------------------------------------------------------------


def drop_a_branch(model: Any) -> None:
    del model.concat_block[2]


def widen_the_head(model: Any) -> None:
    model.head = torch.nn.Linear(24, 30)


def other_heads_in_one_block(model: Any) -> None:
    model.blocks[1].attn.num_heads = 2


def another_epsilon(model: Any) -> None:
    model.blocks[1].norm1.eps = 1e-3


def another_activation(model: Any) -> None:
    model.blocks[0].PCM[2] = torch.nn.ReLU()


def another_gelu(model: Any) -> None:
    model.blocks[0].mlp.act = torch.nn.GELU(approximate="tanh")


def another_scale(model: Any) -> None:
    for block in model.blocks:
        block.attn.scale = 1.0


def no_magnitudes(model: Any) -> None:
    model.inception_model.magnitude = False


def not_finite(model: Any) -> None:
    model.head.bias.data[0] = float("nan")


def stem_apart(model: Any) -> None:
    model.inception_model.conv2d_init = torch.nn.Conv2d(5, 6, 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop_a_branch, r"missing: concat_block\.2\.weight, concat_block\.2\.bias"),
        (widen_the_head, r"head\.weight is float32\[30, 24\], expected float32\[24, 24\]"),
        (other_heads_in_one_block, r"num_heads.*3 in blocks\.0\.attn, 2 in blocks\.1\.attn"),
        (another_epsilon, r"eps.*blocks\.1\.norm1"),
        (another_activation, r"blocks\.0\.PCM\.2: .*SiLU expected, found .*ReLU"),
        (another_gelu, r"blocks\.0\.mlp\.act\.approximate: 'none' expected"),
        (another_scale, "attention scale"),
        (no_magnitudes, r"inception_model\.magnitude: True expected"),
        (not_finite, r"NaN or infinity.*head\.bias"),
        (stem_apart, "two names of one tensor"),
    ],
)
def test_another_architecture_is_named_and_writes_nothing(
    tmp_path: Path, change: Any, named: str
) -> None:
    path = save_reference_checkpoint(tmp_path / "mae.pt", SMALL, filled_state(SMALL), change)

    with pytest.raises(ModelMismatch, match=named):
        import_checkpoint(path, tmp_path / "bundle")
    assert names(tmp_path) == ["mae.pt"]


# -- hostile and broken files -------------------------------------------------------------------


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return open, (str(self.path), "w")


def test_a_hostile_checkpoint_is_refused_and_nothing_ran(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    def infect(model: Any) -> None:
        model.blocks[0].attn.hook = Touch(canary)

    path = save_reference_checkpoint(tmp_path / "mae.pt", SMALL, filled_state(SMALL), infect)

    with pytest.raises(UnsafePickle, match=r"mae\.pt: .*open.*nothing of it was executed"):
        import_checkpoint(path, tmp_path / "bundle")
    assert not canary.exists()
    assert not (tmp_path / "bundle").exists()


def test_an_unknown_layer_is_named(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.head = torch.nn.Bilinear(2, 2, 2)

    path = save_reference_checkpoint(tmp_path / "mae.pt", SMALL, filled_state(SMALL), change)

    with pytest.raises(UnsafePickle, match=r"torch\.nn\.modules\.linear\.Bilinear"):
        import_checkpoint(path, tmp_path / "bundle")


def test_classes_of_timm_1_are_known(tmp_path: Path) -> None:
    """What timm 1.0's PatchEmbed holds: an enum, beside what earlier ones did."""
    module = ModuleType("timm.layers.format")
    format_ = enum.StrEnum("Format", {"NCHW": "NCHW"}, module=module.__name__)
    module.Format = format_  # type: ignore[attr-defined]

    def change(model: Any) -> None:
        for part in model.modules():
            if type(part).__name__ == "PatchEmbed":
                part.flatten, part.output_fmt = True, format_.NCHW

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "timm.layers.format", module)
        path = save_reference_checkpoint(tmp_path / "mae.pt", SMALL, filled_state(SMALL), change)
    assert import_checkpoint(path, tmp_path / "bundle").bundle.config == SMALL


def many_modules_share_a_dict(model: Any) -> None:
    shared = {f"p{i}": None for i in range(5000)}
    for number in range(5000):
        child = torch.nn.Identity()
        child._parameters = shared
        model.head._modules[f"m{number}"] = child


def many_buffers_that_do_not_persist(model: Any) -> None:
    model.head._non_persistent_buffers_set = {f"x{i}" for i in range(60000)}
    model.head._buffers = {f"b{i}": None for i in range(60000)}


def modules_share_a_long_name(model: Any) -> None:
    name, child = "n" * 10**6, torch.nn.Identity()
    for _ in range(20):
        outer = torch.nn.Identity()
        outer._modules = {name: child}
        child = outer
    model.head._modules["deep"] = child


@pytest.mark.parametrize(
    "change",
    [many_modules_share_a_dict, many_buffers_that_do_not_persist, modules_share_a_long_name],
)
def test_a_checkpoint_made_to_be_slow_is_refused_soon(tmp_path: Path, change: Any) -> None:
    path = save_reference_checkpoint(tmp_path / "mae.pt", SMALL, filled_state(SMALL), change)
    started = time.process_time()
    with pytest.raises(InvalidInput, match=r"too many|at most"):
        import_checkpoint(path, tmp_path / "bundle")
    assert time.process_time() - started < 10


def test_a_small_file_of_a_huge_model_is_refused_before_it_is_read(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"depth": 40})
    shared: dict[tuple[int, ...], Any] = {}
    state = {
        name: shared.setdefault((*array.shape, array.dtype.num), torch.from_numpy(array))
        for name, array in filled_state(config).items()
    }
    path = tmp_path / "mae.pt"
    torch.save(state, path)
    with pytest.raises(InvalidInput, match="share their storage"):
        import_checkpoint(path, tmp_path / "bundle", heads=SMALL.heads)


def test_modules_within_themselves_end_with_an_error(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.head._modules["again"] = model.head

    path = save_reference_checkpoint(tmp_path / "mae.pt", SMALL, filled_state(SMALL), change)

    with pytest.raises(InvalidInput, match="within themselves"):
        import_checkpoint(path, tmp_path / "bundle")


@pytest.mark.parametrize("kept", [0, 10, 1000, -1])
def test_a_cut_off_file_is_refused(small_checkpoint: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "mae.pt"
    path.write_bytes(small_checkpoint.read_bytes()[:kept])

    with pytest.raises(InvalidInput, match=r"mae\.pt: "):
        import_checkpoint(path, tmp_path / "bundle")


@pytest.mark.parametrize("spoil", [lambda b: b[:-20], lambda b: b"no gzip", lambda b: b""])
def test_a_damaged_gzip_is_refused(small_checkpoint: Path, tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "mae.pt.gz"
    path.write_bytes(spoil(gzip.compress(small_checkpoint.read_bytes(), 1)))

    with pytest.raises(InvalidInput):
        import_checkpoint(path, tmp_path / "bundle")


def test_a_damaged_weight_is_noticed(small_checkpoint: Path, tmp_path: Path) -> None:
    data = bytearray(small_checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "mae.pt"
    path.write_bytes(data)

    with pytest.raises(InvalidInput, match=r"damaged|expected"):
        import_checkpoint(path, tmp_path / "bundle")


def test_other_contents_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.pt"
    torch.save([torch.zeros(2)], path)

    with pytest.raises(InvalidInput, match="a module or a state dict expected, found list"):
        import_checkpoint(path, tmp_path / "bundle")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere\.pt"):
        import_checkpoint(tmp_path / "nowhere.pt", tmp_path / "bundle")


# -- the command --------------------------------------------------------------------------------


def test_the_command_prints_json_and_guards_the_folder(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "small"
    command = ["model", "import", str(small_checkpoint), str(out)]

    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["config"]["depth"] == 2
    assert facts["digest"] == Bundle(out).digest

    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert names(out) == ["config.json", "model.safetensors"]
    assert names(out.parent) == ["small"]
