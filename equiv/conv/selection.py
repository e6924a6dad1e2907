"""Kernel selection: which kernels of the bank a location uses.

*Hard* selection picks kernels by index: all of them, or those that were generated inside the location's window.
*Soft* selection replaces the bank by mixtures of its kernels, with learned or predicted coefficients.

A selection is called with the bank and returns a list of :class:`Selected`: sets of locations with the kernels that
serve them. Every location is in exactly one set.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import ClassVar

import torch
import torch.nn.functional as F

from equiv.conv.bank import Generated, KernelBank, take


@dataclasses.dataclass(frozen=True)
class Selected:
    """Sets of locations and the kernels selected for them.

    Attributes:
        bank: the kernels, ``(B, P, h, d, M)`` each, or the one kernel of D-Conv and the generated ones.
        locations: ``(P, L)`` indices of the locations served, ``None``: all, in order.
        bias: relative position bias ``(P or 1, h, L, M)`` of location and kernel, ``None``: zero.
        penalty: ``(P, 1, L, M)`` added to the logits of kernels that are selected only softly, ``None``: zero.
    """

    bank: KernelBank | Generated
    locations: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    penalty: torch.Tensor | None = None


def relative_bias(table: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """``B[h, i, j] = table[(r_i − r_j + H − 1)(2W − 1) + (c_i − c_j + W − 1), h]``, location i, kernel j.

    Args:
        table: ``((2H − 1)(2W − 1), h)``.
        rows: coordinate r of each location, ``(L,)``.
        cols: coordinate c of each location, ``(L,)``.
        grid: ``(H, W)``, the extent that the table covers.
    """
    height, width = grid
    offset = (rows[:, None] - rows[None, :] + height - 1) * (2 * width - 1)
    offset = offset + cols[:, None] - cols[None, :] + width - 1
    return table[offset].movedim(-1, 0)


def lattice(rows: torch.Tensor, cols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of the points of ``rows × cols``, row by row."""
    return rows.repeat_interleave(len(cols)), cols.repeat(len(rows))


@dataclasses.dataclass(frozen=True)
class SelectAll:
    """Every location uses every kernel (ViT).

    Attributes:
        grid: ``(H, W)`` that a relative position bias table covers; ``None`` without one.
        class_token: kernel and location 0 are a class token, without bias.
    """

    grid: tuple[int, int] | None = None
    class_token: bool = False
    kind: ClassVar[str] = "Hard (all)"

    def __call__(self, bank: KernelBank, table: torch.Tensor | None = None) -> list[Selected]:
        if table is None or self.grid is None:
            return [Selected(bank)]
        height, width = self.grid
        coordinates = lattice(*(torch.arange(size, device=table.device) for size in (height, width)))
        bias = relative_bias(table, *coordinates, self.grid)
        if self.class_token:
            bias = F.pad(bias, (1, 0, 1, 0))
        return [Selected(bank, bias=bias[None])]


@dataclasses.dataclass(frozen=True)
class SelectWindow:
    """A location uses the kernels generated inside its window (Swin).

    With ``mask_value`` −∞ no cyclic shift is needed: two locations use each other's kernels exactly if no line of the
    shifted window grid separates them, so the windows are the rectangles that those lines cut out of the map
    (:func:`cut`). With a finite mask value the windows wrap around the map, and kernels from beyond the edge are
    penalised instead of excluded.
    """

    window: int
    shift: tuple[int, int] = (0, 0)
    mask_value: float = -math.inf
    kind: ClassVar[str] = "Hard (local window)"

    def __call__(self, bank: KernelBank, table: torch.Tensor | None = None) -> list[Selected]:
        device = bank.kernels[0].device
        sets = self._rectangles(bank.grid, device) if self.mask_value == -math.inf else self._wrapped(bank.grid, device)
        return [self._select(bank, table, *one) for one in sets]

    def shifts(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The shift along each axis: 0 where one window covers the map."""
        rows, cols = (0 if size <= self.window else shift for size, shift in zip(grid, self.shift, strict=True))
        return rows, cols

    def _select(
        self,
        bank: KernelBank,
        table: torch.Tensor | None,
        rows: torch.Tensor,
        cols: torch.Tensor,
        beyond: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> Selected:
        """The windows at ``rows (P, a)`` × ``cols (Q, b)`` of the map: P·Q sets of a·b locations each."""
        a, b = rows.shape[1], cols.shape[1]
        locations = (rows[:, None, :, None] * bank.grid[1] + cols[None, :, None, :]).reshape(-1, a * b)
        bias = penalty = None
        if table is not None:
            inside = lattice(torch.arange(a, device=rows.device), torch.arange(b, device=rows.device))
            bias = relative_bias(table, *inside, (self.window, self.window))[None]
        if beyond is not None:
            part = (2 * beyond[0][:, None, :, None] + beyond[1][None, :, None, :]).reshape(-1, a * b)
            apart = (part[:, :, None] != part[:, None, :])[:, None]
            penalty = apart.to(bank.kernels[0].dtype) * self.mask_value
        return Selected(bank.take(locations), locations, bias, penalty)

    def _rectangles(
        self, grid: tuple[int, int], device: torch.device
    ) -> list[tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]]:
        shift_rows, shift_cols = self.shifts(grid)
        return [
            (rows.to(device), cols.to(device), None)
            for rows in cut(grid[0], self.window, shift_rows)
            for cols in cut(grid[1], self.window, shift_cols)
        ]

    def _wrapped(
        self, grid: tuple[int, int], device: torch.device
    ) -> list[tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]]:
        axes = []
        for size, shift in zip(grid, self.shifts(grid), strict=True):
            axes.append((torch.arange(size, device=device) + shift).reshape(-1, self.window))
        rows, cols = (axis % size for axis, size in zip(axes, grid, strict=True))
        beyond = tuple((axis >= size).to(rows.dtype) for axis, size in zip(axes, grid, strict=True))
        shifted = any(self.shifts(grid))
        return [(rows, cols, (beyond[0], beyond[1]) if shifted else None)]


def cut(size: int, window: int, shift: int) -> list[torch.Tensor]:
    """Cut ``0 … size−1`` at ``shift, shift + window, …``; the pieces, grouped by length: tensors ``(P, length)``.

    Example:
        >>> [piece.tolist() for piece in cut(6, 3, 1)]
        [[[0]], [[1, 2, 3]], [[4, 5]]]
    """
    lines = sorted({0, *range(shift, size, window), size})
    pieces: dict[int, list[list[int]]] = {}
    for start, stop in itertools.pairwise(lines):
        pieces.setdefault(stop - start, []).append(list(range(start, stop)))
    return [torch.tensor(group) for group in pieces.values()]


@dataclasses.dataclass(frozen=True)
class SelectMixtures:
    """Every location uses the same few mixtures of the bank's kernels, ``k'_m = Σ_j E[m, j] k_j`` (Linformer).

    A static 1×1 convolution from N to ``rank`` channels, with the kernel index as the channel.
    """

    kind: ClassVar[str] = "Soft (learned mixing)"

    def __call__(self, bank: KernelBank, *mixing: torch.Tensor) -> list[Selected]:
        """``mixing``: one tensor for each kernel of a pair, ``(rank, N)``, or ``(h, rank, N)`` to mix by head."""
        pairs = zip(bank.kernels, mixing, strict=True)
        return [Selected(KernelBank(tuple(self._mix(kernel, weight) for kernel, weight in pairs), bank.grid))]

    @staticmethod
    def _mix(kernel: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        batch, _, heads, dim, count = kernel.shape
        channels = kernel[:, 0].transpose(-1, -2)  # (B, h, N, d): kernel index as channel, d locations
        if weight.dim() == 2:
            mixed = F.conv2d(channels.transpose(1, 2).reshape(batch, count, heads, dim), weight[:, :, None, None])
            return mixed.permute(0, 2, 3, 1)[:, None]
        rank = weight.shape[1]
        groups = channels.reshape(batch, heads * count, dim, 1)
        mixed = F.conv2d(groups, weight.reshape(heads * rank, count, 1, 1), groups=heads)
        return mixed.reshape(batch, 1, heads, rank, dim).transpose(-1, -2)


@dataclasses.dataclass(frozen=True)
class SelectRouted:
    """An image uses one mixture of the static kernels, ``W = Σ_m π_m W_m`` with predicted π (D-Conv).

    ``lowering="literal"`` mixes by a 1×1 convolution whose kernels are the coefficients and whose channel is m.
    """

    lowering: str
    kind: ClassVar[str] = "Soft (predicted coefficients)"

    def __call__(self, bank: KernelBank, coefficients: torch.Tensor) -> list[Selected]:
        """``coefficients (B, M)``; a kernel ``(M, …)`` becomes ``(B, …)``."""
        return [Selected(KernelBank(tuple(self._mix(kernel, coefficients) for kernel in bank.kernels)))]

    def _mix(self, kernel: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        if self.lowering == "fused":
            mixed = coefficients @ kernel.flatten(1)
        else:
            channels = kernel.reshape(1, kernel.shape[0], -1, 1)
            mixed = F.conv2d(channels, coefficients[:, :, None, None])
        return mixed.reshape(coefficients.shape[0], *kernel.shape[1:])


@dataclasses.dataclass(frozen=True)
class SelectNone:
    """There is no bank: the generated kernels are used where they were generated (D-DW-Conv, involution)."""

    kind: ClassVar[str] = "N/A"

    def __call__(self, kernels: Generated) -> list[Selected]:
        return [Selected(kernels)]


KernelSelection = SelectAll | SelectWindow | SelectMixtures | SelectRouted | SelectNone


def locate(x: torch.Tensor, chosen: Selected) -> torch.Tensor:
    """The columns of ``x (B, 1, h, d, N)`` at the selected locations, ``(B, P, h, d, L)``."""
    return x if chosen.locations is None else take(x, chosen.locations)


def put_back(outputs: list[torch.Tensor], chosen: list[Selected]) -> torch.Tensor:
    """Undo :func:`locate`: outputs ``(B, P, h, d, L)`` of all sets as one ``(B, 1, h, d, N)``."""
    if len(outputs) == 1 and chosen[0].locations is None:
        return outputs[0]
    columns = torch.cat([y.movedim(1, 3).flatten(3) for y in outputs], dim=-1)
    order = torch.cat([one.locations.flatten() for one in chosen if one.locations is not None])
    return columns[..., order.argsort()][:, None]
