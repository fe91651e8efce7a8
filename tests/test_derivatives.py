"""Derivatives of every kind, under every transform, are those of the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import hessian as hessian_by_reverse
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from convbias import Conv2d
from layer_cases import (
    ALL,
    LAYERS,
    SOME,
    TYINGS,
    WALK,
    Case,
    Definition,
    as_function,
    expected,
    gradients,
    over,
    plain,
    uneven,
)

# Each tying once, on the plainest layer: for laws that are quadratic in the number of parameters.
PLAIN = [plain(tying) for tying in ("tied", "untied", "c h", "tap", "c + tap", "rank:2", "grid:3", "Regions")]


def double(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def test_the_walk_meets_every_layer_and_every_tying() -> None:
    assert {tying for tying, _ in WALK} == set(TYINGS)
    assert {layer for _, layer in WALK} == set(LAYERS)
    assert len(SOME) == len(WALK)


@over(ALL)
def test_values_and_gradients_are_those_of_the_definition(case: Case) -> None:
    layer, x = case.make(), double(case.input())
    y, wanted = layer(x), expected(layer, x)
    assert_close(y, wanted)
    assert_close(gradients(y, layer, x), gradients(wanted, layer, x))


@over(SOME)
def test_gradcheck_backward_forward_and_batched(case: Case) -> None:
    function, parameters = as_function(case.make())
    inputs = [double(t) for t in (case.input(2), *parameters)]
    assert torch.autograd.gradcheck(
        function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )


@over(SOME)
def test_gradgradcheck_reverse_and_forward_over_reverse(case: Case) -> None:
    function, parameters = as_function(case.make())
    inputs = [double(t) for t in (case.input(2), *parameters)]
    assert torch.autograd.gradgradcheck(
        function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True
    )


@over(SOME)
def test_jvp_is_the_finite_difference(case: Case) -> None:
    function, parameters = as_function(case.make())
    primals = (case.input(), *parameters)
    tangents = tuple(torch.randn_like(t) for t in primals)
    ahead, behind = (
        function(*(p + e * t for p, t in zip(primals, tangents, strict=True))) for e in (1e-6, -1e-6)
    )
    difference = (ahead - behind) / 2e-6
    assert difference.abs().max() > 0.1
    assert_close(jvp(function, primals, tangents)[1], difference, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        dual = function(*map(forward_ad.make_dual, primals, tangents))
        tangent = forward_ad.unpack_dual(dual).tangent
    assert tangent is not None
    assert_close(tangent, difference, rtol=1e-6, atol=1e-8)


@over(SOME)
def test_the_tangent_of_each_argument_alone(case: Case) -> None:
    # A rule that forgets one argument still gives something when all have tangents.
    function, parameters = as_function(case.make())
    primals = (case.input(), *parameters)
    for i, primal in enumerate(primals):
        tangents = [torch.zeros_like(p) for p in primals]
        tangents[i] = torch.randn_like(primal)

        def along(step: Tensor, i: int = i, tangents: list[Tensor] = tangents) -> Tensor:
            return function(*primals[:i], primals[i] + step * tangents[i], *primals[i + 1 :])

        zero = torch.zeros((), dtype=torch.float64)
        e = torch.full_like(zero, 1e-6)
        forward = jvp(along, (zero,), (zero + 1,))[1]
        assert_close(forward, (along(e) - along(-e)) / 2e-6, rtol=1e-6, atol=1e-8)
        assert forward.abs().max() > 0


@over(SOME)
def test_vjp_is_the_gradient_of_the_definition(case: Case) -> None:
    layer = case.make()
    function, parameters = as_function(layer)
    x = case.input()
    y, pull = vjp(function, x, *parameters)[:2]
    cotangent = torch.randn_like(y)
    x = double(x)
    wanted = torch.autograd.grad(expected(layer, x), [x, *layer.parameters()], cotangent)
    assert_close(pull(cotangent), wanted)


@over(SOME)
def test_func_grad_and_the_gradient_of_each_sample(case: Case) -> None:
    layer = case.make()
    function, parameters = as_function(layer)
    x = case.input()
    every = tuple(range(1, 1 + len(parameters)))

    def loss(input: Tensor, *parameters: Tensor) -> Tensor:
        return uneven(function(input, *parameters))

    alone = [torch.autograd.grad(uneven(expected(layer, s[None])), [*layer.parameters()]) for s in x]
    assert_close(grad(loss, every)(x[0], *parameters), alone[0])
    per_sample = vmap(grad(loss, every), (0, *(None for _ in parameters)))(x, *parameters)
    for found, *wanted in zip(per_sample, *alone, strict=True):
        assert_close(found, torch.stack(wanted))


@over(SOME)
def test_vmap_over_images_is_a_loop(case: Case) -> None:
    layer = case.make()
    images = torch.stack([case.input(), case.input()], dim=1)
    with torch.no_grad():
        assert_close(vmap(layer, in_dims=1)(images), torch.stack([layer(images[:, i]) for i in (0, 1)]))
    assert_close(vmap(layer)(images[:, 0]), expected(layer, images[:, 0]))


@over(SOME)
@pytest.mark.parametrize("recording", [True, False])
def test_vmap_over_layers_is_a_loop(case: Case, recording: bool) -> None:
    layers = [case.make() for _ in range(3)]
    parameters, buffers = stack_module_state(list(layers))
    x = case.input()
    with torch.set_grad_enabled(recording):
        together = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
        assert_close(together, torch.stack([expected(layer, x) for layer in layers]))


@over(SOME)
def test_vmap_over_one_argument_at_a_time(case: Case) -> None:
    # Without a batch of images the field has an axis more than the convolution's output.
    layer = case.make()
    function, parameters = as_function(layer)
    arguments = [case.input()[0], *parameters]
    with torch.no_grad():
        for i, argument in enumerate(arguments):
            stacked = torch.stack([argument, torch.randn_like(argument)])
            in_dims = tuple(0 if j == i else None for j in range(len(arguments)))
            given = (*arguments[:i], stacked, *arguments[i + 1 :])
            loop = [function(*arguments[:i], one, *arguments[i + 1 :]) for one in stacked]
            assert_close(vmap(function, in_dims)(*given), torch.stack(loop))


@over(PLAIN)
def test_jacobians_forward_and_reverse(case: Case) -> None:
    layer = case.make()
    function, parameters = as_function(layer)
    definition, _ = as_function(Definition(layer))
    arguments = (case.input(1), *parameters)
    every = tuple(range(len(arguments)))
    wanted = torch.autograd.functional.jacobian(definition, arguments)
    assert_close(jacrev(function, every)(*arguments), wanted)
    assert_close(jacfwd(function, every)(*arguments), wanted)


@over([plain(tying, activation="tanh") for tying in ("tied", "untied", "tap", "rank:2")])
def test_hessian(case: Case) -> None:
    layer = case.make()
    function, parameters = as_function(layer)
    definition, _ = as_function(Definition(layer))
    arguments = (case.input(1), *parameters)
    wanted = hessian_by_reverse(lambda *a: uneven(definition(*a)), arguments)
    found = hessian(lambda *a: uneven(function(*a)), tuple(range(len(arguments))))(*arguments)
    assert_close(found, wanted)


@over(SOME)
def test_a_frozen_layer_hands_the_gradient_on(case: Case) -> None:
    layer, x = case.make().requires_grad_(False), double(case.input())
    found, wanted = (torch.autograd.grad(uneven(f(x)), x)[0] for f in (layer, Definition(layer)))
    assert_close(found, wanted)


@over(PLAIN)
def test_one_parameter_alone_may_learn(case: Case) -> None:
    layer, x = case.make(), case.input()
    for parameter in layer.parameters():
        layer.requires_grad_(False)
        parameter.requires_grad_()
        found, wanted = (torch.autograd.grad(uneven(f(x)), parameter)[0] for f in (layer, Definition(layer)))
        assert_close(found, wanted)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_computes_the_same_twice(reentrant: bool) -> None:
    # The reentrant kind runs once without a gradient, so in place, and once with it.
    layer, x = plain("untied", activation="gelu").make(), double(plain("untied").input())
    wanted = gradients(layer(x), layer, x)
    again = checkpoint(layer, x, use_reentrant=reentrant)
    assert isinstance(again, Tensor)
    assert torch.equal(again, layer(x))
    uneven(again).backward()
    assert_close([x.grad, *(p.grad for p in layer.parameters())], wanted)


@pytest.mark.parametrize("size", [6, 80])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("tying", ["tied", "untied", "c h", "tap", "rank:2"])
def test_gradients_are_nobody_elses(
    tying: str, activation: str | None, form: torch.memory_format, size: int
) -> None:
    """torch adds to a parameter's, in place, what the next step brings."""
    words: dict[str, Any] = {"padding": 1, "bias": tying, "output_size": (size, size)}
    layer = Conv2d(3, 8, 3, activation=activation, **words).to(memory_format=form)  # pyright: ignore
    x = torch.randn(1, 3, size, size).to(memory_format=form).requires_grad_()
    y = layer(x)
    given = torch.randn_like(y)
    before, tensors = given.clone(), (x, *layer.parameters())
    y.backward(given, retain_graph=True)
    first = [tensor.grad for tensor in tensors]
    copies = [gradient.clone() for gradient in first if gradient is not None]
    y.backward(given)
    assert torch.equal(given, before)
    for gradient, copy in zip(first, copies, strict=True):
        assert gradient is not None
        assert torch.equal(gradient, 2 * copy)
        assert gradient.untyped_storage().data_ptr() != given.untyped_storage().data_ptr()
