"""ONNX files and bundles of strangers: each is refused by name, and nothing in it is executed."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from cosmicai.errors import (
    CosmicAIError,
    InvalidInput,
    ModelMismatch,
    ModelNotFound,
    UnsafeModel,
)
from cosmicai.model.bundle import Bundle
from cosmicai.model.ir import read_graph
from cosmicai_workbench.modeling import onnx_file
from cosmicai_workbench.modeling.onnx_import import Choices, import_onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_models import ImageCnn, PdfCnn, export

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_watching: list[tuple[str, str]] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is not None and event in {
        "open", "subprocess.Popen", "os.system", "os.exec", "os.fork", "exec", "socket.connect",
        "os.listdir", "import", "ctypes.dlopen",
    }:  # fmt: skip
        _watching.append((event, str(arguments[0])))


sys.addaudithook(_watch)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """What Python does meanwhile that reaches outside of it; libraries are loaded before."""
    import google.protobuf.message  # noqa: F401
    import onnxruntime  # noqa: F401
    from cosmicai.model.interface import ImageInput, Inputs

    Inputs(image=ImageInput(bands=("r",), side=8))

    global _watching
    _watching = []
    yield _watching
    _watching = None


def floats(name: str, *shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or None)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[TensorProto] = (),
    image: Sequence[Any] = ("batch", 5, 64, 64),
    **options: Any,
) -> onnx.ModelProto:
    """Return a model whose output is the mean of what the nodes make of the image."""
    mean = node("ReduceMean", "last axes", "z", keepdims=0)
    graph = helper.make_graph(
        [*nodes, mean],
        "graph",
        [floats("image", *image)],
        [floats("z", "batch")],
        [*weights, ints("axes", 1, 2, 3)],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, **options
    )


def external(location: str, **entries: str) -> onnx.ModelProto:
    """Return a model whose weights lie in another file."""
    weight = numpy_helper.from_array(np.ones((1, 5, 1, 1), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=value)
    return model([node("Mul", "image w", "last")], [weight])


def tensor_of(dims: Sequence[int], kind: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", dims=dims, data_type=kind, raw_data=b"\0" * 20)


def branch() -> onnx.NodeProto:
    body = helper.make_graph([node("Identity", "image", "inner")], "body", [], [floats("inner")])
    return node("If", "yes", "last", then_branch=body, else_branch=body)


def function() -> onnx.FunctionProto:
    return helper.make_function(
        "mine", "F", ["x"], ["y"], [node("Relu", "x", "y")], [helper.make_opsetid("", 18)]
    )


REFUSED_AS_DATA: dict[str, tuple[Callable[[], onnx.ModelProto], type[Exception], str]] = {
    "a custom operator": (
        lambda: model([node("Evil", "image", "last", domain="com.evil")]),
        UnsafeModel,
        "com.evil.Evil",
    ),
    "an operator of ONNX's machine learning domain": (
        lambda: model([node("Scaler", "image", "last", domain="ai.onnx.ml")]),
        UnsafeModel,
        "ai.onnx.ml.Scaler",
    ),
    "an unknown operator": (lambda: model([node("Evil", "image", "last")]), UnsafeModel, "Evil"),
    "a branch": (lambda: model([branch()]), UnsafeModel, "If"),
    "a graph in an operator that has none": (
        lambda: model([node("Relu", "image", "last", body=branch().attribute[0].g)]),
        UnsafeModel,
        "holds a graph",
    ),
    "random numbers": (
        lambda: model([node("RandomNormalLike", "image", "last")]),
        UnsafeModel,
        "RandomNormalLike",
    ),
    "a size that depends on values": (
        lambda: model([node("NonZero", "image", "last")]),
        UnsafeModel,
        "NonZero",
    ),
    "a function": (
        lambda: model([node("F", "image", "last", domain="mine")], functions=[function()]),
        UnsafeModel,
        "inline_local_functions",
    ),
    "weights elsewhere": (lambda: external("../../etc/passwd"), UnsafeModel, "was not opened"),
    "weights at an absolute path": (lambda: external("/etc/passwd"), UnsafeModel, "/etc/passwd"),
    "weights in a folder below": (lambda: external("a/b"), UnsafeModel, "beside the model"),
    "weights in the folder itself": (lambda: external(".."), UnsafeModel, "beside the model"),
    "weights nowhere": (lambda: external(""), UnsafeModel, "beside the model"),
    "weights behind a link": (lambda: external("link"), UnsafeModel, "beside the model"),
    "weights that are not there": (lambda: external("absent"), ModelNotFound, "absent"),
    "weights beyond their file": (
        lambda: external("short", offset="10", length="20"),
        InvalidInput,
        "cut short",
    ),
    "weights before their file": (
        lambda: external("short", offset="-5", length="20"),
        InvalidInput,
        "cut short",
    ),
    "weights of a size that is none": (
        lambda: external("short", offset="x"),
        InvalidInput,
        "cut short",
    ),
    "a million nodes": (
        lambda: model([node("Relu", "image", "last")] * 1_000_000),
        InvalidInput,
        "at most 20,000 nodes expected, found 1,000,001",
    ),
    "weights of an absurd shape": (
        lambda: model([node("Mul", "image w", "last")], [tensor_of([10**12])]),
        InvalidInput,
        "found 5",
    ),
    "weights of a negative shape": (
        lambda: model([node("Mul", "image w", "last")], [tensor_of([-1, -5])]),
        InvalidInput,
        "values of the shape",
    ),
    "weights that are text": (
        lambda: model([node("Mul", "image w", "last")], [tensor_of([5], TensorProto.STRING)]),
        InvalidInput,
        "numbers expected",
    ),
    "an absurd image": (
        lambda: model([node("Relu", "image", "last")], image=("batch", 5, 10**9, 10**9)),
        InvalidInput,
        "less than or equal to 1024",
    ),
    "a vector for an image": (
        lambda: model([node("Relu", "image", "last")], image=("batch", 5)),
        ModelMismatch,
        "one input with an image",
    ),
    "bands last": (
        lambda: model([node("Relu", "image", "last")], image=("batch", 64, 64, 5)),
        ModelMismatch,
        "inputs-as-nchw",
    ),
    "normalisation by the batch": (
        lambda: model(
            [node("BatchNormalization", "image s s s s", "last", training_mode=1)],
            [numpy_helper.from_array(np.ones(5, np.float32), "s")],
        ),
        InvalidInput,
        "model.eval",
    ),
    "operators of the future": (
        lambda: helper.make_model(
            model([]).graph, opset_imports=[helper.make_opsetid("", 999)], ir_version=9
        ),
        InvalidInput,
        "found \\[999\\]",
    ),
}
"""What is refused before any library that knows operators sees it."""


def save(made: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    (folder / "short").write_bytes(b"\0" * 20)
    (folder / "link").symlink_to("/etc/passwd")
    return path


@pytest.mark.parametrize("case", REFUSED_AS_DATA)
def test_it_is_refused_as_data_and_nothing_else_is_opened_or_started(
    case: str, tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    make, error, says = REFUSED_AS_DATA[case]
    path = save(make(), tmp_path)
    out = tmp_path / "below" / "bundle"

    events.clear()
    with pytest.raises(error, match=says):
        import_onnx(path, out)
    done = list(events)

    allowed = {("open", str(tmp_path / name)) for name in ("model.onnx", "short", "absent")}
    scratch = [event for event in done if str(tmp_path / "below") in event[1]]
    assert set(done) <= {*allowed, *scratch}
    assert sorted(tmp_path.iterdir()) == [tmp_path / n for n in ("link", "model.onnx", "short")]


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, 0.99])
def test_a_file_cut_short(left: float, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = model([node("Relu", "image", "last")]).SerializeToString()
    path.write_bytes(whole[: int(left if left >= 1 else left * len(whole))])
    with pytest.raises((InvalidInput, ModelMismatch), match="model"):
        import_onnx(path, tmp_path / "bundle")


@pytest.mark.parametrize("content", [b"", b"\x08", b"\x08\x09" * 5000, bytes(range(256)) * 20])
def test_a_file_that_is_something_else(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="not a complete ONNX file"):
        import_onnx(path, tmp_path / "bundle")


@pytest.mark.parametrize("text", [b"Relu", b"last", b"image"])
def test_names_that_are_no_text(text: bytes, tmp_path: Path) -> None:
    path = save(model([node("Relu", "image", "last")]), tmp_path)
    path.write_bytes(path.read_bytes().replace(text, b"\xff" * len(text)))
    with pytest.raises(InvalidInput, match="bytes that are not text"):
        import_onnx(path, tmp_path / "bundle")


def mutated(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        place, other = rng.randrange(len(changed)), rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                del changed[place : place + rng.randrange(1, 40)]
            case 2:
                changed[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                changed[place : place + 8] = changed[other : other + 8]
        changed = changed or bytearray(b"x")
    return bytes(changed)


def test_files_and_graphs_with_random_damage(imported: Path, tmp_path: Path) -> None:
    """Each is read, or refused by one of our errors; nothing else comes out."""
    rng, path = random.Random(0), tmp_path / "model.onnx"
    whole = BOMBS["tiles"]().SerializeToString()
    for _ in range(300):
        path.write_bytes(mutated(whole, rng))
        with contextlib.suppress(CosmicAIError):
            onnx_file.read_model(path)
    bundle = Bundle(imported)
    check = bundle.architecture.check_graph
    assert check is not None
    description = (imported / "model.xml").read_bytes()
    size = (imported / "model.bin").stat().st_size
    check(description, size, bundle.config, "the whole one")
    for _ in range(300):
        with contextlib.suppress(ModelMismatch):
            check(mutated(description, rng), size, bundle.config, "a damaged one")


ENDLESS = {
    "text": b"<net>" + b"\n" * 4_000_000 + b"</net>",
    "names": b'<net><layers><layer type="Parameter" version="opset1"><data shape="1"/><output>'
    b'<port names="' + b"a" * 4_000_000 + b'"/></output></layer></layers></net>',
    "sizes": b'<net><layers><layer type="Const" version="opset1"><data element_type="f32" shape="'
    + (b"9" * 4000 + b",") * 1000
    + b'"/></layer></layers></net>',
    "size": b'<net><layers><layer type="Result" version="opset1"><input><port><dim>'
    + b"9\n" * 1_000_000
    + b"</dim></port></input></layer></layers></net>",
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_description_of_megabytes_is_refused_at_once(what: str) -> None:
    """Reading it takes time in proportion to its size: without that, these take hours."""
    with pytest.raises(ModelMismatch, match="is not a model that may be run"):
        read_graph(ENDLESS[what], 1, "model.xml")


def test_graphs_within_graphs_without_end(tmp_path: Path) -> None:
    inner = b""
    for _ in range(400):
        # graph {node {attribute {g {…}}}}, fields 1, 5 and 6
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            size, varint = len(inner), b""
            while True:
                size, low = size >> 7, size & 127
                varint += bytes([low | (128 if size else 0)])
                if not size:
                    break
            inner = tag + varint + inner
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x09\x3a" + varint + inner)
    with pytest.raises(InvalidInput, match="not a complete ONNX file"):
        import_onnx(path, tmp_path / "bundle")


def test_a_file_larger_than_a_function_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(model([node("Relu", "image", "last")]), tmp_path)
    with path.open("r+b") as file:
        file.truncate(onnx_file.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(InvalidInput, match="a function could not hold"):
        import_onnx(path, tmp_path / "bundle")


def one(*weights: TensorProto) -> list[TensorProto]:
    return [numpy_helper.from_array(np.ones(1, np.float32), "one"), *weights]


def number(name: str, *values: float) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


BOMBS = {
    "a constant": lambda: model(
        [
            node("ConstantOfShape", "s", "c"),
            node("ReduceMax", "c", "m"),
            node("Add", "image m", "last"),
        ],
        [ints("s", 10**6, 10**6)],
    ),
    "an expansion": lambda: model(
        [node("Expand", "one s", "c"), node("ReduceMax", "c", "m"), node("Add", "image m", "last")],
        one(ints("s", 10**6, 10**6)),
    ),
    "tiles": lambda: model([node("Tile", "image s", "last")], [ints("s", 1, 9, 10**4, 10**4)]),
    "a border": lambda: model(
        [node("Pad", "image s", "last")], [ints("s", 0, 0, 0, 0, 0, 0, 10**6, 10**6)]
    ),
    "a zoom": lambda: model([node("Resize", "image  s", "last")], [number("s", 1, 1, 1e4, 1e4)]),
    "a size computed": lambda: model(
        [
            node("Exp", "e", "x"),
            node("Cast", "x", "s", to=TensorProto.INT64),
            node("Expand", "one s", "c"),
            node("ReduceMax", "c", "m"),
            node("Add", "image m", "last"),
        ],
        one(number("e", 12, 12)),
    ),
}
"""Small files of tensors that no memory holds."""


@pytest.mark.parametrize("case", BOMBS)
def test_tensors_that_no_memory_holds(case: str, tmp_path: Path) -> None:
    made = BOMBS[case]()
    for each in made.graph.node:
        if each.op_type == "Resize":
            each.input[:] = ["image", "", "s"]
    with pytest.raises(InvalidInput, match=r"at most|bad_alloc|memory"):
        import_onnx(save(made, tmp_path), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# -- bundles -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    path = export(PdfCnn, folder / "pdf.onnx", ("pz",), dynamo=False)
    import_onnx(path, folder / "bundle", Choices(output="pdf", grid=(0, 0.895)))
    return folder / "bundle"


@pytest.fixture
def bundle(imported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(imported, tmp_path / "bundle"))


def replaced(old: str, new: str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        text = (bundle / "model.xml").read_text()
        assert old in text
        (bundle / "model.xml").write_text(text.replace(old, new, 1))

    return change


def of_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(bundle: Path) -> None:
        document = json.loads((bundle / "config.json").read_text())
        change(document)
        (bundle / "config.json").write_text(json.dumps(document))

    return edit


ENTITY = '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="'
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an external entity": (replaced('<net name="', ENTITY), "document type"),
    "an operator of an extension": (replaced('type="ReLU"', 'type="Evil"'), "'Evil'"),
    "another set of operators": (
        replaced('type="ReLU" version="opset1"', 'type="ReLU" version="extension"'),
        "'extension'",
    ),
    "a state": (replaced('type="ReLU"', 'type="ReadValue"'), "'ReadValue'"),
    "a body of a loop": (
        replaced("<layers>", "<layers><layer type='ReLU' version='opset1'><body/></layer>"),
        "element body",
    ),
    "a constant beyond model.bin": (replaced('offset="0"', 'offset="99999999"'), "cut short"),
    "a constant before model.bin": (replaced('offset="0"', 'offset="-8"'), "a constant"),
    "a constant of another size": (
        replaced('shape="8, 5, 3, 3"', 'shape="9, 5, 3, 3"'),
        "a constant",
    ),
    "model.bin cut short": (lambda b: _cut(b / "model.bin"), "cut short"),
    "model.xml cut short": (lambda b: _cut(b / "model.xml"), "not a model that may be run"),
    "no graph at all": (lambda b: (b / "model.xml").write_text("<html/>"), "element net"),
    "another image": (replaced("?,5,64,64", "?,5,32,32"), r"image, f32 \(B, 5, 64, 64\)"),
    "a fixed batch": (replaced("?,5,64,64", "7,5,64,64"), "image, f32"),
    "another side in the config": (
        of_config(lambda d: d["inputs"]["image"].update(side=32)),
        r"f32 \(B, 5, 32, 32\)",
    ),
    "an input less in the config": (
        of_config(lambda d: d["inputs"].update(magnitude=None)),
        "the config has the inputs image, the graph",
    ),
    "an input more in the config": (
        of_config(lambda d: d["inputs"].update(scalars=[{"name": "ebv"}])),
        "ebv",
    ),
    "other bins in the config": (of_config(lambda d: d["output"].update(bins=90)), "90"),
    "another output in the config": (
        of_config(lambda d: d["output"].update(tensors=["other"])),
        "other",
    ),
    "an unknown key in the config": (of_config(lambda d: d.update(code="os.system")), "code"),
}


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("case", CHANGES)
def test_a_bundle_that_was_tampered_with(case: str, bundle: Path) -> None:
    change, says = CHANGES[case]
    change(bundle)
    with pytest.raises(ModelMismatch, match=says):
        Bundle(bundle)


def test_every_operator_that_is_allowed_is_one_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert known >= onnx_file.OPERATORS
    holding = {
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if any("graph" in str(a.type).lower() for a in schema.attributes.values())
    }
    assert holding >= {"If", "Loop", "Scan"}
    assert not onnx_file.OPERATORS & holding


def test_a_model_whose_galaxies_depend_on_each_other(tmp_path: Path) -> None:
    made = model(
        [node("ReduceMax", "image first", "m"), node("Sub", "image m", "last")], [ints("first", 0)]
    )
    with pytest.raises(ModelMismatch, match="depends on the others of its batch"):
        import_onnx(save(made, tmp_path), tmp_path / "bundle")


def test_libraries_that_disagree(tmp_path: Path) -> None:
    """Rounding, blown up: no two libraries compute this alike."""
    made = model(
        [
            node("Conv", "image w", "c"),
            node("Mul", "c large", "x"),
            node("Sin", "x", "last"),
        ],
        [
            numpy_helper.from_array(
                np.random.default_rng(0).normal(size=(8, 5, 7, 7)).astype(np.float32), "w"
            ),
            number("large", 1e7),
        ],
    )
    with pytest.raises(ModelMismatch, match="differs from ONNX Runtime's"):
        import_onnx(save(made, tmp_path), tmp_path / "bundle")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = export(ImageCnn, tmp_path / "image.onnx", ("z",), dynamo=False)
    import_onnx(path, tmp_path / "bundle")
    before = {p.name: p.read_bytes() for p in (tmp_path / "bundle").iterdir()}
    with pytest.raises(InvalidInput, match="is there already"):
        import_onnx(path, tmp_path / "bundle")
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:500])
    with pytest.raises(InvalidInput):
        import_onnx(tmp_path / "broken.onnx", tmp_path / "bundle", overwrite=True)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "bundle").iterdir()}
