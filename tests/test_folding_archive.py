"""Files of exported programs: right ones are read, and from no other anything runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convbias.errors import DataError
from convbias.folding.archive import load_program
from convbias.folding.expressions import is_harmless
from convbias.folding.programs import example_of

Entries = dict[str, bytes]


class Evil:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def entries_of(path: Path) -> Entries:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(entries: Entries, path: Path, **words: Any) -> Path:
    with zipfile.ZipFile(path, "w", **words) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    n, h = torch.export.Dim("n", min=2, max=64), torch.export.Dim("h", min=4, max=100)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(2)).eval()
    exported = torch.export.export(
        model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: n, 2: h},), strict=False
    )
    path = tmp_path / "model.pt2"
    torch.export.save(exported, path)
    return path


def test_a_program_is_read(program: Path) -> None:
    x = torch.randn(3, 3, 9, 8)
    found = load_program(program).module(check_guards=False)
    torch.testing.assert_close(found(x), torch.export.load(program).module()(x))


def in_program(change: Callable[[Any], None]) -> Callable[[Entries, Path], None]:
    def changed(entries: Entries, mark: Path) -> None:
        name = next(name for name in entries if name.endswith("models/model.json"))
        content = json.loads(entries[name])
        change(content)
        entries[name] = json.dumps(content).encode()

    return changed


def target(name: str) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        content["graph_module"]["graph"]["nodes"][0]["target"] = name

    return change


def expression(text: str) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        if isinstance(part, dict):
            if "expr_str" in part:
                part["expr_str"] = text
            for value in part.values():
                change(value)
        elif isinstance(part, list):
            for value in part:
                change(value)

    return change


def symbol(content: Any) -> None:
    content["range_constraints"]["__import__('os')"] = {"min_val": 0, "max_val": 1}


def structure(kind: str, context: str | dict[str, Any]) -> Callable[[Any], None]:
    """Outputs in a structure of another kind, whose context torch would resolve."""
    leaf = {"type": None, "context": None, "children_spec": []}
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])

    def change(content: Any) -> None:
        (whole,) = (part for part in content["graph_module"]["module_call_graph"] if part["fqn"] == "")
        whole["signature"]["out_spec"] = spec

    return change


def enumeration(fqn: str) -> str:
    return json.dumps([{"__enum__": 1, "fqn": fqn, "name": "a"}])


def replaced(old: str, new: str) -> Callable[[Any], None]:
    """Another text wherever a whole string of the program is ``old``."""

    def change(content: Any) -> None:
        text = json.dumps(content)
        assert f'"{old}"' in text
        content.clear()
        content.update(json.loads(text.replace(f'"{old}"', json.dumps(new))))

    return change


def operator_argument(content: Any) -> None:
    first = content["graph_module"]["graph"]["nodes"][0]["inputs"]
    first.append({"name": "other", "arg": {"as_operator": "torch.hub.load"}, "kind": 1})


def sample(entries: Entries, mark: Path) -> None:
    name = next(name for name in entries if "sample_inputs" in name)
    made = io.BytesIO()
    torch.save((Evil(mark),), made)
    entries[name] = made.getvalue()


def raw_sample(entries: Entries, mark: Path) -> None:
    name = next(name for name in entries if "sample_inputs" in name)
    entries[name] = pickle.dumps(Evil(mark))


def pickled_weight(entries: Entries, mark: Path) -> None:
    config = next(name for name in entries if name.endswith("model_weights_config.json"))
    content = json.loads(entries[config])
    payload = next(iter(content["config"].values()))
    payload["use_pickle"] = True
    made = io.BytesIO()
    torch.save(Evil(mark), made)
    entries[f"{config.rpartition('/')[0]}/{payload['path_name']}"] = made.getvalue()
    entries[config] = json.dumps(content).encode()


def elsewhere(entries: Entries, mark: Path) -> None:
    config = next(name for name in entries if name.endswith("model_weights_config.json"))
    content = json.loads(entries[config])
    next(iter(content["config"].values()))["path_name"] = "../../../etc/passwd"
    entries[config] = json.dumps(content).encode()


def script_object(entries: Entries, mark: Path) -> None:
    entries["model/data/constants/custom_obj_0"] = pickle.dumps(Evil(mark))


def library(entries: Entries, mark: Path) -> None:
    entries["model/data/aotinductor/model/code.so"] = b"\x7fELF"


HOSTILE: dict[str, tuple[Callable[[Entries, Path], None], str]] = {
    "operator": (in_program(target("torch.hub.load")), "calls 'torch.hub.load'"),
    "os": (in_program(target("torch.os.system")), "calls 'torch.os.system'"),
    "reads files": (
        in_program(target("torch.ops.aten.from_file.default")),
        "calls 'torch.ops.aten.from_file",
    ),
    "methodcaller": (in_program(target("_operator.methodcaller")), "calls '_operator.methodcaller'"),
    "expression": (in_program(expression("__import__('os').mkdir('x')")), "no plain expression"),
    "attribute": (in_program(expression("s0.__class__")), "no plain expression"),
    "for ever": (in_program(expression("Pow(Integer(99), Integer(999999999))")), "no plain expression"),
    **{
        f"for ever: {text}": (in_program(expression(text)), "no plain expression")
        for text in (
            "2**(60*60*60*60*60*60)",
            "s0**9",
            "Pow(64, Mul(64, 64, 64, 64, 64, 64))",
            "Pow(Pow(Pow(Pow(s0, 8), 8), 8), 8)",
            "(s0 + s1 + s2)**8 * (s0 + s1 + s2)**8",
            "PowByNatural(64, s0)",
            "1 << 99999999999",
        )
    },
    "arguments": (in_program(expression("Max(*s0)")), "no plain expression"),
    "none": (in_program(expression("Where(s0)")), "no plain expression"),
    "symbol": (in_program(symbol), "which is no plain symbol"),
    "imports": (
        in_program(
            structure(
                "collections.defaultdict",
                {"default_factory_module": "evil", "default_factory_name": "f", "dict_context": ["a"]},
            )
        ),
        "a structure of 'collections.defaultdict'",
    ),
    "an enum": (in_program(structure("builtins.dict", enumeration("evil:E"))), "no plain names"),
    "an operator as argument": (in_program(operator_argument), "calls 'torch.hub.load'"),
    "code for an input": (in_program(replaced("input", "input=evil()")), "named 'input=evil"),
    "code for a value": (in_program(replaced("conv2d", "conv2d = evil()#")), "named 'conv2d = evil"),
    "code for a buffer": (in_program(replaced("0.running_mean", '0"), evil(), ("')), "holds '0\""),
    "sample": (sample, "holds more than tensors"),
    "raw pickle": (raw_sample, "holds more than tensors"),
    "pickled weight": (pickled_weight, "holds more than tensors"),
    "another file": (elsewhere, "refers to '../../../etc/passwd'"),
    **{
        f"an operator that believes its numbers: {name}": (
            in_program(target(f"torch.ops.aten.{name}")),
            "which is no operator on tensors",
        )
        for name in (
            *("segment_reduce.default", "_ctc_loss.default", "max_pool2d_with_indices_backward.default"),
            *(
                "_sparse_coo_tensor_unsafe.default",
                "sparse_coo_tensor.size",
                "_nested_view_from_buffer.default",
            ),
        )
    },
    "an operator that writes files": (
        in_program(target("torch.ops.aten.save.default")),
        "which is no operator on tensors",
    ),
    "script object": (script_object, "no part of a plain exported program"),
    "library": (library, "no part of a plain exported program"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_runs(case: str, program: Path, tmp_path: Path) -> None:
    change, said = HOSTILE[case]
    mark, entries = tmp_path / "it ran", entries_of(program)
    change(entries, mark)
    with pytest.raises(DataError, match=said):
        load_program(written(entries, tmp_path / "hostile.pt2"))
    assert not mark.exists()


@pytest.mark.parametrize("example", [([torch.ones(3)], {}), {"a": 1}, (3, {}), ((torch.ones(1),), {"x": 1})])
def test_an_example_of_another_form_is_left_out(example: Any, program: Path, tmp_path: Path) -> None:
    entries, content = entries_of(program), io.BytesIO()
    torch.save(example, content)
    name = next(name for name in entries if "sample_inputs" in name)
    entries[name] = content.getvalue()
    found = load_program(written(entries, tmp_path / "other.pt2"))
    assert found.example_inputs is None
    assert [x.shape[1] for x in example_of(found)] == [3]


def test_expressions_that_torch_writes() -> None:
    for text in (
        "Symbol('s77', positive=True, integer=True)",
        "2*s77 + 1",
        "(s77//2 + 1)**2",
        "Mul(Integer(-1), Add(Integer(3), Symbol('s27')))",
        "FloorDiv(Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(1)), Integer(4))",
        "Max(1, ModularIndexing(s0, 2, 3))",
        "Eq(s0, s1) & (s0 >= 2) | ~(s1 < 3)",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "Pow(Symbol('s0', integer=True), Integer(-1))",
    ):
        assert is_harmless(text), text


def test_structures_and_gradients_of_other_programs(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Any, *, scale: Any) -> Any:
            with torch.no_grad():
                y = self.norm(x["image"]) * scale
            return {"the map": self.conv(y), "rest": [y, (scale,)]}

    model, x, scale = Net().eval(), {"image": torch.randn(1, 3, 8, 8)}, torch.randn(())
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(model, (x,), {"scale": scale}, strict=False), path)
    found = load_program(path).module()(x, scale=scale)
    torch.testing.assert_close(found, model(x, scale=scale))


def test_guards_are_left_out(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entries = entries_of(program)
    in_program(lambda content: content.update(guards_code=["__import__('os').mkdir('it ran')"]))(
        entries, tmp_path
    )
    loaded = load_program(written(entries, tmp_path / "guards.pt2"))
    loaded.module()(torch.randn(2, 3, 8, 8))
    assert not Path("it ran").exists()


@pytest.mark.parametrize("part", [0, 10, 1000, 5000])
def test_damaged_files(part: int, program: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt2"
    path.write_bytes(program.read_bytes()[:part])
    with pytest.raises(DataError, match=r"is no .pt2 file"):
        load_program(path)


def test_other_files(program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"cannot be read .No such file"):
        load_program(tmp_path / "none.pt2")
    state = tmp_path / "state.pt2"
    torch.save({"a": torch.ones(2)}, state)
    with pytest.raises(DataError, match=r"no part of a plain exported program|holds no models"):
        load_program(state)
    packed = written(entries_of(program), tmp_path / "packed.pt2", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="twice or compressed"):
        load_program(packed)
    changed = bytearray(program.read_bytes())
    changed[changed.index(b"graph_module") + 2] ^= 1
    path = tmp_path / "changed.pt2"
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"is no exported program that torch .* reads: BadZipFile: Bad CRC"):
        load_program(path)
    entries = entries_of(program)
    (sample,) = (name for name in entries if "sample_inputs" in name)
    del entries[sample]
    # What torch itself logs with its traceback, and then does not say.
    with pytest.raises(DataError, match=r"that torch .* reads: RuntimeError: PytorchStreamReader failed"):
        load_program(written(entries, tmp_path / "lacking.pt2"))
    assert not caplog.records
