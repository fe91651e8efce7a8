"""Other runtimes, each in a process of its own: in one, the threads of one spin while another's work.

A peer that is not installed is left out. Each gets the same float32 numbers in its own layout.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[], Array]
# So long do threads of this process spin after their last work, and more.
QUIET = 0.02


class Elsewhere:
    """What ``runtime`` makes of ``given``, computed in another process when it is called."""

    def __init__(self, runtime: str, given: dict[str, Any], threads: int) -> None:
        # Here, for the other process reads this file too and is to do without torch.
        from convbias.study.memory import VARIABLES

        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # Of its freed memory too.
        os.environ |= VARIABLES
        self.process = context.Process(target=_serve, args=(theirs, runtime, given, threads), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self) -> Array:
        return self._ask("answer")

    def seconds(self, repeats: int) -> float:
        """How long so many calls take, after one that is not counted."""
        time.sleep(QUIET)
        return self._ask(repeats)

    def close(self) -> None:
        self.process.kill()
        self.process.join()

    def _ask(self, what: str | int) -> Any:
        self.pipe.send(what)
        answer = self.pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def _serve(pipe: Any, runtime: str, given: dict[str, Any], threads: int) -> None:
    try:
        run = RUNTIMES[runtime](given, threads)
    except Exception as error:  # whatever a runtime raises
        message = f"{runtime}: {type(error).__name__}: {error}"
        while pipe.recv():
            pipe.send(message)
    while True:
        asked = pipe.recv()
        if asked == "answer":
            pipe.send(np.array(run()))
            continue
        run()
        start = time.perf_counter()
        for _ in range(asked):
            run()
        pipe.send(time.perf_counter() - start)


def _onnxruntime(given: dict[str, Any], threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(given["onnx"], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: given["x"]}
    return lambda: session.run(None, feed)[0]


def _openvino(given: dict[str, Any], threads: int) -> Run:
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(core.read_model(given["onnx"]), "CPU", config).create_infer_request()
    request.set_input_tensor(openvino.Tensor(given["x"], shared_memory=True))

    def infer() -> Array:
        request.infer()
        return request.get_output_tensor().data

    return infer


def _jax(given: dict[str, Any], threads: int) -> Run:
    import jax

    layer = given["layer"]
    dims = given["x"].ndim - 2
    axes = "DHW"[3 - dims :]
    order, taps = f"N{axes}C", f"{axes}IO"
    x, bias = np.moveaxis(given["x"], 1, -1), np.moveaxis(given["bias"], 0, -1)
    w = np.moveaxis(given["weight"], (0, 1), (-1, -2))
    acts = {"relu": jax.nn.relu, "gelu": lambda z: jax.nn.gelu(z, approximate=False), "silu": jax.nn.silu}

    @jax.jit
    def run(x: Any, w: Any, b: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            x,
            w,
            (layer["stride"],) * dims,
            [(layer["padding"],) * 2] * dims,
            feature_group_count=layer["groups"],
            dimension_numbers=(order, taps, order),
        )
        return acts[layer["activation"]](y + b)

    placed = [jax.device_put(np.ascontiguousarray(a)) for a in (x, w, bias)]
    return lambda: np.moveaxis(np.asarray(run(*placed).block_until_ready()), -1, 1)  # without a copy


def _ncnn(given: dict[str, Any], threads: int) -> Run:
    import ncnn

    layer, weight, bias = given["layer"], given["weight"], given["bias"]
    out, _, rows, columns = given["weight"].shape
    h, w = bias.shape[1:]
    sizes = f"0={out} 1={columns} 11={rows} 3={layer['stride']} 4={layer['padding']} 6={weight.size}"
    if layer["activation"] != "relu" or layer["groups"] > 1 or len(given["x"]) > 1:
        raise ValueError("it is asked for dense layers with relu, one image at a time")
    lines = [
        "7767517",
        "5 5",
        "Input x 0 1 x",
        f"Convolution conv 1 1 x y {sizes}",
        f"MemoryData bias 0 1 b 0={w} 1={h} 2={out}",
        "BinaryOp add 2 1 y b z 0=0",
        "ReLU relu 1 1 z out",
    ]
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    with tempfile.TemporaryDirectory() as folder:
        described, numbers = Path(folder, "layer.param"), Path(folder, "layer.bin")
        described.write_text("\n".join(lines) + "\n", "utf-8")
        numbers.write_bytes(b"\0\0\0\0" + weight.tobytes() + bias.tobytes())
        net.load_param(str(described))
        net.load_model(str(numbers))
    image = ncnn.Mat(np.ascontiguousarray(given["x"][0]))

    def run() -> Array:
        extractor = net.create_extractor()
        extractor.input("x", image)
        return np.array(extractor.extract("out")[1])[None]

    return run


RUNTIMES: dict[str, Callable[[dict[str, Any], int], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "jax": _jax,
    "ncnn": _ncnn,
}


def installed(names: set[str]) -> list[str]:
    """Those of ``names`` that are runtimes and are there."""
    return [name for name in RUNTIMES if name in names and importlib.util.find_spec(name)]
