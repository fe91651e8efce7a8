"""Training steps of which it is settled what runs them: the numbers of the definition, whatever changes."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Parameter
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import convbias
from convbias.geometry import per_axis
from convbias.ops import native
from convbias.ops.route import Stepwise
from convbias.ops.trained import Trained

needs_library = pytest.mark.skipif(native.absence() is not None, reason="there are no own kernels here")
pytestmark = needs_library


@pytest.fixture(autouse=True, params=["own kernels", "single steps"])
def kind(request: pytest.FixtureRequest) -> str:
    """The images here are as small as those of whose steps torch's are as fast."""
    if request.param == "own kernels":
        request.getfixturevalue("small_steps")
    return request.param


# With rows enough for bands of them, where few are read twice.
SIZE = (28, 26)
LAST = torch.channels_last

# An own convolution each, and torch's with an own kernel behind it.
WAYS = {
    "depthwise": ((32, 32, 3), {"groups": 32}),
    "depthwise, whole": ((32, 32, 5), {"groups": 32}),
    # The gradient of so long a kernel's weight is torch's.
    "depthwise, long": ((32, 32, (3, 11)), {"groups": 32}),
    "pointwise": ((32, 24, 1), {}),
    "winograd": ((32, 32, 3), {}),
    "torch": ((12, 24, 3), {}),
}
TYINGS = ["untied", "c h", "tied", "tap", "c h + c w"]


def whole(*shape: int) -> Tensor:
    return torch.randint(-3, 4, shape).float()


def made(way: str, tying: str = "untied", activation: str | None = "relu") -> convbias.Conv2d:
    """A layer whose outputs before the relu are half a number away from its kink at least."""
    sizes, given = WAYS[way]
    rows, columns = (k // 2 for k in per_axis("kernel_size", sizes[2], 2))
    layer = convbias.Conv2d(
        *sizes, padding=(rows, columns), bias=tying, output_size=SIZE, activation=activation, **given
    )
    layer.to(memory_format=LAST)  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
        bias = layer.get_parameter("bias")
        # The middle tap is in every window.
        (bias[:, rows, columns] if tying == "tap" else bias).add_(0.5)
    return layer


def image(layer: convbias.Conv2d, n: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    return whole(n, layer.in_channels, *size).to(memory_format=LAST).requires_grad_()


def defined(layer: convbias.Conv2d, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """In double, of the layer as it is now: the output, and the gradients of input and parameters."""
    twin, x = copy.deepcopy(layer).double().requires_grad_(), x.detach().double().requires_grad_()
    padding: Any = twin.padding
    y = F.conv2d(x, twin.weight, None, twin.stride, padding, twin.dilation, twin.groups)
    y = y + twin.bias_field((y.shape[2], y.shape[3]), input_size=(x.shape[2], x.shape[3]))
    y = torch.relu(y) if layer.activation else y
    return y.detach(), list(torch.autograd.grad(y.sum(), [x, *twin.parameters()]))


def check(layer: convbias.Conv2d, x: Tensor) -> None:
    wanted, gradients = defined(layer, x)
    x = x.to(layer.weight.dtype).detach().requires_grad_()
    y = layer(x)
    assert_close(y.double(), wanted, rtol=1e-3, atol=1e-3)
    assert y.is_contiguous(memory_format=LAST)
    pairs = zip([x, *layer.parameters()], gradients, strict=True)
    asked = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad]
    found = torch.autograd.grad(y.sum(), [tensor for tensor, _ in asked])
    for mine, (_, gradient) in zip(found, asked, strict=True):
        assert_close(mine.double(), gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def kept(layer: convbias.Conv2d) -> Trained | Stepwise | None:
    return None if layer._trained.value is None else layer._trained.value[1]


@pytest.mark.parametrize("tying", TYINGS)
@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_settled_once_and_follows_the_parameters(way: str, tying: str, kind: str) -> None:
    torch.manual_seed(0)
    layer = made(way, tying)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    seen = set()
    for _ in range(3):
        check(layer, image(layer))
        for parameter in layer.parameters():
            parameter.grad = 2 * torch.ones_like(parameter)
        optimizer.step()
        seen.add(kept(layer))
    (step,) = seen
    # A tied bias goes to torch's own convolution.
    own = (way, tying) != ("torch", "tied") if kind == "own kernels" else "depthwise" in way
    assert isinstance(step, Trained if own else Stepwise)


def other_data(layer: convbias.Conv2d) -> None:
    for parameter in layer.parameters():
        parameter.data = whole(*parameter.shape) + 0.5 * (parameter is not layer.weight)


def data_turned_round(layer: convbias.Conv2d) -> None:
    # At the same address, in other places.
    bias = layer.get_parameter("bias")
    bias.data = bias.data.as_strided(bias.shape, (SIZE[0] * SIZE[1], SIZE[1], 1))


def bias_strided(layer: convbias.Conv2d) -> None:
    bias = layer.get_parameter("bias")
    wide = whole(bias.shape[0], SIZE[0], 2 * SIZE[1]) + 0.5
    bias.data = wide[:, :, ::2]


CHANGES: dict[str, Callable[[convbias.Conv2d], object]] = {
    "in place": lambda layer: layer.get_parameter("bias").data.add_(1),
    "weights in place": lambda layer: layer.weight.data.add_(1),
    "other data": other_data,
    "strided data": bias_strided,
    "data viewed otherwise": data_turned_round,
    "replaced": lambda layer: setattr(
        layer, "bias", Parameter(torch.randn_like(layer.get_parameter("bias")))
    ),
    "contiguous": lambda layer: layer.to(memory_format=torch.contiguous_format),  # pyright: ignore[reportCallIssue]
    "loaded": lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
    "another activation": lambda layer: setattr(layer, "activation", None),
    "another type": lambda layer: layer.double(),
    "frozen weight": lambda layer: layer.weight.requires_grad_(False),
    "frozen bias": lambda layer: layer.get_parameter("bias").requires_grad_(False),
    "copied": lambda layer: copy.deepcopy(layer),
    "other instructions": lambda layer: native.use("plain"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_what_changes_between_two_steps_counts(way: str, change: str) -> None:
    torch.manual_seed(1)
    layer, before = made(way), native.instructions()
    check(layer, image(layer))
    assert kept(layer) is not None
    try:
        CHANGES[change](layer)
        check(layer, image(layer))
    finally:
        native.use(before)


@pytest.mark.parametrize("way", WAYS)
def test_a_field_that_lies_otherwise_is_read_anew(way: str) -> None:
    """It is copied where its filters do not lie side by side."""
    layer = made(way)
    bias = layer.get_parameter("bias")
    bias.data = bias.data.contiguous()
    assert bias.stride(0) > 1
    for _ in range(3):
        check(layer, image(layer))
        with torch.no_grad():
            layer.get_parameter("bias").add_(whole(*layer.get_parameter("bias").shape))


@pytest.mark.parametrize("way", WAYS)
def test_images_of_another_number_and_layout_are_another_step(way: str) -> None:
    layer = made(way)
    for x in (image(layer), image(layer, 3), image(layer, 1), image(layer)):
        check(layer, x)
    check(layer, image(layer).detach().contiguous().requires_grad_())


def test_backends_and_gradients_that_are_differentiated_too() -> None:
    layer = made("winograd")
    x = image(layer, 1)
    check(layer, x)
    with convbias.backend("aten"):
        check(layer, x)
        assert isinstance(kept(layer), Stepwise)
    y = layer(x)
    (gx,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    (ggx,) = torch.autograd.grad(gx.square().sum(), layer.weight)
    reference = torch.relu(F.conv2d(x, layer.weight, None, 1, 1) + layer.bias_field(SIZE))
    (wanted,) = torch.autograd.grad(reference, x, torch.ones_like(y), create_graph=True)
    assert_close(ggx, torch.autograd.grad(wanted.square().sum(), layer.weight)[0], rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_old_has_its_own_gradients(way: str) -> None:
    """What the second call keeps is nothing to the first, whose gradient comes later."""
    torch.manual_seed(2)
    layer = made(way)
    first, second = image(layer), image(layer, 3)
    one, other = layer(first), layer(second)
    grads = [torch.autograd.grad(y, x, torch.ones_like(y))[0] for y, x in ((one, first), (other, second))]
    for x, g in zip((first, second), grads, strict=True):
        assert_close(g.double(), defined(layer, x)[1][0], rtol=1e-3, atol=1e-3)


def test_a_weight_that_was_computed_is_not_held_on_to() -> None:
    layer = made("depthwise")
    source = torch.randn_like(layer.weight, requires_grad=True)
    computed = source * 2
    y = functional_call(layer, {"weight": computed}, image(layer))
    held = weakref.ref(computed)
    del computed, y
    gc.collect()
    assert held() is None


def test_a_layer_that_was_trained_is_copied_and_saved_without_what_it_keeps() -> None:
    layer = made("depthwise")
    check(layer, image(layer))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._trained.value is None
        check(twin, image(twin))
    layer.repack()
    assert layer._trained.value is None


def test_threads_that_share_a_layer_take_their_own_step() -> None:
    layer = made("pointwise")
    images = [image(layer, n) for n in (1, 2, 3)]
    wanted = [defined(layer, x)[0] for x in images]
    wrong = list[str]()

    def run(x: Tensor, y: Tensor) -> None:
        for _ in range(60):
            if (layer(x).double() - y).abs().max() > 1e-3:
                wrong.append("other numbers")

    threads = [threading.Thread(target=run, args=pair) for pair in zip(images, wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_size_that_the_bias_is_not_for_is_told_at_every_call() -> None:
    layer = made("depthwise")
    check(layer, image(layer))
    for _ in range(2):
        with pytest.raises(convbias.ShapeError, match="bias of this layer is for"):
            layer(image(layer, size=(25, 30)))
    check(layer, image(layer))


@pytest.mark.parametrize("way", WAYS)
def test_a_weight_that_became_another_type_is_refused_as_torch_does(way: str) -> None:
    layer = made(way)
    x = image(layer)
    check(layer, x)
    layer.weight.data = layer.weight.data.double()
    with pytest.raises(RuntimeError, match="type"):
        layer(x)


@pytest.mark.parametrize("way", WAYS)
def test_another_device_is_another_step(way: str) -> None:
    layer = made(way)
    check(layer, image(layer))
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, Parameter(parameter.detach().to("meta")))
    assert layer(image(layer).to("meta")).device.type == "meta"


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("way", WAYS)
def test_saved_tensors_may_come_back_otherwise(way: str, activation: str) -> None:
    layer = made(way, activation=activation)
    x, gy = image(layer, 3), torch.randn(3, layer.out_channels, *SIZE)
    wanted = torch.autograd.grad(layer(x), [x, *layer.parameters()], gy)

    def contiguous(tensor: Tensor) -> Tensor:
        return tensor.detach().contiguous(memory_format=torch.contiguous_format).clone()

    with torch.autograd.graph.saved_tensors_hooks(contiguous, lambda tensor: tensor):
        y = layer(x)
    for found, right in zip(torch.autograd.grad(y, [x, *layer.parameters()], gy), wanted, strict=True):
        assert_close(found, right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))
    negated = torch._neg_view(-gy)  # pyright: ignore[reportPrivateImportUsage]
    for found, right in zip(torch.autograd.grad(layer(x), [x], negated), wanted, strict=False):
        assert_close(found, right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "hardswish"])
@pytest.mark.parametrize("way", WAYS)
def test_checkpoints_of_both_kinds(way: str, activation: str) -> None:
    layer = made(way, activation=activation)
    x = image(layer)
    (wanted,) = torch.autograd.grad(layer(x).sum(), x)
    for reentrant in (False, True):
        x.grad = None
        y: Any = checkpoint(layer, x, use_reentrant=reentrant)
        y.sum().backward()
        assert_close(x.grad, wanted)


def test_a_bias_that_is_resized_is_for_its_new_size_alone() -> None:
    layer = convbias.Conv2d(3, 4, 3, padding=1, bias="h", output_size=(8, 8))
    x = torch.randn(1, 3, 8, 8)
    layer(x)
    layer.resize_((8, 12))
    with pytest.raises(convbias.ShapeError, match="bias of this layer is for"):
        layer(x)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("way", WAYS)
def test_many_gradients_at_once(way: str, activation: str | None) -> None:
    layer = made(way, activation=activation)
    x = image(layer)
    y = layer(x)
    many = torch.randn(3, *y.shape)
    leaves = [x, *layer.parameters()]
    found = torch.autograd.grad(y, leaves, many, is_grads_batched=True, retain_graph=True)
    for i, gy in enumerate(many):
        for all_, alone in zip(found, torch.autograd.grad(y, leaves, gy, retain_graph=True), strict=True):
            assert_close(all_[i], alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("way", WAYS)
def test_a_bias_may_change_before_the_gradient_is_taken(way: str, activation: str) -> None:
    layer = made(way, activation=activation)
    x = image(layer)
    (wanted,) = torch.autograd.grad(layer(x).sum(), x)
    y = layer(x)
    with torch.no_grad():
        layer.get_parameter("bias").zero_()
    assert_close(torch.autograd.grad(y.sum(), x)[0], wanted)


def test_memory_that_parameters_left_is_let_go() -> None:
    layer = made("depthwise")
    check(layer, image(layer))
    layer.bfloat16()
    assert layer._trained.value is None
    layer = made("winograd")
    check(layer, image(layer))
    held = weakref.ref(layer.weight)
    layer.weight = Parameter(whole(*layer.weight.shape))
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    ("batch", "channels", "kernel", "side", "convolution", "epilogue"),
    [
        (1, (24, 144), 1, 56, "pointwise", "pointwise"),
        (1, (300, 300), 1, 28, "torch", "in_place"),
        (1, (24, 300), 1, 60, "pointwise", "pointwise"),
        (1, (64, 64), 3, 60, "winograd", "winograd"),
        (1, (64, 64), 3, 30, "winograd", "winograd"),
        (1, (64, 64), 3, 26, "torch", "in_place"),
        # The gradient of so large a weight is made by an own kernel, and that of the field beside it.
        (1, (256, 256), 3, 14, "torch", "native"),
        (1, (20, 24), 5, 100, "torch", "in_place"),
        (4, (20, 24), 5, 100, "torch", "native"),
    ],
)
def test_single_images_are_left_to_torch_for_longer(
    batch: int,
    channels: tuple[int, int],
    kernel: int,
    side: int,
    convolution: str,
    epilogue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their field's gradient is that of the output; but what the convolution saves counts."""
    monkeypatch.undo()  # the fixture's
    words: dict[str, Any] = {"padding": kernel // 2, "bias": "untied", "output_size": (side, side)}
    layer = convbias.Conv2d(*channels, kernel, activation="relu", **words)
    layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(batch, channels[0], side, side).to(memory_format=torch.channels_last)
    (taken,) = convbias.explain_route(layer, x)
    assert (taken.convolution, taken.epilogue) == (convolution, epilogue)


@pytest.mark.parametrize(
    ("tying", "activation", "frozen", "epilogue"),
    [
        ("untied", "relu", False, "native"),
        ("untied", "relu", True, "in_place"),
        # torch's convolution adds it, but where its gradient is made beside the weight's.
        ("tied", None, False, "native"),
        ("tied", None, True, "nothing"),
        ("none", None, False, "nothing"),
        ("untied", "gelu", False, "steps"),
    ],
)
def test_it_is_told_what_follows_beside_the_gradient_of_a_large_weight(
    tying: str, activation: str | None, frozen: bool, epilogue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the fixture's
    words: dict[str, Any] = {"padding": 1, "bias": tying, "output_size": (4, 4), "activation": activation}
    layer = convbias.Conv2d(512, 512, 3, **words)
    layer.to(memory_format=LAST)  # pyright: ignore[reportCallIssue]
    layer.weight.requires_grad_(not frozen)
    x = torch.randn(3, 512, 4, 4).to(memory_format=LAST).requires_grad_()
    (taken,) = convbias.explain_route(layer, x)
    assert (taken.convolution, taken.epilogue) == ("torch", epilogue)
    layer(x)
    assert isinstance(kept(layer), Stepwise) == (frozen or activation == "gelu")
    # Where somebody follows each step, torch's convolution adds what it can.
    (followed,) = convbias.explain_route(torch.func.vmap(layer), x[None])
    assert followed.epilogue == ("nothing" if tying in ("tied", "none") else "steps")


@pytest.mark.parametrize("frozen", ["", "weight", "input"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("tying", [*TYINGS, "none"])
def test_the_gradient_of_a_large_weight_is_winograds(tying: str, activation: str | None, frozen: str) -> None:
    """Where the outputs are so few that torch convolves."""
    torch.manual_seed(0)
    words: dict[str, Any] = {"padding": 1, "bias": tying, "output_size": (10, 9), "activation": activation}
    layer = convbias.Conv2d(256, 224, 3, **words)
    layer.to(memory_format=LAST)  # pyright: ignore[reportCallIssue]
    layer.weight.requires_grad_(frozen != "weight")
    x = torch.randn(2, 256, 10, 9).to(memory_format=LAST).requires_grad_(frozen != "input")
    asked = [tensor for tensor in (x, *layer.parameters()) if tensor.requires_grad]
    y = layer(x)
    up = torch.randn_like(y)
    found = torch.autograd.grad(y, asked, up)
    step = kept(layer)
    own = step if isinstance(step, Trained) else getattr(step, "_own", None)
    assert (own is not None and own.backward_plan is not None) == (frozen != "weight")
    assert own is None or own.plan is None
    twin, given = copy.deepcopy(layer).double(), x.detach().double().requires_grad_(x.requires_grad)
    wanted = twin(given)
    assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)
    asked = [tensor for tensor in (given, *twin.parameters()) if tensor.requires_grad]
    for mine, gradient in zip(found, torch.autograd.grad(wanted, asked, up.double()), strict=True):
        assert_close(mine.double(), gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize(
    ("kernel", "stride", "convolution"), [(3, 1, "depthwise"), (3, 2, "torch"), (5, 2, "depthwise")]
)
def test_few_images_of_channels_by_themselves(
    kernel: int, stride: int, convolution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's gradient of their weight takes too long, but for few taps with a stride."""
    monkeypatch.undo()  # the fixture's
    layer = convbias.Conv2d(32, 32, kernel, stride, kernel // 2, groups=32, bias="tied", activation="relu")
    layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    (taken,) = convbias.explain_route(layer, torch.randn(1, 32, 60, 60).to(memory_format=LAST))
    assert taken.convolution == convolution


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("way", ["depthwise", "pointwise", "winograd"])
@pytest.mark.parametrize(
    ("activation", "whole"), [("relu", True), ("tanh", True), ("gelu", False), ("silu", False)]
)
def test_it_is_told_where_an_activation_follows_by_itself(way: str, activation: str, whole: bool) -> None:
    """Its derivative needs what goes in, and that is the convolution's output with the field."""
    layer = made(way, activation=activation)
    (taken,) = convbias.explain_route(layer, image(layer))
    assert taken.convolution == way
    assert (taken.epilogue == way) == whole
    assert whole or "needs what goes in" in taken.not_epilogue[way]


def test_a_step_that_another_thread_replaces_is_not_taken_for_ones_own() -> None:
    layer = made("depthwise")
    layer(image(layer))
    step = kept(layer)
    assert isinstance(step, Trained)
    assert step._ready is not None
    mine = step._ready[1]

    class Key:
        """Like any other; meanwhile another thread puts its own in place."""

        def __eq__(self, other: object) -> bool:
            step._ready = (Key(), "another's")
            return True

        def __hash__(self) -> int:
            return 0

    step._ready = (Key(), mine)
    assert step._last_step([], None) is mine
