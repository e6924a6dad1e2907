"""The bridge: the expressions of the proofs and the shipped layers, evaluated on the same integers, are bit-equal.

A proof about index expressions says something about ``equiv.matmul`` and ``equiv.conv`` only if the layers compute
those expressions. Here each layer, in all its forms, runs in float64 on small integers, so that every sum and product
is exact; the expressions are evaluated in rational arithmetic on the same numbers; every entry must be equal.

Activations are those for which that can be exact: identity, scaling with d a power of two, ReLU. Softmax is bridged
where float64 computes it exactly: logits that tie, or are so far apart that exp underflows to 0 (weights 1/2^j and 0).
What a transcendental softmax or LayerNorm rounds to is not a matter of the proofs but of the float rung.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch

from equiv.ladder.evidence import Evidence, Verdict
from equiv.symbolic.families import FAMILIES
from equiv.symbolic.families.common import window_maps
from equiv.symbolic.identity import Identity
from equiv.symbolic.layers import (
    Integers,
    arrays,
    build,
    express_convolution,
    relative_bias,
    relu,
    saturated,
    substituted,
)
from equiv.symbolic.world import World

FORMS = ("matmul", "conv, literal", "conv, fused")
Comparison = tuple[str, World, Mapping[str, torch.Tensor]]  # identity, case, outputs with the free indices as axes


def linear(draw: Integers) -> Iterator[Comparison]:
    """1: the static projections."""
    layers, more, x = build("GlobalAttention", draw, 4, 2), build("GlobalAttention", draw, 4, 2), draw(4, 4)
    apply = lambda form, layer, t: layer.proj(t if form == "matmul" else t.T.reshape(1, 4, 2, 2))  # noqa: E731
    tokens = lambda t: t if t.dim() == 2 else t.flatten(2)[0].T  # noqa: E731
    proj, proj2 = layers["matmul"].proj, more["matmul"].proj
    sizes = {"N": 4, "C": 4, "O": 4, "rows": 2, "columns": 2}
    given = arrays(X=x, W=proj.weight.T, b=proj.bias, W2=proj2.weight.T, b2=proj2.bias)
    world = World(sizes, {"at": lambda y, x: 2 * y + x}, given)
    once = {form: tokens(apply(form, layer, x)) for form, layer in layers.items()}
    yield "1a", world, {form: t.reshape(2, 2, 4) for form, t in once.items()}
    yield "1b", world, {form: tokens(apply(form, more[form], t)) for form, t in once.items()}


def dynamic(
    name: str, draw: Integers, qkv: tuple[torch.Tensor, ...], heads: int = 1, by: str = "qkv", **options: Any
) -> dict[str, torch.Tensor]:
    """The dynamic part of an operator on tokens: queries, keys (and values) in, heads side by side out."""
    count, dim = qkv[0].shape
    layers = build(name, draw, dim, heads, **options)
    return {form: substituted(layer, draw(1, count, dim), torch.cat(qkv, 1), by) for form, layer in layers.items()}


def query_key(draw: Integers) -> Iterator[Comparison]:
    """2: the logits, read off with the identity as values."""
    q, k = draw(4, 4), draw(4, 4)
    world = World({"N": 4, "d": 4, "s": Fraction(1, 4)}, {}, arrays(Q=q, K=k))
    yield "2a", world, dynamic("GlobalAttention", draw, (q, k, torch.eye(4).double()), activation="scaling")


def attention(draw: Integers) -> Iterator[Comparison]:
    """3: values, the pair of convolutions with ReLU and with exact softmax, and whole layers with heads."""
    a, v, eye = draw(4, 4), draw(4, 4), torch.eye(4).double()
    yield (
        "3a",
        World({"N": 4, "d": 4}, {}, arrays(A=a, V=v)),
        dynamic("GlobalAttention", draw, (a, eye, v), activation="none"),
    )
    q, k, v = draw(6, 4), draw(6, 4), draw(6, 4)
    layers = build("GlobalAttention", draw, 4, 1, activation="scaling_relu", relative_position=(2, 3))
    bias = relative_bias(layers["matmul"].relative_position_bias_table, (2, 3))
    given = {**arrays(Q=q, K=k, V=v), "Bias": lambda n, m: bias(0, n, m)}
    outputs = {form: substituted(layer, draw(1, 6, 4), torch.cat((q, k, v), 1)) for form, layer in layers.items()}
    yield "3b", World({"N": 6, "d": 4, "s": Fraction(1, 4)}, {"phi": relu}, given), outputs
    q = 4096 * torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0.0]]).double()
    k, v = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0.0]]).double(), draw(4, 4)
    given = {**arrays(Q=q, K=k, V=v), "Bias": lambda n, m: 0}
    yield (
        "3b",
        World({"N": 4, "d": 4, "s": Fraction(1, 2)}, {"phi": saturated}, given),
        dynamic("GlobalAttention", draw, (q, k, v)),
    )
    layers, x = build("GlobalAttention", draw, 4, 2, activation="scaling_relu", relative_position=(2, 2)), draw(4, 4)
    layer = layers["matmul"]
    wq, wk, wv = layer.qkv.weight.chunk(3)
    bq, bk, bv = layer.qkv.bias.chunk(3)
    given = arrays(X=x, Wq=wq.T, Wk=wk.T, Wv=wv.T, bq=bq, bk=bk, bv=bv, Wo=layer.proj.weight.T, bo=layer.proj.bias)
    given["Rel"] = relative_bias(layer.relative_position_bias_table, (2, 2))
    functions = {"phi": relu, "cat": lambda g, f: 2 * g + f, "head": lambda i: i // 2, "channel": lambda i: i % 2}
    sizes = {"N": 4, "C": 4, "O": 4, "h": 2, "d": 2, "s": Fraction(1, 2)}
    yield "3c", World(sizes, functions, given), {form: layer(x[None])[0] for form, layer in layers.items()}


GRID, WINDOW = (4, 4), (2, 2)


def windows(
    name: str, draw: Integers, qkv: tuple[torch.Tensor, ...], by: str = "qkv", **options: Any
) -> dict[str, torch.Tensor]:
    """The dynamic part of an operator inside the 2×2 windows of a 4×4 map; tokens row by row, in and out."""
    shift = options.get("shift", 0)
    outputs = {}
    for form, layer in build(name, draw, qkv[0].shape[1], 1, window=2, **options).items():
        generated = torch.cat(qkv, 1)
        if form == "matmul":  # its projections see the map rolled and partitioned
            order = [t for _, _, t in sorted(_places(shift))]
            y = torch.empty(16, qkv[0].shape[1], dtype=torch.float64)
            y[order] = substituted(layer, draw(1, qkv[0].shape[1], *GRID), generated[order], by)
            outputs[form] = y
        else:
            outputs[form] = substituted(layer, draw(1, qkv[0].shape[1], *GRID), generated, by)
    return outputs


def _places(shift: int) -> Iterator[tuple[int, int, int]]:
    maps = window_maps(GRID, WINDOW, (shift, shift))
    return ((maps["win"](t), maps["pos"](t), t) for t in range(16))


def window_world(
    shift: int, functions: Mapping[str, Callable[..., Any]], given: Mapping[str, Callable[..., Any]], s: Fraction
) -> World:
    """16 tokens, 4 windows of 4, heads of 4 channels."""
    maps = window_maps(GRID, WINDOW, (shift, shift))
    return World({"N": 16, "d": 4, "B": 4, "w": 4, "s": s}, {**maps, **functions}, given)


def window(draw: Integers) -> Iterator[Comparison]:
    """4: the selection with ReLU, and with exact softmax and a finite penalty; masks of −∞."""
    q, k, v, zero = draw(16, 4), draw(16, 4), draw(16, 4), torch.zeros(16, 4).double()
    none = lambda *index: 0  # noqa: E731
    given = {**arrays(Q=q, K=k, V=v), "Rel": none, "Penalty": none}
    options: dict[str, Any] = {"relative_position": False, "activation": "scaling_relu"}
    outputs = windows("WindowAttention", draw, (q, k, v), **options)
    yield "4a", window_world(0, {"phi": relu}, given, Fraction(1, 4)), outputs
    maps = window_maps(GRID, WINDOW, (1, 1))
    label = lambda b, i: maps["region"](maps["tok"](b, i))  # noqa: E731
    # No two keys agree in a query's one entry: fused kernels, which scale before they add, break ties by rounding.
    one = 4096 * torch.eye(4).double().repeat(4, 1)
    distinct = (16 * k + torch.arange(16.0).double()[:, None]).argsort(0).double()
    given = {
        **arrays(Q=one, K=distinct, V=v),
        "Rel": none,
        "Penalty": lambda b, i, j: 0 if label(b, i) == label(b, j) else -1024,
    }
    outputs = windows("WindowAttention", draw, (one, distinct, v), shift=1, relative_position=False, mask_value=-1024.0)
    yield "4a", window_world(1, {"phi": saturated}, given, Fraction(1, 2)), outputs
    given = arrays(Q=zero, K=k, V=v)
    yield (
        "4b",
        window_world(1, {}, given, Fraction(1)),
        windows("WindowAttention", draw, (zero, k, v), shift=1, relative_position=False),
    )
    given = arrays(Q=q, K=k, V=v)
    yield (
        "4c",
        window_world(1, {"rho": relu}, given, Fraction(1, 4)),
        windows("WindowAttention", draw, (q, k, v), shift=1, **options),
    )


def linformer(draw: Integers) -> Iterator[Comparison]:
    """5: mixed kernels with ReLU; mixed logits without activation; the projections' bias under the mixture."""
    q, k, v = draw(6, 4), draw(6, 4), draw(6, 4)
    sizes = {"N": 6, "R": 4, "d": 4, "C": 3}
    for names, activation, s, phi in (
        ("5a", "scaling_relu", Fraction(1, 4), relu),
        ("5b", "none", Fraction(1), lambda x, at: x[at]),
    ):
        layers = build("LinformerAttention", draw, 4, 1, tokens=6, rank=4, activation=activation)
        given = arrays(Q=q, K=k, V=v, E=layers["matmul"].mix_key, F=layers["matmul"].mix_value)
        outputs = {form: substituted(layer, draw(1, 6, 4), torch.cat((q, k, v), 1)) for form, layer in layers.items()}
        yield names, World({**sizes, "s": s}, {"phi": phi}, given), outputs
    # With Q and F V the identity, the output is the transposed mixed key.
    x, weight, bias, eye = draw(6, 3), draw(3, 4), draw(4), torch.eye(6, 4).double()
    layers = build("LinformerAttention", draw, 4, 1, tokens=6, rank=4, activation="none")
    for layer in layers.values():
        layer.mix_value.data = eye.T.reshape(layer.mix_value.shape)
    generated = torch.cat((eye, x @ weight + bias, eye), 1)
    outputs = {form: substituted(layer, draw(1, 6, 4), generated)[:4].T for form, layer in layers.items()}
    given = arrays(X=x, W=weight, b=bias, E=layers["matmul"].mix_key)
    yield "5c", World(sizes, {}, given), outputs


def merged(draw: Integers) -> Iterator[Comparison]:
    """6: the merged kernel, without and with bias, and inside windows."""
    q, k, v = draw(6, 4), draw(6, 4), draw(6, 4)
    given, sizes = arrays(Q=q, K=k, V=v), {"N": 6, "d": 4, "s": Fraction(1, 4)}
    yield "6a", World(sizes, {}, given), dynamic("LinearAttention", draw, (q, k, v))
    layers = build("LinearAttention", draw, 4, 1, relative_position=(2, 3))
    bias = relative_bias(layers["matmul"].relative_position_bias_table, (2, 3))
    outputs = {form: substituted(layer, draw(1, 6, 4), torch.cat((q, k, v), 1)) for form, layer in layers.items()}
    yield "6b", World(sizes, {}, {**given, "Bias": lambda n, m: bias(0, n, m)}), outputs
    q, k, v = draw(16, 4), draw(16, 4), draw(16, 4)
    outputs = windows("LinearWindowAttention", draw, (q, k, v), shift=0, relative_position=False)
    yield "6c", window_world(0, {}, arrays(Q=q, K=k, V=v), Fraction(1, 4)), outputs


def depthwise(draw: Integers) -> Iterator[Comparison]:
    """7: the averaged kernel, the bias by head, and the average over parts of shifted windows."""
    q, k = draw(4, 4), draw(4, 4)
    yield "7a", World({"N": 4, "d": 4}, {}, arrays(Q=q, K=k)), dynamic("DepthwiseAttention", draw, (q, k), by="qk")
    layers = build("DepthwiseAttention", draw, 4, 2, relative_position=(2, 2))
    given = arrays(Qw=q, Kw=k, Z=k)
    given["Rel"] = relative_bias(layers["matmul"].relative_position_bias_table, (2, 2))
    outputs = {form: substituted(layer, draw(1, 4, 4), torch.cat((q, k), 1), "qk") for form, layer in layers.items()}
    functions = {"cat": lambda g, f: 2 * g + f, "head": lambda i: i // 2, "channel": lambda i: i % 2}
    outputs = {form: t.reshape(4, 2, 2) for form, t in outputs.items()}
    yield "7b", World({"N": 4, "h": 2, "d": 2}, functions, given), outputs
    q, k = draw(16, 4), draw(16, 4)
    outputs = windows("DepthwiseWindowAttention", draw, (q, k), "qk", shift=1, relative_position=False)
    yield "7c", window_world(1, {}, arrays(Q=q, K=k), Fraction(1)), outputs


TAPS = {"tap": lambda u, v: 3 * u + v, "tap_row": lambda t: t // 3, "tap_column": lambda t: t % 3}


def mixture(draw: Integers) -> Iterator[Comparison]:
    """8: D-Conv with coefficients that softmax gives exactly: ½, ½, 0, 0."""
    for stride, dilation in ((1, 1), (2, 2)):
        x = draw(1, 3, 5, 6)
        layers = build(
            "DynamicConv2d", draw, 3, out_channels=2, stride=stride, dilation=dilation, padding=1, temperature=1.0
        )
        for layer in layers.values():
            layer.fc2.weight.data.zero_()
            layer.fc2.bias.data = torch.tensor([0.0, -4096, 0, -4096]).double()
        outputs = {form: layer(x)[0].permute(1, 2, 0) for form, layer in layers.items()}
        rows, columns, _ = outputs["matmul"].shape
        sizes = {"rows": rows, "columns": columns, "C": 3, "O": 2, "M": 4, "T": 3}
        given = arrays(
            image=x[0],
            bank=layers["matmul"].weight,
            bias=layers["matmul"].bias,
            pi=torch.tensor([0.5, 0, 0.5, 0]).double(),
        )
        world = World({**sizes, "stride": stride, "dilation": dilation, "padding": 1}, TAPS, given)
        yield "8a", world, outputs
        yield "8b", world, outputs


def generated(draw: Integers) -> Iterator[Comparison]:
    """9: D-DW-Conv of both variants and involution, with given kernels."""
    x, kernels = draw(1, 4, 3, 4), draw(1, 4 * 9)
    functions = {**TAPS, "cat": lambda g, f: 2 * g + f, "head": lambda i: i // 2, "channel": lambda i: i % 2}
    sizes = {"rows": 3, "columns": 4, "h": 2, "d": 2, "T": 3, "padding": 1}
    layers = build("DynamicDepthwiseConv2d", draw, 4, kernel_size=3, bias=False)
    outputs = {form: substituted(layer, x, kernels, "conv2", "").permute(1, 2, 0) for form, layer in layers.items()}
    given = arrays(image=x[0], kernel=kernels.reshape(4, 9))
    yield "9a", World({**sizes, "stride": 1}, functions, given), outputs
    inhomogeneous: dict[str, Any] = {"variant": "inhomogeneous", "bias": False}
    for name, options, stride in (
        ("DynamicDepthwiseConv2d", inhomogeneous, 1),
        ("Involution2d", {}, 1),
        ("Involution2d", {"stride": 2}, 2),
    ):
        rows, columns, x = 4 // stride, 4 // stride, draw(1, 4, 4, 4)
        kernels = draw(rows * columns, 2 * 9)
        layers = build(name, draw, 4, kernel_size=3, group_channels=2, **options)
        outputs = {form: substituted(layer, x, kernels, "conv2", "") for form, layer in layers.items()}
        given = arrays(image=x[0], local=kernels.T.reshape(2, 3, 3, rows, columns))
        world = World({**sizes, "rows": rows, "columns": columns, "stride": stride}, functions, given)
        yield "9b", world, {form: t.reshape(2, 2, rows, columns).permute(2, 3, 0, 1) for form, t in outputs.items()}


def softmax(draw: Integers) -> Iterator[Comparison]:
    """10: uniform softmax (zero queries); the permutation of tokens with ReLU."""
    zero, k, eye = torch.zeros(4, 4).double(), draw(4, 4), torch.eye(4).double()
    uniform = dynamic("GlobalAttention", draw, (zero, k, eye))
    perm = [2, 0, 3, 1]
    world = World({"N": 4}, {"perm": lambda i: perm[i]}, {"z": lambda n, m: 0, "shift": lambda n: n - 2})
    yield "10a", world, uniform
    yield (
        "10b",
        world,
        {form: t[:, 0] for form, t in dynamic("GlobalAttention", draw, (zero, k, torch.ones(4, 4).double())).items()},
    )
    yield "10c", world, {form: t[0] for form, t in uniform.items()}
    q, k, v = draw(4, 4), draw(4, 4), draw(4, 4)
    world = World(
        {"N": 4, "d": 4, "s": Fraction(1, 4)}, {"phi": relu, "perm": lambda i: perm[i]}, arrays(Q=q, K=k, V=v)
    )
    yield "10d", world, dynamic("GlobalAttention", draw, (q[perm], k[perm], v[perm]), activation="scaling_relu")


def express(draw: Integers) -> Iterator[Comparison]:
    """11: 9 heads of ``GlobalAttention`` over a padded grid of patches are a 3×3 convolution; P = 1 and 2."""
    for side, rows, columns in ((1, 2, 3), (2, 2, 2)):
        pixels = side * side  # one channel in, one out; a head of `pixels` channels for each offset
        grid = (rows + 2, columns + 2)
        image, taps = draw(side * rows, side * columns), draw(3, 3)
        tokens = torch.zeros(1, grid[0] * grid[1], 9 * pixels, dtype=torch.float64)
        for my, mx, p, q in itertools.product(range(rows), range(columns), range(side), range(side)):
            tokens[0, (my + 1) * grid[1] + mx + 1, side * p + q] = image[side * my + p, side * mx + q]
        layers = build("GlobalAttention", draw, 9 * pixels, 9, relative_position=grid, qkv_bias=False)
        for layer in layers.values():
            express_convolution(layer, grid, side, taps)
        outputs = {
            form: layer(tokens)[0, :, :pixels].reshape(*grid, side, side, 1)[1:-1, 1:-1]
            for form, layer in layers.items()
        }
        given = arrays(image=image[..., None], kernel=taps[..., None, None])
        sizes = {"P": side, "M": 1, "r": 1, "rows": rows, "columns": columns, "C": 1, "O": 1}
        yield "11b", World(sizes, {"quo": lambda e, side=side: e // side}, given), outputs
        if side == 1:
            given = arrays(kernel=taps[..., None, None], X=image[..., None])
            yield "11d", World(sizes, {}, given), {form: t[..., 0, 0, :] for form, t in outputs.items()}


def gradient(draw: Integers) -> Iterator[Comparison]:
    """12: autograd of all forms with ReLU, whose Jacobian is [x_i > 0][m = i]; and of the static projections."""
    q, k, v, g = draw(4, 2), draw(4, 2), draw(4, 2), draw(4, 2)
    layers = build("GlobalAttention", draw, 2, 1, activation="scaling_relu", relative_position=(2, 2))
    bias = relative_bias(layers["matmul"].relative_position_bias_table, (2, 2))
    given = {**arrays(Q=q, K=k, V=v, G=g), "Bias": lambda n, m: bias(0, n, m)}
    functions = {"phi": relu, "J": lambda x, at, i: int(at == i and x[i] > 0)}
    world = World({"N": 4, "d": 2, "s": Fraction(1, 2)}, functions, given)
    found = {}
    for form, layer in layers.items():
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        found[form] = torch.autograd.grad(substituted(layer, draw(1, 4, 2), torch.cat(leaves, 1)), leaves, g)
    for name, index in (("12a", 2), ("12b", 1), ("12c", 0)):
        yield name, world, {form: t[index] for form, t in found.items()}
    x, h, weights, biases = draw(6, 2), draw(6, 2), {}, {}
    for form, layer in layers.items():
        y = layer.proj(x) if form == "matmul" else layer.proj(x.T.reshape(1, 2, 6, 1)).flatten(2)[0].T
        weight, biases[form] = torch.autograd.grad(y, (layer.proj.weight, layer.proj.bias), h)
        weights[form] = weight.T
    world = World({"N": 6, "C": 2, "O": 2}, {}, arrays(X=x, H=h))
    yield "12d", world, weights
    yield "12e", world, biases


BRIDGES = (
    linear,
    query_key,
    attention,
    window,
    linformer,
    merged,
    depthwise,
    mixture,
    generated,
    softmax,
    express,
    gradient,
)


def bridge(number: int, seed: int = 0) -> Evidence:
    """Compare the expressions of a family with its layers, entry by entry, exactly.

    Example:
        >>> bridge(2).verdict
        <Verdict.EQUAL: 'EQUAL'>
    """
    family, entries, reasons, names = FAMILIES[number - 1], 0, [], []
    for name, world, outputs in BRIDGES[number - 1](Integers(seed)):
        names.append(name)
        identity = family.identity(name)
        if set(outputs) != set(FORMS):
            reasons.append(f"{name}: compared with {sorted(outputs)} only")
        for at, side, form, value, got in _entries(identity, world, outputs):
            entries += 1
            if value != got:
                reasons.append(f"{name}, {side} side at {at}: {value}, but {form} computes {got}")
                break
    reasons += [] if entries else ["nothing was compared"]
    return Evidence(
        Verdict.DIFFERENT if reasons else Verdict.EQUAL,
        claim=f"{', '.join(family.covers)}: bit for bit the expressions {', '.join(dict.fromkeys(names))}",
        scope="small integers in float64, on the CPU; the forms " + "; ".join(FORMS),
        numbers={"entries compared": entries},
        seed=seed,
        reproduce=f"equiv.symbolic.bridge.bridge({number}, seed={seed})",
        reason="; ".join(reasons),
    )


def _entries(identity: Identity, world: World, outputs: Mapping[str, torch.Tensor]) -> Iterator[tuple[Any, ...]]:
    shape = tuple(len(world.range_of(i)) for i in identity.free)
    for form, t in outputs.items():
        if tuple(t.shape) != shape:
            yield (), "either", form, f"shape {shape}", f"shape {tuple(t.shape)}"
    for side, e in (("left", identity.left), ("right", identity.right)):
        f = world.compiled(e, identity.free)
        for at in itertools.product(*map(world.range_of, identity.free)):
            value = f(*at)
            for form, t in outputs.items():
                yield at, side, form, value, t[at].item()
