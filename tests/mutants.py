"""Break one line at a time, of the folding and of what runs layers, and see that a test fails: make mutants

Prints a line for each; exits 1 where one survives, or where the line to break is no longer there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDING = (
    *("affine", "folding", "folding_choice", "folding_random", "verifying", "folding_archive"),
    "cli_folding",
)
RUNNING = (
    *("few", "trained", "volumes", "kept", "chained", "functional", "geometry", "into", "layout"),
    *("derivatives", "ways", "ways_of_volumes", "kernels"),
)
# File, what stands there, and what is put in its place.
MUTANTS = [
    ("affine/conv.py", "shared if self.geometry.covers else Field(tap=taps)", "shared"),
    ("affine/conv.py", "shared if self.geometry.covers else Field(tap=taps)", "Field(tap=taps)"),
    ("affine/conv.py", "return self.linear(full[None])[0]", "return 1.01 * self.linear(full[None])[0]"),
    ("affine/laws.py", " + inside.mapped(torch.neg, conv.out_channels)", ""),
    ("affine/laws.py", "inside.mapped(torch.neg, conv.out_channels)", "inside"),
    ("affine/laws.py", 'pads=both, padding_mode="zeros"', "pads=both"),
    ("affine/laws.py", "(a + c, b + d) for (a, b), (c, d)", "(c, d) for (a, b), (c, d)"),
    (
        "affine/laws.py",
        "    bias = conv.settled\n    if bias.tap is not None:",
        "    bias = conv.bias\n    if False:",
    ),
    ("affine/laws.py", "tied(picked, conv.geometry.dims)", "Field()"),
    ("affine/laws.py", "bias = bias.mapped(lambda p: p *", "bias.mapped(lambda p: p *"),
    (
        "affine/compose.py",
        "second.bias + second.through(shift, between)",
        "second.bias + Field(maps=second.through(shift, between).maps)",
    ),
    ("affine/parallel.py", "bias = conv.settled\n", "bias = conv.bias\n"),
    ("affine/parallel.py", "pads=tuple((p - a, q - b)", "pads=tuple((p, q)"),
    ("affine/parallel.py", "if any((a and p) or (b and q) or", "if any("),
    ("affine/parallel.py", "(b and q) or (repeats", "(repeats"),
    ("affine/parallel.py", " or (repeats and (a or b) and (p or q))", ""),
    ("affine/parallel.py", "reads[-1] + b}", "reads[-1]}"),
    (
        "folding/borders.py",
        "pairs[axis - 2] = first, length - last",
        "pairs[axis - 2] = length - last, first",
    ),
    ("folding/borders.py", 'words.get("step", 1) != 1', "False"),
    ("folding/borders.py", "ensure(LAW, network.other_sizes, holds)", "pass"),
    ("folding/picking.py", "ensure(LAW, network.other_sizes, holds)", "pass"),
    ("folding/sizes.py", "inside and _keeps({symbol: number}, own)", "inside"),
    ("folding/sizes.py", "larger = (example * times for times in TIMES)", "larger = ()"),
    (
        "folding/merging.py",
        "        if read_elsewhere(network, taken.gone, gone or sums):\n",
        "        if False:\n",
    ),
    ("folding/merging.py", "            rest.remove((branch.end, branch.factor))\n", "            pass\n"),
    ("folding/merging.py", "itertools.combinations(some, 2) if len(some) > 2 else ()", "()"),
    ("folding/merging.py", "if law.name not in network.forbidden and law", "if law"),
    (
        "folding/picking.py",
        "weight[range(len(scale)), taken] = scale",
        "weight[range(len(scale)), taken] = 1",
    ),
    ("folding/picking.py", "shift = Field(maps=(narrowed(nothing[0]),))", "shift = Field()"),
    ("folding/picking.py", "        if beside or not", "        if not"),
    ("folding/picking.py", "(expected - found).abs().max() <= ROUNDING", "0 <= ROUNDING"),
    ("folding/spelling.py", " or {*sizes} != {*known.shape}", ""),
    ("folding/spelling.py", "[] if axes[0] == filter else", "[] if True else"),
    ("folding/costs.py", "aten.alias.default, aten.slice.Tensor, aten.select.int", "aten.alias.default"),
    ("folding/channels.py", 'given(node).get("dim", 0) % rank == 1', 'given(node).get("dim", 0) in (1, -3)'),
    ("folding/channels.py", "*_cut(under, last, total)", "*_cut(under, first, total)"),
    ("folding/channels.py", 'node.meta["val"].narrow(1, 0, first - len(channels))', 'node.meta["val"]'),
    ("folding/layouts.py", "field[places.flatten()] = constant", "field[:] = full"),
    ("folding/activations.py", "(bound + floor).reshape", "(bound + 0 * floor).reshape"),
    ("folding/activations.py", "                    through_max_pool(scale)\n", "                    pass\n"),
    ("folding/merging.py", "end is not base and [end for end, _ in terms].count(end) > 1", "False"),
    ("folding/merging.py", "factor * SIGNS[node.target] * alpha", "factor * SIGNS[node.target]"),
    ("folding/merging.py", "factor * SIGNS[node.target] * alpha", "SIGNS[node.target] * alpha"),
    ("folding/rewrite.py", "* conv.bias.power.sqrt()", "* conv.bias.power.sqrt().max()"),
    ("folding/rewrite.py", "rest <= rounding", "rest <= 0"),
    ("folding/rewrite.py", "len(source.users) > 1", "False"),
    ("folding/rewrite.py", "            node.target = aten.reshape.default\n", "            pass\n"),
    ("folding/rewrite.py", "low <= size <= high for", "True for"),
    ("folding/chains.py", "if any(user not in members for user in node.users)", "if node is run[-1]"),
    ("ops/chain.py", "over in read - {self.of[link.input]}", "over in read"),
    ("ops/chain.py", 'link.convolution.way in ("pointwise", "gathered")', "True"),
    ("ops/chain.py", "if n is not None and last[n] == i", "if n is not None"),
    ("ops/chain.py", "read -= {self.of[inputs + i]}", "read -= set()"),
    ("ops/chain.py", "and over >= self._first", ""),
    ("ops/chain.py", "max(size, self.sizes[place - self._first])", "self.sizes[place - self._first]"),
    ("nn/chained.py", "watched() or _any_hook_everywhere()", "watched()"),
    ("nn/chained.py", "not None or watched() or", "not None or"),
    ("nn/chained.py", ' or any("forward" in of for of in own)', ""),
    ("nn/chained.py", '"weight" not in own or', ""),
    ("nn/chained.py", "residual.dtype != input.dtype", "False"),
    ("nn/chained.py", "or not may_write(tensors)", "or False"),
    ("nn/chained.py", "                    del values[later]\n", "                    pass\n"),
    ("nn/chained.py", " or any(_flat(map(_hooks_of, own)))", ""),
    ("nn/chained.py", "n in behind or n in self.wanted", "n in self.wanted"),
    ("nn/chained.py", '"padding_mode", ', ""),
    ("nn/chained.py", ', "activation", "tying"', ', "tying"'),
    ("nn/chained.py", "if recorded((*given, *tensors)) or", "if recorded(given) or"),
    ("folding/rewrite.py", "_alike(called, other) and _alike(other, user)", "True"),
    (
        "folding/rewrite.py",
        "user.target is aten.add.Tensor and not user.kwargs",
        "user.target is aten.add.Tensor",
    ),
    ("folding/rewrite.py", "isinstance(layer, ConvNd) and layer.activation", "False"),
    (
        "folding/rewrite.py",
        "    return next(iter(node.users)) if len(node.users) == 1",
        "    return next(iter(node.users)) if 1",
    ),
    (
        "folding/kernels.py",
        "not single or small(given, tuple(conv.weight.shape), conv.groups):\n        return False",
        "not single:\n        return False",
    ),
    ("folding/spelling.py", "        _size(node)\n", ""),
    ("folding/spelling.py", "_permuted(made, other, cast(list[int], order))", "other"),
    ("folding/merging.py", "factor == 1 else aten.sub.Tensor", "True else aten.sub.Tensor"),
    (
        "affine/parallel.py",
        "for one in surplus if input_size}) > 1",
        "for one in surplus if input_size}) > 9",
    ),
    ("folding/costs.py", "target.calls[1 if plain else 2]", "target.calls[1]"),
    ("folding/costs.py", "and not node.users.keys() - {*gone, *found}", "and False"),
    ("folding/costs.py", "not node.users.keys() - {*gone, *found}", "True"),
    ("folding/costs.py", "PREPARED, WITHOUT = 4, 20480", "PREPARED, WITHOUT = 0, 20480"),
    ("folding/costs.py", "PREPARED, WITHOUT = 4, 20480", "PREPARED, WITHOUT = 4, 0"),
    ("folding/costs.py", "JOINING = 1.5", "JOINING = 1"),
    ("folding/costs.py", "DENSE, DEPTHWISE = 6.0, 0.4", "DENSE, DEPTHWISE = 6.0, 6.0"),
    ("folding/graph.py", "        network.padded.add(node)\n", "        network.changed.add(node)\n"),
    ("folding/driver.py", "    if apart > ROUNDING:", "    if False:"),
    ("folding/driver.py", "        if others:\n", "        if False:\n"),
    ("folding/driver.py", "if not forced and not after.price < before.price:", "if False:"),
    (
        "folding/elementwise.py",
        "a, b = torch.tensor(sign_first).double(), sign_second *",
        "a, b = torch.tensor(sign_first).double(), abs(sign_second) *",
    ),
    ("folding/archive.py", "        _check(path, entries)\n", ""),
    ("folding/contents.py", '    program["guards_code"] = []\n', ""),
    ("folding/contents.py", "kind not in STRUCTURES", "False"),
    ("folding/contents.py", "        yield key, part\n", "        yield '', part\n"),
    ("folding/expressions.py", "bits > MOST_BITS or terms > MOST_TERMS", "False"),
    ("folding/expressions.py", "or not 0 <= power <= LARGEST_POWER", "or power < 0"),
    ("verifying/verdict.py", "border, interior = max(border, _largest(ring)),", "border, interior = 0.0,"),
    (
        "verifying/check.py",
        "        _again(call, kept, copies[0], examples, tolerance) for",
        "        _again(call, call, call, examples, tolerance) for",
    ),
    ("verifying/check.py", "return randomised(a), b", "return a, b"),
    ("verifying/check.py", "return randomised(a), randomised(b)", "return randomised(a), b"),
    ("verifying/check.py", "computed <= torch.finfo(torch.float64).eps", "True"),
    ("verifying/sizes.py", "max(map(math.prod, sizes)) > most", "False"),
    ("verifying/sizes.py", "declared(sizes, axes) and takes(sizes)", "takes(sizes)"),
    ("verifying/sizes.py", "if found < MANY:", "if False:"),
    ("verifying/sizes.py", "for m in (n, n - 1)", "for m in (n - 1,)"),
    ("verifying/check.py", "max(one, min(other, stored))", "max(one, other)"),
    ("verifying/networks.py", "max(coarsest, _own_precision(made))", "_own_precision(made)"),
    ("verifying/networks.py", "with torch.random.fork_rng(devices=[])", "if True"),
    ("verifying/sizes.py", "APART * axis", "0 * axis"),
    ("verifying/verdict.py", "if a.dim() > 2 else size.max()", "if False else size.max()"),
    ("verifying/verdict.py", "largest = torch.maximum(largest, least)", "pass"),
    ("ops/epilogue.py", "len(call.input) == 1 and not saves", "len(call.input) == 1"),
    ("ops/epilogue.py", "len(call.input) == 1 and not saves", "not saves"),
    ("ops/epilogue.py", "choice.ALONE if alone else 1", "1"),
    ("ops/into.py", "torch.autograd.graph.increment_version(out)", "pass"),
    ("ops/into.py", "size > 1 and stride <= reach", "size > 1 and stride < 0"),
    ("ops/into.py", "tensor.storage_offset() * tensor.element_size()", "0"),
    ("ops/into.py", "some.start < others.stop and others.start < some.stop", "some.start == others.start"),
    ("ops/ways.py", "if out.stride() == last_strides(out.shape):", "if is_channels_last(out):"),
    ("ops/kept.py", "(same or not holding) and self.state == state_of(tensors)", "same or not holding"),
    ("ops/kept.py", "(same or not holding) and", ""),
    ("ops/kept.py", "if k != key and v.holds(tensors, self._holding)", "if k != key"),
    ("ops/kept.py", "[-self.MOST :]", ""),
    ("ops/kept.py", "        if not all(map(lasting, tensors)):\n            return None\n", ""),
    ("ops/kept.py", "        return Passing, ()\n", "        return Passing, (self.value,)\n"),
    ("ops/kept.py", "isinstance(tensor, Parameter) or not tensor.is_floating_point()", "True"),
    ("ops/packing.py", "        return ways.pack(call, known)\n", "        return ways.pack(call)\n"),
    ("ops/ways.py", 'packed.way == plan.way != "direct" and', "packed.way == plan.way and"),
    ("ops/ways.py", 'packed.way == plan.way != "direct" and', 'packed.way != "direct" and'),
    ("ops/into.py", "    tell(call, out, added=True)\n", ""),
    ("ops/into.py", "        tell(call, out)\n", ""),
    ("ops/kept.py", ", _Steps.taken", ", 0"),
    ("ops/layout.py", "return x.shape, x.stride(), x.dtype, x.device", "return x.shape, x.dtype, x.device"),
    (
        "ops/layout.py",
        "return x.shape, x.stride(), x.dtype, x.device",
        "return x.shape, x.stride(), x.device",
    ),
    ("ops/layout.py", "return x.shape, x.stride(), x.dtype, x.device", "return x.shape, x.stride(), x.dtype"),
    ("ops/epilogue.py", "        saved = like_rows(saved, order)\n", "        pass\n"),
    ("ops/epilogue.py", "    if differentiable(gy):\n", "    if False:\n"),
    ("ops/training.py", "plan is None or differentiable(gy)", "plan is None"),
    ("ops/training.py", "wanted[0] and input is None", "False"),
    ("ops/training.py", "wanted[1] and weight is None", "False"),
    ("ops/training.py", "kernel[1] <= 3 and max(plan.shape.stride) > 1", "kernel[1] <= 3"),
    ("ops/training.py", "kernel[1] <= 3 and max(plan.shape.stride) > 1", "max(plan.shape.stride) > 1"),
    ("ops/training.py", "0 if of_gradients(plan) is None else", "0 if True else"),
    ("ops/own.py", "if not self._has_pass or (wanted[1] and gw is None):", "if not self._has_pass:"),
    (
        "ops/own.py",
        "is_field = gz is not None and gz is not gy and len(gy) == 1",
        "is_field = gz is not None",
    ),
    ("ops/own.py", "torch.empty_like(gy) if activation else gy", "torch.empty_like(gy)"),
    ("ops/route.py", "        if joined:\n", "        if False:\n"),
    ("ops/route.py", "call.bared if joined else call", "call"),
    ("ops/aten.py", "        alone.register_hook(torch.clone)\n", "        pass\n"),
    ("ops/own.py", "    if not depthwise:\n", "    if True:\n"),
    ("ops/followers.py", "_is_batched is None or _is_batched(gradient)", "False"),
    ("ops/trained.py", "if step.live else None", "if True else None"),
    ("ops/trained.py", "[summand.values.data_ptr() for summand in summands]", "[]"),
    ("ops/trained.py", "        call = call.bared if self.is_whole", "        call = call if self.is_whole"),
    ("ops/route.py", "._replace(input=_NONE, weight=_NONE, bias=())", ""),
    ("nn/convnd.py", "self.activation, self.output_size, chosen()", "self.activation, chosen()"),
    ("nn/convnd.py", "        self._forget()\n        return super()", "        return super()"),
    ("ops/few.py", "if not small(input, weight, groups) or", "if"),
    ("ops/few.py", " or tuple(weight[2:]) != geometry.kernel_size", ""),
    ("ops/few.py", "    check_size(input, weight, geometry, groups)\n", ""),
    ("ops/few.py", "math.prod(site.field_shape) >= choice.SMALL", "math.prod(site.field_shape) < 0"),
    ("ops/few.py", "if field is not None and", "if False and"),
    ("ops/few.py", "field if field.dtype is y.dtype else as_output(field, y)", "field"),
    ("ops/few.py", "bias[0] if self._tied else None", "None"),
    ("ops/few.py", "(maxsize=1024, typed=True)", "(maxsize=1024)"),
    ("ops/aten.py", "if not torch.can_cast(field.dtype, y.dtype):", "if False:"),
    ("nn/convnd.py", "self._computed or weight.numel() >= HEAVY", "self._computed"),
    ("nn/convnd.py", "self._computed or weight.numel() >= HEAVY", "weight.numel() >= HEAVY"),
    ("nn/convnd.py", "self.output_size in (None, few.output_size)", "True"),
    ("nn/convnd.py", "list(given) if isinstance(given, list) else given", "given"),
    ("nn/convnd.py", "        check_activation(self.activation)\n\n    def repack", "\n    def repack"),
    ("ops/route.py", '_watched.get() is None and chosen() != "native"', "_watched.get() is None"),
    ("ops/route.py", "torch.is_grad_enabled() or traced()", "torch.is_grad_enabled()"),
    ("ops/route.py", "if few and followed is None:", "if few:"),
    ("functional.py", "    with torch.inference_mode(False):\n", "    if True:\n"),
    ("ops/checks.py", "isinstance(groups, bool) or", ""),
    ("ops/call.py", "self.bias[0].dtype is not self.input.dtype", "False"),
    ("ops/training.py", " or call.is_mistyped", ""),
    ("ops/convolve.py", "    if call.is_mistyped:\n", "    if False:\n"),
    ("geometry.py", "padding, _brief(self.output_padding))", "padding, dilation)"),
    ("ops/trained.py", "None if plan is None or plan.weights_alone else plan", "plan"),
    ("ops/trained.py", "training.of_weights(call, call.weight.requires_grad)", "None"),
    ("ops/training.py", '    if plan.way == "winograd":\n', "    if False:\n"),
    ("ops/training.py", "_SAVES[not plan.shape.is_of_images]", "_SAVES[0]"),
    ("ops/own.py", "if stride[0] > 1 or", "if"),
    ("ops/own.py", "or (dilation[0] > 1 and kernel[0] > 1)", ""),
    ("ops/own.py", "of.kernel - 1 - of.before", "of.before"),
    ("ops/own.py", "if gx is not None and given is not input:", "if False:"),
    (
        "ops/own.py",
        "self.samples * self.slices.out * math.prod(self.out)",
        "self.samples * math.prod(self.out)",
    ),
    ("ops/own.py", "self.out[0] if self.kernel[0] == 1 else -(-", "-(-"),
    ("ops/ways.py", "    if not shape.is_of_images:\n", "    if False:\n"),
    ("ops/ways.py", "return recorded and shape.kernel[1] >= 5", "return False"),
    ("ops/ways.py", "return recorded and shape.kernel[1] >= 5", "return recorded"),
    ("ops/ways.py", "in_a_row and recorded and min(", "in_a_row and min("),
    ("ops/ways.py", "in_a_row and recorded and min(", "recorded and min("),
    ("ops/ways.py", "(32, 32) if rows == 1 else", "(16, 16) if rows == 1 else"),
    ("ops/native.py", "last_strides(y.shape) != first_strides(y.shape)", "last_strides(y.shape)"),
    ("ops/volumes.py", "    if weight.numel() > input.numel():\n        return None\n", ""),
    ("ops/convolve.py", "_TURNED * (", "("),
    ("ops/training.py", "    if volumes.is_slow(call):\n", "    if False:\n"),
    ("ops/training.py", "native.unread(call.tying) or native.absence()", "None"),
    ("ops/trained.py", "        if not self._is_slow_volume:\n", "        if True:\n"),
    ("ops/volumes.py", "None if batched(gz) else", ""),
    ("ops/volumes.py", "counted <= _FEW < countable", "False"),
    ("ops/volumes.py", "counted <= _FEW < countable", "_FEW < countable"),
    ("ops/volumes.py", "order.index(axis) for axis", "order[axis] for axis"),
    ("ops/volumes.py", "or groups != 1", ""),
    ("ops/volumes.py", "or min(weight.shape[-2:]) > 3", ""),
    ("ops/volumes.py", "as_torchs(_turned(g, back), input, call.weight)", "_turned(g, back)"),
    ("ops/followers.py", "        if tensor.is_neg():\n", "        if False:\n"),
    ("ops/followers.py", "        if type(tensor) not in _PLAIN:\n", "        if False:\n"),
    ("ops/followers.py", "if _modes() else transform()", "if False else transform()"),
    ("ops/settled.py", "self._convolve is not None and residual is None", "self._convolve is not None"),
    ("ops/layout.py", "    if form is torch.contiguous_format:\n", "    if True:\n"),
    (
        "ops/kept.py",
        "        memory = tuple(tensor.detach() for tensor in tensors)\n",
        "        memory = ()\n",
    ),
]


# An editable installation's finder stands before PYTHONPATH, in subprocesses too.
SITE = """import sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
"""


def survivors(folder: Path, mutants: list[tuple[str, str, str]], fault: Callable[[str], str | None]) -> int:
    """Break the files in ``folder`` one by one; how many times ``fault`` finds none, or the line is gone.

    It is given the name of the file that is broken, "" before one is.
    """
    if (found := fault("")) is not None:
        raise RuntimeError(f"before anything is broken: {found}")
    survived = 0
    for name, old, new in mutants:
        path = folder / name
        text = path.read_text("utf-8")
        found, verdict = "", "GONE"
        if old in text:
            path.write_text(text.replace(old, new, 1), "utf-8")
            found = fault(name)
            verdict = "SURVIVED" if found is None else "killed"
            path.write_text(text, "utf-8")
        survived += verdict != "killed"
        print(f"{verdict:9} {name}: {old.strip()!r} → {new.strip()!r}  {found or ''}", flush=True)
    return survived


def environment(copy: Path) -> dict[str, str]:
    """What makes Python import the copy, with the library that is built; RuntimeError where it does not."""
    (copy / "src" / "sitecustomize.py").write_text(SITE, "utf-8")
    variables = {**os.environ, "PYTHONPATH": str(copy / "src")}
    spec = importlib.util.find_spec("convbias.ops")
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / "libconvbias.so").is_file():
            variables["CONVBIAS_LIBRARY"] = str(Path(place) / "libconvbias.so")
    words = [sys.executable, "-c", "import convbias; print(convbias.__file__)"]
    told = subprocess.run(words, cwd=copy, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    if not Path(told.stdout.strip()).is_relative_to(copy):
        raise RuntimeError(f"{told.stdout.strip()} would be tested, not the copy in {copy}")
    return variables


def main() -> int:
    """Try them all, in a copy of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve() / "convbias"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".venv*", ".git", ".hypothesis", "*cache*", "build")
        )
        variables = environment(copy)

        def fault(name: str) -> str | None:
            # Those first that are about the file: the first that fails ends them.
            tests = (
                (*FOLDING, *RUNNING)
                if name.startswith(("affine", "folding", "verifying"))
                else (*RUNNING, *FOLDING)
            )
            words = [sys.executable, "-m", "pytest", "-q", "-x", *(f"tests/test_{test}.py" for test in tests)]
            ran = subprocess.run(words, cwd=copy, env=variables, capture_output=True, text=True, check=False)
            lines = ran.stdout.splitlines()
            failed = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")
            # A crash, below 0, is found too.
            return failed if ran.returncode == 1 or ran.returncode < 0 else None

        return int(survivors(copy / "src" / "convbias", MUTANTS, fault) > 0)


if __name__ == "__main__":
    sys.exit(main())
