"""What an untied bias and ReLU cost beside a bare convolution: python benchmarks/bench_ops.py [--json]

Every layer is timed forward (without gradients) and as a training step (forward and all gradients), float32,
channels_last; all ways of one layer in turn, A B C … C B A, so that what disturbs the machine disturbs all.
Times are medians in milliseconds; ratios are to `F.conv2d` without a bias, of steps to its own step. A
way whose answer differs from float64's is shown as wrong.

    eager tied     F.relu(F.conv2d(x, w, b))
    eager untied   F.relu(F.conv2d(x, w) + b), b of one sample's shape
    convbias       convbias.functional.conv2d(x, w, b, activation="relu"), the same b
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

import convbias

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Layer:
    channels: tuple[int, int]
    kernel: int
    size: tuple[int, int]
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        kind = "depthwise " if self.groups > 1 else ""
        size = "×".join(map(str, self.size))
        return f"{kind}{self.kernel}×{self.kernel} {self.channels[0]}→{self.channels[1]} @{size}"


LAYERS = [
    Layer((64, 64), 3, (56, 56)),
    Layer((128, 128), 3, (28, 28)),
    Layer((256, 256), 3, (14, 14)),
    Layer((512, 512), 3, (7, 7)),
    Layer((64, 256), 1, (56, 56)),
    Layer((24, 144), 1, (56, 56)),
    Layer((144, 144), 3, (56, 56), groups=144),
    Layer((96, 96), 7, (56, 56), groups=96),
    Layer((3, 64), 7, (224, 224), stride=2),
    Layer((8, 16), 3, (181, 360)),
]


def ways(layer: Layer, batch: int, device: str) -> tuple[list[Tensor], dict[str, Run], Tensor]:
    """The leaves, each way of the layer, and the answer of those with an untied bias."""
    form = torch.channels_last
    into, out = layer.channels
    x = torch.randn(batch, into, *layer.size, device=device).to(memory_format=form)
    w = torch.randn(out, into // layer.groups, layer.kernel, layer.kernel, device=device)
    w = (w / w[0].numel() ** 0.5).to(memory_format=form)
    where = (layer.stride, layer.kernel // 2, 1, layer.groups)
    with torch.no_grad():
        b = torch.randn_like(F.conv2d(x[:1], w, None, *where)[0]).contiguous()
        bare = F.conv2d(x[:1].double(), w.double(), None, *where)
    tied = torch.randn(out, device=device)
    leaves = [t.requires_grad_() for t in (x, w, b, tied)]
    return (
        leaves,
        {
            "bare": lambda: F.conv2d(x, w, None, *where),
            "eager tied": lambda: F.relu(F.conv2d(x, w, tied, *where)),
            "eager untied": lambda: F.relu(F.conv2d(x, w, None, *where) + b),
            "convbias": lambda: convbias.functional.conv2d(x, w, b, *where, activation="relu"),
        },
        F.relu(bare + b.detach().double()),
    )


def medians(runs: dict[str, Run], samples: int, device: str) -> dict[str, float]:
    """Milliseconds of each, one after another and back again."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for sample in range(samples):
        for name in list(runs) if sample % 2 else reversed(runs):
            runs[name]()
            _wait(device)
            start = time.perf_counter()
            runs[name]()
            _wait(device)
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def measure(layer: Layer, batch: int, samples: int, device: str) -> dict[str, object]:
    leaves, runs, answer = ways(layer, batch, device)
    upstream = torch.randn_like(runs["bare"]())

    def step(run: Run) -> Run:
        return lambda: torch.autograd.grad(run(), leaves, upstream, allow_unused=True)[1]

    with torch.no_grad():
        wrong = [
            name
            for name in ("eager untied", "convbias")
            if not torch.allclose(runs[name]()[:1].double(), answer, rtol=1e-3, atol=1e-3)
        ]
        forward = medians(runs, samples, device)
    steps = medians({name: step(run) for name, run in runs.items()}, samples, device)
    return {"layer": str(layer), "batch": batch, "forward": forward, "step": steps, "wrong": wrong}


def show(row: dict[str, dict[str, float]]) -> str:
    cells = [f"{row['layer']!s:28} {row['batch']!s:>2}"]
    for kind in ("forward", "step"):
        times = row[kind]
        cells.append(f"{times['bare']:8.2f}")
        cells += [f"{times[name] / times['bare']:6.2f}" for name in times if name != "bare"]
    return "  ".join(cells) + "".join(f"  {name} WRONG" for name in row["wrong"])


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--device", default="cpu")
    given.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    given.add_argument("--samples", type=int, default=9)
    given.add_argument("--threads", type=int, default=os.cpu_count())
    given.add_argument("--json", action="store_true")
    chosen = given.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    head = f"torch {torch.__version__}, {platform.machine()}, {chosen.device}, {chosen.threads} threads"
    rows = []
    if not chosen.json:
        print(head)
        names = "      bare    tied  untied  convbias"
        print(f"{'layer':28}  N{names:>34}{names:>36}   (forward; step)")
    for layer in LAYERS:
        for batch in chosen.batch:
            rows.append(measure(layer, batch, chosen.samples, chosen.device))
            if not chosen.json:
                print(show(rows[-1]), flush=True)
    if chosen.json:
        print(json.dumps({"machine": head, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
