"""For test suites: ``assert_equivalent``, the pytest plugin, Hypothesis strategies. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv.errors import NotEquivalent, message

if TYPE_CHECKING:
    import torch

    from equiv.ladder.evidence import Evidence

__all__ = ["assert_equivalent"]


def assert_equivalent(
    candidate: Any,
    reference: Any,
    *example_inputs: torch.Tensor,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    rung: str = "float",
    **options: Any,
) -> Evidence:
    """Check that two modules or functions compute the same, and raise if that could not be shown.

    Args:
        candidate: what is under test.
        reference: what it should compute.
        *example_inputs: their shapes and values are used, and random values of their shapes.
        dtype: ``None``: that of the first floating input.
        device: ``None``: that of the first input.
        rung: ``"float"``.
        **options: of :func:`equiv.ladder.floating.check`: gradients, weights, patterns, layout, seed, …

    Returns:
        The evidence; its verdict is EQUAL.

    Raises:
        NotEquivalent: the verdict is DIFFERENT or UNKNOWN; the evidence is attached.
        TypeError, ValueError: an argument is wrong.

    Example:
        >>> import torch
        >>> norm = torch.nn.LayerNorm(8)
        >>> def by_hand(x):
        ...     x = x - x.mean(-1, keepdim=True)
        ...     return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        >>> assert_equivalent(by_hand, norm, torch.randn(4, 8), weights="own").verdict
        <Verdict.EQUAL: 'EQUAL'>
        >>> assert_equivalent(torch.relu, torch.abs, torch.randn(4, 8))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        equiv.errors.NotEquivalent: DIFFERENT: ...
    """
    from equiv.ladder.evidence import Verdict
    from equiv.ladder.floating import check

    call = "assert_equivalent"
    if rung != "float":
        raise ValueError(message("rung", rung, "'float'", call))
    if not example_inputs:
        raise ValueError(message("example_inputs", (), "at least one tensor", call))
    floating = [x for x in example_inputs if getattr(x, "is_floating_point", bool)()]
    if dtype is None:
        if not floating:
            raise ValueError(message("dtype", None, "given, as no example input is floating", call))
        dtype = floating[0].dtype
    evidence = check(
        candidate,
        reference,
        example_inputs,
        dtype=dtype,
        device=example_inputs[0].device if device is None else device,
        **options,
    )
    if evidence.verdict is not Verdict.EQUAL:
        raise NotEquivalent(str(evidence), evidence)
    return evidence
