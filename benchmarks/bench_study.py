"""Training the study's own networks: an epoch with convbias's layers beside one with torch.nn's.

    python benchmarks/bench_study.py [--markdown] [--json FILE]

Random images of the sizes of the built-in digits, of MNIST and of a forecast's field, in batches as there.
Figures are ratios, of lower fifths over the samples, to the network with torch.nn.Conv2d, tied, as it is
made, whose epoch is given in milliseconds. `last` is a network in channels_last, as the study trains its own
on a CPU. First as glibc treats freed memory, then (`kept`) as the study has it: kept for the next step.

Have the machine to yourself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from bench_ops import begun, parser_of, rows, save, written
from timing import awake, machine, milliseconds
from torch import nn
from torch.nn import functional as F

import convbias
from convbias.study.memory import keep_freed
from convbias.study.models import Shape, in_channels_last, small


class Data(NamedTuple):
    """Images as they come in an epoch, and in batches of how many."""

    name: str
    shape: Shape
    samples: int
    batch: int


DATA = (
    Data("digits", Shape((1, 8, 8), 10), 640, 64),
    Data("MNIST", Shape((1, 28, 28), 10), 640, 128),
    Data("a field of 33×49", Shape((4, 33, 49), 1, dense=True), 128, 32),
)
TYINGS = ("tied", "untied")


def epoch(network: nn.Module, data: Data) -> Any:
    """A function that trains ``network`` for one."""
    x = torch.randn(data.samples, *data.shape.inputs)
    dense = data.shape.dense
    y = torch.randn_like(network(x)) if dense else torch.randint(data.shape.outputs, (len(x),))
    loss = F.mse_loss if dense else F.cross_entropy
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def run() -> None:
        for inputs, targets in zip(x.split(data.batch), y.split(data.batch), strict=True):
            optimizer.zero_grad()
            loss(network(inputs), targets).backward()
            optimizer.step()

    return run


def measure(data: Data, samples: int, name: str) -> dict[str, Any]:
    """One network on one kind of data, each way."""
    runs = dict[str, Any]()
    for word, make in (("", small), (" last", in_channels_last(small))):
        runs[f"torch.nn{word}"] = epoch(make(data.shape), data)
        for tying in TYINGS:
            example = torch.randn(2, *data.shape.inputs)
            runs[f"{tying}{word}"] = epoch(convbias.retie(make(data.shape), tying, example).model, data)
    return {"layer": name, "batch": data.batch, "epoch": milliseconds(runs, samples), "wrong": []}


def main() -> None:
    parser = parser_of(str(__doc__), 11, [])
    given = begun(parser)
    head = machine("cpu", given.threads)
    results = []
    with awake():
        for kept in (False, True):
            if kept and not keep_freed():
                print("another allocator than glibc's, or MALLOC_… is set: no memory is kept")
                break
            for data in DATA:
                results.append(measure(data, given.samples, data.name + ", kept" * kept))
                print(".", end="", flush=True)
    print(f"\n{head}\n\n{written(rows(results, 'epoch', 'torch.nn'), given.markdown)}")
    save(given.json, head, results)


if __name__ == "__main__":
    main()
