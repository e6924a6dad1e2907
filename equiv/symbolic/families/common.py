"""Sizes, indices, arrays, index maps and concrete cases that the families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sympy import Expr, Function, Idx, IndexedBase, Lambda, MatrixSymbol, S, Sum, Symbol, symbols

from equiv.symbolic.facts import Bijection
from equiv.symbolic.ranges import fresh
from equiv.symbolic.world import World

# N tokens, C and O channels in and out, h heads of d channels, B windows of w tokens, R mixtures, T kernel side
N, C, O, d, h, B, w, R, T = symbols("N C O d h B w R T", integer=True, positive=True)  # noqa: E741
s = Symbol("s", real=True)  # scale of the logits: d^-½, 1/d or 1

n, m, i = (Idx(name, N) for name in "nmi")  # tokens: the location, a kernel, a kernel inside phi
c, o, k, e = Idx("c", C), Idx("o", O), Idx("k", d), Idx("e", d)
g = Idx("g", h)

Q, K, V = (MatrixSymbol(name, N, d) for name in "QKV")
X = MatrixSymbol("X", N, C)
Bias = IndexedBase("Bias")
phi = Function("phi")

cat, head, channel = map(Function, ("cat", "head", "channel"))
HEADS = Bijection(cat, ((S.Zero, h - 1), (S.Zero, d - 1)), (S.Zero, h * d - 1), (head, channel))

tok, win, pos, region = map(Function, ("tok", "win", "pos", "region"))
WINDOWS = Bijection(tok, ((S.Zero, B - 1), (S.Zero, w - 1)), (S.Zero, N - 1), (win, pos))

at = Function("at")  # token at(y, x) of the feature map is the one in row y, column x
rows, columns = symbols("rows columns", integer=True, positive=True)
y, x = Idx("y", rows), Idx("x", columns)

tap, tap_row, tap_column = map(Function, ("tap", "tap_row", "tap_column"))
TAPS = Bijection(tap, ((S.Zero, T - 1), (S.Zero, T - 1)), (S.Zero, T * T - 1), (tap_row, tap_column))


def conv1x1(x: Callable[[Idx], Expr], kernel: Callable[[Idx], Expr], size: Expr) -> Expr:
    """The 1×1 convolution at one location: the sum over input channels z of x(z) kernel(z), whatever both depend on."""
    z = Idx("z", size)
    return Sum(x(z) * kernel(z), z)


def activated(logit: Callable[[Idx], Expr], size: Expr, at: Expr) -> Expr:
    """Entry ``at`` of phi of the vector of all logits."""
    z = fresh(S.Zero, size - 1)
    return phi(Lambda(z, logit(z)), size, at)


def window_maps(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> dict[str, Callable[..., int]]:
    """``tok(b, i)``, the i-th token of window b of the map rolled by −shift; its inverses; the region of a token.

    Written as Swin does it: roll, then partition; a token's region tells from which end of the map it came.
    """
    (rows, columns), (high, wide) = grid, window
    across = columns // wide
    table = {}
    for b in range(rows // high * across):
        for i in range(high * wide):
            row, column = b // across * high + i // wide, b % across * wide + i % wide  # in the rolled map
            token = (row + shift[0]) % rows * columns + (column + shift[1]) % columns
            table[b, i] = token, (row >= rows - shift[0]) * 2 + (column >= columns - shift[1])
    back = {token: (b, i, label) for (b, i), (token, label) in table.items()}
    return {
        "tok": lambda b, i: table[b, i][0],
        "win": lambda t: back[t][0],
        "pos": lambda t: back[t][1],
        "region": lambda t: back[t][2],
    }


def generic(x: Sequence[Any], at: int) -> Any:
    """An activation without any symmetry."""
    return x[at] * x[at] + (at + 2) * sum((i + 1) * v for i, v in enumerate(x))


def jacobian(x: Sequence[Any], at: int, i: int) -> Any:
    """Stands for the Jacobian of an activation: a function of all places, without any symmetry."""
    return (2 * at + 1) * x[i] ** 2 + (i + 3) * sum((a + 1) * v for a, v in enumerate(x))


def world(
    sizes: dict[str, int], grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], seed: int
) -> World:
    """A concrete case for all the maps of this module."""
    side, width = sizes["T"], sizes["d"]
    sizes = {**sizes, "N": grid[0] * grid[1], "w": window[0] * window[1], "rows": grid[0], "columns": grid[1]}
    sizes["B"] = sizes["N"] // sizes["w"]
    functions: dict[str, Callable[..., Any]] = {
        **window_maps(grid, window, shift),
        "at": lambda y, x: y * grid[1] + x,
        "cat": lambda g, f: g * width + f,
        "head": lambda x: x // width,
        "channel": lambda x: x % width,
        "tap": lambda u, v: u * side + v,
        "tap_row": lambda t: t // side,
        "tap_column": lambda t: t % side,
        "phi": generic,
        "J": jacobian,
        "rho": lambda x, at: 3 * x[0] ** 2 + x[0] + 1,
    }
    return World(sizes, functions, seed=seed)


WORLDS = (
    world(
        {"C": 3, "O": 2, "d": 2, "h": 2, "R": 2, "T": 2, "M": 2, "stride": 2, "dilation": 1, "padding": 1},
        (1, 6),
        (1, 2),
        (0, 1),
        seed=1,
    ),
    world(
        {"C": 2, "O": 3, "d": 3, "h": 1, "R": 3, "T": 3, "M": 3, "stride": 1, "dilation": 2, "padding": 1},
        (2, 4),
        (2, 2),
        (1, 1),
        seed=2,
    ),
)
SMALL = (  # for nested sums: N = 4 and 3
    world({"C": 3, "O": 2, "d": 2, "h": 2, "T": 2}, (1, 4), (1, 2), (0, 1), seed=3),
    world({"C": 2, "O": 3, "d": 3, "h": 2, "T": 3}, (3, 1), (1, 1), (0, 0), seed=4),
)
