"""Whole networks: as they are, folded for convbias's kernels, and by other runtimes.

    python benchmarks/bench_networks.py [--peers compile onnxruntime openvino] [--markdown] [--json FILE]

Inference, float32, channels_last, all ways in turn. Figures are ratios, of lower fifths over the samples, to
the network in eager mode, which is given in milliseconds. `convbias` is
`fold(network, x, target="convbias")`, or where nothing can be folded `retie(network, "tied", x)`; `untied` is
the same network with an untied bias in every convolution. A peer whose answer differs from float64's is shown
as wrong. The last column says where convbias's time goes. With `--training` steps are measured too, forward
and all parameters' gradients, of `retie(network, "tied", x)` and `retie(network, "untied", x)`.

Have the machine to yourself.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import Counter
from functools import partial
from typing import Any

import torch
from bench_ops import begun, parser_of, rows, save, written
from elsewhere import Elsewhere, installed
from networks import NETWORKS, made
from peers import as_onnx
from timing import awake, machine, milliseconds
from torch import Tensor, nn

import convbias
from convbias.study.memory import keep_freed

TIMES = 5


def ours(network: nn.Module, x: Tensor) -> nn.Module:
    """The network with convbias's layers, normalisations and activations inside where that can be."""
    folded = convbias.fold(network, x, target="convbias")
    return folded.model if folded.report.folded else convbias.retie(network, "tied", x).model


def shares(network: nn.Module, x: Tensor) -> str:
    """Which convolutions take what part of the time."""
    order = [route.convolution for route in convbias.explain_route(network, x)] * TIMES
    taken: Counter[str] = Counter()
    begun: list[float] = []

    def before(*_: Any) -> None:
        begun.append(time.perf_counter())

    def after(*_: Any) -> None:
        taken[order[len(begun) - 1]] += time.perf_counter() - begun[-1]

    layers = [layer for layer in network.modules() if isinstance(layer, convbias.Conv2d)]
    handles = [handle for layer in layers for handle in _hooked(layer, before, after)]
    start = time.perf_counter()
    for _ in range(TIMES):
        network(x)
    whole = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    told = [f"{way} {seconds / whole:.0%}" for way, seconds in taken.most_common()]
    return ", ".join([*told, f"else {1 - sum(taken.values()) / whole:.0%}"])


def _hooked(layer: nn.Module, before: Any, after: Any) -> list[Any]:
    return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]


def measure(name: str, batch: int, given: argparse.Namespace) -> dict[str, Any]:
    """One network: what each way takes, and who is wrong."""
    network, sample = made(name)
    x = torch.randn(batch, *sample).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(network).double()(x[:1].double())
    own = ours(network, x)
    models = {"eager": network, "convbias": own, "untied": convbias.retie(own, "untied", x).model}
    if "compile" in given.peers:
        models |= {"compile": torch.compile(network), "convbias compiled": torch.compile(own)}
    runs: dict[str, Any] = {key: lambda model=model: model(x) for key, model in models.items()}
    served: dict[str, Elsewhere] = {}
    if wanted := installed({"onnxruntime", "openvino"}.intersection(given.peers)):
        image = x.contiguous()
        file = {"onnx": as_onnx(copy.deepcopy(network).to(memory_format=torch.contiguous_format), image)}  # pyright: ignore
        served = {key: Elsewhere(key, {**file, "x": image.numpy()}, given.threads) for key in wanted}
    wrong = [key for key, run in {**runs, **served}.items() if not _right(run, exact)]
    found = milliseconds({**runs, **served}, given.samples)
    for one in served.values():
        one.close()
    told = {"forward": found, "wrong": wrong, "shares": shares(own, x)}
    if given.training:
        told["step"] = milliseconds(steps(network, x, given.peers), given.samples // 2 + 1)
    return {"layer": name, "batch": batch, **told}


def steps(network: nn.Module, x: Tensor, peers: list[str]) -> dict[str, Any]:
    """Training steps of the network as it is and with other biases."""
    models = {
        "eager": network,
        "convbias": convbias.retie(network, "tied", x).model,
        "untied": convbias.retie(network, "untied", x).model,
    }
    models = {key: copy.deepcopy(model).train() for key, model in models.items()}
    if "compile" in peers:
        models["compile"] = torch.compile(copy.deepcopy(network).train())

    @torch.enable_grad()
    def step(model: Any) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        torch.autograd.grad(model(x).square().mean(), parameters)

    return {key: partial(step, model) for key, model in models.items()}


def _right(run: Any, exact: Tensor) -> bool:
    for _ in range(3):
        answer = torch.as_tensor(run())[:1].double()
    return bool((answer - exact).abs().max() <= 1e-3 * exact.abs().max())


def main() -> None:
    parser = parser_of(str(__doc__), 11, ["compile", "onnxruntime", "openvino"])
    parser.add_argument("--training", action="store_true", help="training steps too")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    given = begun(parser)
    head = machine("cpu", given.threads, keep_freed())
    results = []
    with awake(), torch.no_grad():
        for name in given.networks:
            for batch in given.batch:
                results.append(measure(name, batch, given))
                print(".", end="", flush=True)
    table = rows(results, "forward", "eager")
    for line, more in zip(table, ["time of convbias", *(row["shares"] for row in results)], strict=False):
        line.append(more)
    for line in table[len(results) + 1 :]:
        line.append("")
    print(f"\n{head}\n\n{written(table, given.markdown)}")
    if given.training:
        print(f"\ntraining step\n\n{written(rows(results, 'step', 'eager'), given.markdown)}")
    save(given.json, head, results)


if __name__ == "__main__":
    main()
