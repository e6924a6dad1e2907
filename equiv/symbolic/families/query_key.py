"""Family 2: the query-key product is a dynamic 1×1 convolution with bank 1×1×d×N: kernel m is the key of token m."""

from __future__ import annotations

from sympy import Expr, Sum

from equiv.symbolic.families.common import WORLDS, K, Q, conv1x1, d, k, m, n, s
from equiv.symbolic.identity import Family, Identity


def logits(location: Expr, kernel: Expr) -> Expr:
    """Output channel ``kernel`` of the dynamic convolution at ``location``."""
    return conv1x1(lambda z: Q[location, z], lambda z: s * K[kernel, z], d)


QUERY_KEY = Identity(
    "2a",
    "the scaled query-key product is a 1×1 convolution of the queries with the keys as kernels",
    (n, m),
    (
        ("entry (n, m) of s Q Kᵀ", s * (Q * K.T)[n, m]),
        ("name the sum over channels", s * Sum(Q[n, k] * K[m, k], k)),
        ("at location n, output channel m: the kernel of token m, scaled", logits(n, m)),
    ),
    {
        "location and kernel change places": logits(m, n),
        "every location uses its own kernel only": logits(n, n),
        "the scale is applied twice": s * logits(n, m),
        "the kernel is a column of K": conv1x1(lambda z: Q[n, z], lambda z: s * K[z, m], d),
    },
    WORLDS,
)

FAMILY = Family(2, "Query-key product = dynamic convolution d → N", ("GlobalAttention",), (QUERY_KEY,))
