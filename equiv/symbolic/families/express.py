"""Family 11: multi-head attention expresses every K×K convolution: exactly on patches, in a limit on pixels."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Expr, Function, Idx, IndexedBase, KroneckerDelta, Sum, Symbol, exp, symbols

from equiv.symbolic.facts import AtLeast, Division, Limit
from equiv.symbolic.families.common import c, o
from equiv.symbolic.identity import Family, Identity
from equiv.symbolic.world import World

P, M, rows, columns = symbols("P M rows columns", integer=True, positive=True)  # patch side, rings of padding, grid
r = symbols("r", integer=True, positive=True)  # radius of the kernel: K = 2 r + 1
quo = Function("quo")
image, kernel, score, X = IndexedBase("image"), IndexedBase("kernel"), IndexedBase("score"), IndexedBase("X")

qy, qx = Idx("qy", rows), Idx("qx", columns)  # the patch of the location
my, mx = Idx("my", (-M, rows - 1 + M)), Idx("mx", (-M, columns - 1 + M))  # a patch of the padded grid: a kernel
ly, lx = Idx("ly", (-M, rows - 1 + M)), Idx("lx", (-M, columns - 1 + M))
sy, sx = Idx("sy", (-M, M)), Idx("sx", (-M, M))  # a head: an offset between patches
py, px, p2, q2 = Idx("py", P), Idx("px", P), Idx("p2", P), Idx("q2", P)  # a pixel of a patch
ty, tx = Idx("ty", 2 * r + 1), Idx("tx", 2 * r + 1)  # a tap of the kernel


def at(row: Expr, column: Expr) -> Expr:
    """1 for the patch at this head's offset from the location, else 0."""
    return KroneckerDelta(row, qy + sy) * KroneckerDelta(column, qx + sx)


def masked_softmax(below: Expr) -> Expr:
    """Attention of one head with relative bias 0 at its offset and −∞ elsewhere, whatever the other logits."""
    return Sum(at(my, mx) * exp(score[qy, qx, my, mx]) * X[my, mx, c], my, mx) / below


WORLDS = tuple(
    World(
        {"P": p, "M": 1, "r": radius, "rows": 2, "columns": columns, "C": 2, "O": 1, "alpha": 1},
        {"quo": lambda e, p=p: e // p},
        seed=p + radius,
    )
    for p, radius, columns in ((1, 1, 2), (2, 2, 1), (2, 1, 1))
)

ONE_HOT = Identity(
    "11a",
    "a head whose relative bias is 0 at one offset and −∞ elsewhere reads the patch at that offset",
    (qy, qx, sy, sx, c),
    (
        (
            "softmax with weight 0 (a logit of −∞) except at the offset",
            masked_softmax(Sum(at(ly, lx) * exp(score[qy, qx, ly, lx]), ly, lx)),
        ),
        ("one term is left above and below; the offset does not leave the padded grid", X[qy + sy, qx + sx, c]),
    ),
    {
        "the softmax is not masked below": masked_softmax(Sum(exp(score[qy, qx, ly, lx]), ly, lx)),
        "the opposite offset": X[qy - sy, qx - sx, c],
        "the weight is not normalised": exp(score[qy, qx, qy + sy, qx + sx]) * X[qy + sy, qx + sx, c],
    },
    WORLDS,
)


def convolution(off: int = 0) -> Expr:
    """The convolution at pixel (py, px) of patch (qy, qx)."""
    pixel = image[P * qy + py + ty - r + off, P * qx + px + tx - r, c]
    return Sum(kernel[ty, tx, c, o] * pixel, ty, tx, c)


def head_matrix(flip: int = 1) -> Expr:
    """W_V W_O of the head at offset (sy, sx): from pixel (p2, q2), channel c to pixel (py, px), channel o."""
    down = KroneckerDelta(py + flip * (ty - r), P * sy + p2)
    return Sum(kernel[ty, tx, c, o] * down * KroneckerDelta(px + flip * (tx - r), P * sx + q2), ty, tx)


def heads(
    last: Expr = M, flip: int = 1, read: Callable[[Expr, Expr], Expr] = lambda a, b: image[P * my + a, P * mx + b, c]
) -> Expr:
    """The sum over the heads at offsets −M … M (``last``) of one-hot attention, values and output projection."""
    one = Sum(at(my, mx) * read(p2, q2) * head_matrix(flip), my, mx, p2, q2, c)
    return Sum(one, (sy, -M, last), sx)


PATCHES = Identity(
    "11b",
    "attention over P×P patches with (2M+1)² heads is a (2r+1)×(2r+1) convolution of the pixels, if P·M ≥ r",
    (qy, qx, py, px, o),
    (
        ("the convolution", convolution()),
        ("py + ty − r = P·sy + p2 for one head and one pixel: the heads share out the taps", heads()),
    ),
    {
        "one row of heads too few": heads(M - 1),
        "the kernel is flipped": heads(flip=-1),
        "the patch is transposed": heads(read=lambda a, b: image[P * my + b, P * mx + a, c]),
        "the convolution is off by one": convolution(1),
    },
    WORLDS,
    (Division(quo, P), AtLeast(P * M, r)),
)

alpha = Symbol("alpha", real=True)
Dy, Dx = Idx("Dy", (-M, M)), Idx("Dx", (-M, M))  # the offset that a head shall read


def quadratic(row: Expr, column: Expr) -> Expr:
    """v·r_δ with r_δ = (‖δ‖², δ₁, δ₂), v = −α (1, −2Δ₁, −2Δ₂) and δ = kernel − location."""
    a, b = row - qy, column - qx
    return -alpha * (a**2 + b**2 - 2 * Dy * a - 2 * Dx * b)


def distance(row: Expr, column: Expr) -> Expr:
    """−α ‖δ − Δ‖²."""
    return -alpha * ((row - qy - Dy) ** 2 + (column - qx - Dx) ** 2)


def softmax(logit: Callable[[Expr, Expr], Expr], below: Callable[[Expr, Expr], Expr] | None = None) -> Expr:
    """Softmax over the padded grid, at kernel (my, mx)."""
    return exp(logit(my, mx)) / Sum(exp((below or logit)(ly, lx)), ly, lx)


QUADRATIC = Identity(
    "11c",
    "Cordonnier's quadratic scores are −α times the squared distance to the offset Δ, up to a shift of the row",
    (qy, qx, my, mx, Dy, Dx),
    (
        ("softmax of v·r_δ", softmax(quadratic)),
        (
            "multiply above and below by exp(−α‖Δ‖²), 10a",
            softmax(lambda a, b: quadratic(a, b) - alpha * (Dy**2 + Dx**2)),
        ),
        ("complete the square", softmax(distance)),
    ),
    {
        "the factor 2 is missing": softmax(
            lambda a, b: -alpha * ((a - qy) ** 2 + (b - qx) ** 2 - Dy * (a - qy) - Dx * (b - qx))
        ),
        "the opposite offset": softmax(lambda a, b: -alpha * ((a - qy + Dy) ** 2 + (b - qx + Dx) ** 2)),
        "the shift is in the numerator only": softmax(distance, quadratic),
    },
    WORLDS[:2],
)


def limit_softmax(row: Expr, column: Expr) -> Expr:
    """11c as α → ∞: exp(−α‖δ − Δ‖²) → [δ₁ = Δ₁][δ₂ = Δ₂], above and below."""
    hit = lambda a, b: KroneckerDelta(a - qy - sy, 0) * KroneckerDelta(b - qx - sx, 0)  # noqa: E731
    return hit(row, column) / Sum(hit(ly, lx), ly, lx)


def pixel_heads(weight: Expr, tap: Expr = kernel[sy + M, sx + M, c, o]) -> Expr:
    """The sum over (2M+1)² heads, each with the matrix of one tap."""
    return Sum(weight * X[my, mx, c] * tap, sy, sx, my, mx, c)


pixel_convolution = Sum(kernel[sy + M, sx + M, c, o] * X[qy + sy, qx + sx, c], sy, sx, c)
LIMIT = Identity(
    "11d",
    "as α → ∞, attention over pixels with K² heads and quadratic scores is a K×K convolution, K = 2M+1",
    (qy, qx, o),
    (
        ("the limit of 11c in every head, times the matrix of the head's tap", pixel_heads(limit_softmax(my, mx))),
        ("the denominator is 1", pixel_heads(at(my, mx))),
        ("each head reads one pixel", pixel_convolution),
    ),
    {
        "all heads share the centre tap": Sum(kernel[M, M, c, o] * X[qy + sy, qx + sx, c], sy, sx, c),
        "the kernel is flipped": Sum(kernel[M - sy, M - sx, c, o] * X[qy + sy, qx + sx, c], sy, sx, c),
        "one row of heads too few": Sum(kernel[sy + M, sx + M, c, o] * X[qy + sy, qx + sx, c], (sy, -M, M - 1), sx, c),
    },
    WORLDS[:2],
    (Limit(),),
)

FAMILY = Family(
    11, "Attention expresses every K×K convolution", ("GlobalAttention",), (ONE_HOT, PATCHES, QUADRATIC, LIMIT)
)
