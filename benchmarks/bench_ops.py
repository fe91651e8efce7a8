"""What an untied bias and an activation cost beside a bare convolution, and what others take for it.

    python benchmarks/bench_ops.py [--peers compile onnxruntime openvino jax ncnn] [--chain] [--markdown]
    python benchmarks/bench_ops.py --volumes [--contiguous]

Every layer forward (no gradient recorded) and as a training step (forward and all gradients), float32,
channels_last or contiguous, all ways in turn, freed memory kept. Figures are ratios, of lower fifths over 15
samples or more, to torch's convolution without a bias, which is given in milliseconds; of steps, to the same
network with a tied bias. A peer whose answer differs from float64's, or whose gradients differ from eager
mode's, is shown as wrong. Medians, and the peak memory of a step, are in `--json`.

Have the machine to yourself. Torch's threads are as many as cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from elsewhere import RUNTIMES
from peers import ACTIVATIONS, Layer, Ways, ways
from timing import awake, machine, milliseconds
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from convbias.study.memory import keep_freed

LAYERS = [
    Layer((64, 64), 3, (56, 56)),
    Layer((128, 128), 3, (28, 28)),
    Layer((256, 256), 3, (14, 14)),
    Layer((512, 512), 3, (7, 7)),
    Layer((512, 2048), 1, (7, 7)),
    Layer((64, 256), 1, (56, 56)),
    Layer((24, 144), 1, (56, 56)),
    Layer((144, 144), 3, (56, 56), groups=144),
    Layer((96, 96), 7, (56, 56), groups=96),
    Layer((3, 64), 7, (224, 224), stride=2),
    Layer((64, 64), 3, (181, 360)),
    Layer((8, 16), 3, (181, 360)),
    Layer((4, 8), 3, (721, 1440)),
    Layer((16, 32), 3, (16, 56, 56)),
]
# And rows, of which torch knows no channels_last.
VOLUMES = [
    Layer((16, 32), 3, (16, 56, 56)),
    Layer((32, 32), 3, (32, 32, 32)),
    Layer((64, 64), 3, (16, 28, 28)),
    Layer((128, 128), 3, (8, 14, 14)),
    Layer((256, 256), 3, (4, 7, 7)),
    Layer((32, 32), 3, (4096,)),
    Layer((64, 64), 3, (4096,)),
    Layer((128, 128), 3, (1024,)),
    Layer((256, 256), 3, (512,)),
]


# Without an untied bias.
BASES = ("bare", "eager tied")


def measure(layer: Layer, batch: int, given: argparse.Namespace) -> dict[str, Any]:
    """One layer: what each way takes, forward and for a step, and who is wrong."""
    found = ways(
        layer, batch, given.device, given.activation, set(given.peers), given.chain, given.contiguous
    )
    with torch.no_grad():
        wrong = [name for name, run in {**found.runs, **found.served}.items() if not _right(name, run, found)]
        forward = milliseconds({**found.runs, **found.served}, given.samples, given.device)
    for served in found.served.values():
        served.close()
    upstream = torch.randn_like(found.runs["bare"]())

    def step(name: str) -> Any:
        run = found.runs[name]
        return lambda: torch.autograd.grad(run(), found.leaves, upstream, allow_unused=True)

    steps = {name: step(name) for name in found.runs}
    if not given.forward:
        wanted = steps["eager"]()
        wrong += [name for name, run in steps.items() if name not in BASES and not _alike(run(), wanted)]
    return {
        "layer": str(layer),
        "batch": batch,
        "forward": forward,
        "step": milliseconds(steps, given.samples // 2 + 1, given.device) if not given.forward else {},
        "peak MiB": {name: _peak(run) for name, run in steps.items()} if given.device == "cpu" else {},
        "wrong": wrong,
    }


def _right(name: str, run: Any, found: Ways) -> bool:
    """Whether the first answer is right, and stays what it was while the network is called again."""
    if name in BASES:
        return True
    first = run()
    for _ in range(3):
        run()
    answer = first if isinstance(first, Tensor) else torch.from_numpy(first)
    return torch.allclose(answer[[0, -1]].double(), found.answer, rtol=1e-3, atol=1e-3)


def _alike(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> bool:
    """Whether gradients are the same, but for a few numbers at the kink of an activation."""
    pairs = zip(*([g for g in all_ if g is not None] for all_ in (found, wanted)), strict=True)
    return all(bool((a - b).norm() <= 1e-2 * b.norm()) for a, b in pairs)


def _peak(run: Any) -> float:
    """The largest sum of torch's allocations at once, above what is there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    now = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return round(peak / 2**20, 1)


def rows(results: list[dict[str, Any]], kind: str, base: str) -> list[list[str]]:
    # ncnn does not run every layer.
    names = [name for name in dict.fromkeys(name for row in results for name in row[kind]) if name != base]
    table = [["layer", "N", f"{base}, ms", *names]]
    for row in results:
        times = row[kind]
        cells = [f"{times[base][0]:.2f}"]
        for name in names:
            ratio = f"{times[name][0] / times[base][0]:.2f}" if name in times else ""
            cells.append(f"{ratio} wrong" if name in row["wrong"] else ratio)
        table.append([row["layer"], str(row["batch"]), *cells])
    for batch in sorted({row["batch"] for row in results}):
        of_batch = [row for row in results if row["batch"] == batch]
        ratios = [
            [row[kind][name][0] / row[kind][base][0] for row in of_batch if name in row[kind]]
            for name in names
        ]
        # Of those that run every layer.
        complete = [len(r) == len(of_batch) for r in ratios]
        means = [
            f"{math.exp(sum(map(math.log, r)) / len(r)):.2f}" if all_ else ""
            for r, all_ in zip(ratios, complete, strict=True)
        ]
        table.append(["geometric mean", str(batch), "", *means])
    return table


def written(table: list[list[str]], markdown: bool) -> str:
    if markdown:
        head, *body = (f"| {' | '.join(row)} |" for row in table)
        return "\n".join([head, "|" + "---|" * len(table[0]), *body])
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table)


def parser_of(description: str, samples: int, peers: Sequence[str]) -> argparse.ArgumentParser:
    """With the words that both benchmarks take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", nargs="*", choices=peers, default=[])
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser


def begun(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for, with torch set up for it."""
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    return given


def save(path: Path | None, head: str, results: list[dict[str, Any]]) -> None:
    if path:
        path.write_text(json.dumps({"machine": head, "rows": results}, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = parser_of(str(__doc__), 15, ["compile", "max-autotune", *RUNTIMES])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--activation", choices=ACTIVATIONS, default="relu")
    parser.add_argument("--layers", default="", help="those whose name contains this")
    parser.add_argument("--chain", action="store_true", help="with a 1×1 convolution behind, which reads it")
    parser.add_argument("--volumes", action="store_true", help="layers of volumes and of rows")
    parser.add_argument("--contiguous", action="store_true", help="tensors in torch's default layout")
    parser.add_argument("--forward", action="store_true", help="no training steps")
    given = begun(parser)
    layers = VOLUMES if given.volumes else LAYERS
    if not any(given.layers in str(layer) for layer in layers):
        parser.error(f"--layers {given.layers!r}: must be a part of a name, such as {layers[0]}")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: this torch finds no such device")
    head = machine(given.device, given.threads, keep_freed())
    results = []
    with awake():
        for layer in layers:
            for batch in given.batch if given.layers in str(layer) else []:
                results.append(measure(layer, batch, given))
                print(".", end="", flush=True)
    print(f"\n{head}\n\nforward\n\n{written(rows(results, 'forward', 'bare'), given.markdown)}")
    if not given.forward:
        print(f"\ntraining step\n\n{written(rows(results, 'step', 'eager tied'), given.markdown)}")
    save(given.json, head, results)


if __name__ == "__main__":
    main()
