"""Break one line of the folding at a time, and see that a test fails: make mutants

Prints a line for each; exits 1 where one survives, or where the line to break is no longer there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    *("affine", "folding", "folding_choice", "folding_random", "verifying", "folding_archive"),
    *("cli_folding", "kept"),
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
    ("folding/channels.py", 'words.get("dim", 0) % rank == 1', 'words.get("dim", 0) in (1, -3)'),
    ("folding/channels.py", "*_cut(under, last, total)", "*_cut(under, first, total)"),
    ("folding/channels.py", 'node.meta["val"].narrow(1, 0, first - len(channels))', 'node.meta["val"]'),
    ("folding/layouts.py", "field[places.flatten()] = full", "field[:] = full"),
    ("folding/activations.py", "least, most = bounds[0] + spread,", "least, most = bounds[0] + 0 * spread,"),
    ("folding/activations.py", "                    through_max_pool(scale)\n", "                    pass\n"),
    ("folding/merging.py", "if branch is not base and branches.count(branch) > 1:", "if False:"),
    ("folding/merging.py", "factor * SIGNS[node.target] * alpha", "factor * SIGNS[node.target]"),
    ("folding/merging.py", "factor * SIGNS[node.target] * alpha", "SIGNS[node.target] * alpha"),
    ("folding/rewrite.py", "rest <= ROUNDING * torch.finfo(dtype).eps * size", "rest <= 1e-2 * size"),
    ("folding/rewrite.py", "len(source.users) > 1", "False"),
    ("folding/rewrite.py", "            node.target = aten.reshape.default\n", "            pass\n"),
    ("folding/rewrite.py", "low <= size <= high for", "True for"),
    ("folding/costs.py", "target.calls[1 if plain else 2]", "target.calls[1]"),
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
        "        _again(call, copy, copies[0], examples, limit) for",
        "        _again(call, call, call, examples, limit) for",
    ),
    ("verifying/check.py", "return randomised(a), b", "return a, b"),
    ("verifying/check.py", "return randomised(a), randomised(b)", "return randomised(a), b"),
    ("verifying/check.py", "computed <= torch.finfo(torch.float64).eps", "True"),
    ("verifying/sizes.py", "max(map(math.prod, sizes)) <= most and ", ""),
    ("verifying/sizes.py", "APART * axis", "0 * axis"),
    ("verifying/verdict.py", "if a.dim() > 2 else size.max()", "if False else size.max()"),
    ("verifying/verdict.py", "largest = torch.maximum(largest, least)", "pass"),
    ("nn/kept.py", "            and self.states == tuple(map(_state, tensors))\n", ""),
    ("nn/kept.py", ", _Steps.taken", ", 0"),
]


def main() -> int:
    """Try them all, in a copy of the checkout."""
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "convbias"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv*", ".git", ".hypothesis", "*cache*"))
        words = [sys.executable, "-m", "pytest", "-q", "-x", *(f"tests/test_{name}.py" for name in TESTS)]
        environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
        for name, old, new in MUTANTS:
            path = copy / "src" / "convbias" / name
            text = path.read_text("utf-8")
            if text.count(old) < 1:
                print(f"GONE      {name}: {old.strip()!r}", flush=True)
                survived += 1
                continue
            path.write_text(text.replace(old, new, 1), "utf-8")
            ran = subprocess.run(
                words, cwd=copy, env=environment, capture_output=True, text=True, check=False
            )
            failed = next(
                (line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), ""
            )
            survived += ran.returncode != 1
            print(
                f"{'killed   ' if ran.returncode == 1 else 'SURVIVED '} {name}: {old.strip()!r}  {failed}",
                flush=True,
            )
            path.write_text(text, "utf-8")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
