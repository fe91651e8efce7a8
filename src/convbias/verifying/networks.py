"""Networks of every kind as functions of tensors: modules, exported programs and ONNX files."""

from __future__ import annotations

import copy
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard, final

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn import Module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import DataError, extra
from .inputs import example

# Tensors, and whatever else a module returns.
Named = dict[str, Any]
# The size of an axis of an image that a file leaves open.
OPEN = 64
DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(int16)": torch.int16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
}


class Network(ABC):
    """A function of tensors, with outputs by name: of a module, their place in what it returns. Abstract."""

    @abstractmethod
    def __call__(self, inputs: Sequence[Tensor]) -> Named:
        """The outputs."""

    @abstractmethod
    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise ValueError for inputs that it declares not to take."""

    @abstractmethod
    def measured(self, inputs: Sequence[Tensor]) -> tuple[Named, float]:
        """The outputs, and the precision of the coarsest numbers that they were made of."""

    @abstractmethod
    def copied(self) -> Network:
        """The same with a state of its own."""

    @abstractmethod
    def in_double(self) -> Network | None:
        """The same in float64, or None where it cannot be."""


@final
class Precision(TorchDispatchMode):
    """Notes, of what is computed within it, how precise the coarsest numbers are that it was made of."""

    def __init__(self) -> None:
        super().__init__()
        # By memory: writing into a part of a tensor makes all of it as coarse.
        self.known: dict[int, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        coarsest = max(map(self.of, pytree.tree_leaves((args, kwargs))), default=0.0)
        for made in pytree.tree_leaves(result):
            if _in_memory(made):
                self.known[made.untyped_storage().data_ptr()] = max(coarsest, _own_precision(made))
        return result

    def of(self, value: object) -> float:
        """The precision of the coarsest numbers that ``value`` was made of."""
        if not isinstance(value, Tensor):
            return 0.0
        known = self.known.get(value.untyped_storage().data_ptr(), 0.0) if _in_memory(value) else 0.0
        return max(_own_precision(value), known)


def _in_memory(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor with memory of its own; sparse ones have several."""
    return isinstance(value, Tensor) and value.layout == torch.strided


def _own_precision(value: Tensor) -> float:
    numbers = value.is_floating_point() or value.is_complex()
    return torch.finfo(value.dtype).eps if numbers else 0.0


@final
class ModuleNetwork(Network):
    """A module of torch, or an exported program's. What it draws at random is the same at every call."""

    def __init__(self, module: Module) -> None:
        self.module = module

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> Named:
        with torch.random.fork_rng(devices=[]):  # which gives back the generator as it was before
            # A module may work in place on what it is given.
            leaves, _ = pytree.tree_flatten_with_path(self.module(*(x.clone() for x in inputs)))
        return {f"output{pytree.keystr(place)}": _value(leaf) for place, leaf in leaves}

    def check(self, inputs: Sequence[Tensor]) -> None:
        """A module declares nothing."""

    def measured(self, inputs: Sequence[Tensor]) -> tuple[Named, float]:
        with Precision() as seen:
            outputs = self(inputs)
        return outputs, max(map(seen.of, outputs.values()), default=0.0)

    def copied(self) -> ModuleNetwork:
        try:
            with warnings.catch_warnings():
                # torch copies its own tree specs in a way that it warns of.
                warnings.simplefilter("ignore", FutureWarning)
                made = copy.deepcopy(self.module)
        except Exception:  # a module may refuse to be copied in any way
            return self
        if isinstance(self.module, GraphModule):  # whose copies forget what sizes they take
            made.register_forward_pre_hook(lambda _, inputs: self._check(inputs))
        return ModuleNetwork(made)

    def in_double(self) -> Network | None:
        tensors = (*self.module.parameters(), *self.module.buffers())
        made = self.copied()
        if made is self or any(tensor.is_complex() for tensor in tensors):
            return None  # Module.double leaves complex numbers as they are
        try:
            made.module.double()
        except Exception:  # nor need it be changed
            return None
        return made

    def _check(self, inputs: Any) -> None:
        """Raise what the module's hooks raise for ``inputs``."""
        for key, hook in self.module._forward_pre_hooks.items():
            named: Any = ({},) if key in self.module._forward_pre_hooks_with_kwargs else ()
            hook(self.module, inputs, *named)


@final
class OnnxNetwork(Network):
    """An ONNX file, or its content, run by ONNX Runtime on the CPU."""

    def __init__(self, model: Any) -> None:
        with extra("onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model.SerializeToString(),
            options,
            ["CPUExecutionProvider"],
        )
        # ONNX Runtime says the same of a single number and of what may have any rank.
        unclear = any(not given.shape for given in self.session.get_inputs())
        self.unranked = _unranked(model) if unclear else set[str]()

    def examples(self) -> list[Tensor]:
        """Inputs of the sizes that the file has; 2 for a batch and 64 elsewhere where it leaves them open.

        Raises ValueError where it leaves open how many axes there are.
        """
        for name in self.unranked:
            raise ValueError(f"model: its input {name} has no rank; say its size, as in --input 1,3,224,224")
        generator = torch.Generator().manual_seed(0)
        return [
            example(
                [
                    n if isinstance(n, int) else (2 if axis == 0 else OPEN)
                    for axis, n in enumerate(given.shape)
                ],
                self._dtype(given),
                generator,
            )
            for given in self.session.get_inputs()
        ]

    @staticmethod
    def _dtype(given: Any) -> torch.dtype:
        if given.type not in DTYPES:
            raise ValueError(
                f"model: its input {given.name} is a {given.type}; must be one of {', '.join(DTYPES)}"
            )
        return DTYPES[given.type]

    def axes(self) -> list[dict[int, object]]:
        """The axes of each input whose size the file leaves open."""
        return [
            {axis: n or Dim.AUTO for axis, n in enumerate(given.shape) if not isinstance(n, int)}
            for given in self.session.get_inputs()
        ]

    def check(self, inputs: Sequence[Tensor]) -> None:
        takes = self.session.get_inputs()
        names = [given.name for given in takes]
        if len(names) != len(inputs):
            raise ValueError(f"example_inputs: {len(inputs)} given, and the network has {names}")
        for i, (x, given) in enumerate(zip(inputs, takes, strict=True)):
            sizes = zip(x.shape, given.shape, strict=False)
            fits = x.dim() == len(given.shape) and all(n == m for n, m in sizes if isinstance(m, int))
            if not (fits or given.name in self.unranked) or x.dtype != self._dtype(given):
                raise ValueError(
                    f"example_inputs[{i}]={tuple(x.shape)}: is of {x.dtype}, and the file's {given.name} "
                    f"is a {given.type} of {given.shape}"
                )
        for out in self.session.get_outputs():
            if out.type == "tensor(bfloat16)":
                raise ValueError(
                    f"model: its output {out.name} is a {out.type}, of which numpy has no numbers; "
                    "cast it to float in the file"
                )

    def __call__(self, inputs: Sequence[Tensor]) -> Named:
        names = [given.name for given in self.session.get_inputs()]
        found: Any = self.session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        outputs = self.session.get_outputs()
        return {out.name: torch.from_numpy(y) for out, y in zip(outputs, found, strict=True)}

    def measured(self, inputs: Sequence[Tensor]) -> tuple[Named, float]:
        return self(inputs), torch.finfo(torch.float32).eps

    def copied(self) -> Network:
        return self

    def in_double(self) -> Network | None:
        return None


def _unranked(model: Any) -> set[str]:
    """The inputs of an ONNX file of which not even the number of axes is known."""
    with extra("onnx"):
        import onnx
    known: Any = onnx.load(str(model), load_external_data=False) if isinstance(model, Path) else model
    return {given.name for given in known.graph.input if not given.type.tensor_type.HasField("shape")}


def _value(leaf: Any) -> Any:
    """A tensor where the leaf of a module's output is a number."""
    return torch.as_tensor(leaf) if isinstance(leaf, (bool, int, float, complex)) else leaf


def network(model: Any) -> Network:
    """``model`` as a function of tensors.

    A module, an exported program, an ``onnx.ModelProto``, or a path to an ``.onnx`` file. Raises TypeError
    for anything else, and DataError for a file that cannot be read.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, Module):
        return ModuleNetwork(model)
    if isinstance(model, ExportedProgram):
        return ModuleNetwork(model.module(check_guards=False))
    if isinstance(model, (str, os.PathLike)):
        return _from_file(Path(model))
    if hasattr(model, "SerializeToString"):
        return OnnxNetwork(model)
    raise TypeError(f"model={type(model).__name__}: must be a module, an exported program or an ONNX model")


def _from_file(path: Path) -> Network:
    if path.suffix != ".onnx":
        raise DataError(path, "must be an .onnx file; load a .pt2 with convbias.folding.archive.load_program")
    if not path.is_file():
        raise DataError(path, "there is no such file")
    try:
        return OnnxNetwork(path)
    except ImportError:
        raise
    except Exception as error:  # ONNX Runtime's have no common class
        raise DataError(path, f"ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
