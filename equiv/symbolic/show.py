"""How the notebooks in ``proofs/`` show an identity: statement, derivation, assumptions, wrong variants, kernels.

Returned objects print themselves: as LaTeX or Markdown in a notebook, as text elsewhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from sympy import Dummy, Expr, Idx, KroneckerDelta, Symbol
from sympy.core.function import AppliedUndef
from sympy.matrices.expressions.matexpr import MatrixElement
from sympy.printing.latex import LatexPrinter

from equiv.symbolic.calculus import is_activation, proves
from equiv.symbolic.identity import Identity
from equiv.symbolic.world import counterexample


@dataclasses.dataclass(frozen=True)
class Markdown:
    """Markdown text that a notebook renders."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class _Printer(LatexPrinter):
    """LaTeX: indices without their ranges, [i = j] for Kronecker's delta, phi(k ↦ x_k)_m for an activation."""

    def _print_Idx(self, e: Idx) -> str:
        return self._print(e.label)

    def _print_Symbol(self, e: Symbol, style: str = "plain") -> str:
        name = e.name
        if len(name) < 2 or not name.isalpha() or name in ("pi", "alpha"):
            return str(super()._print_Symbol(e, style))
        return rf"{name[0]}_{{{name[1]}}}" if len(name) == 2 else rf"\mathrm{{{name}}}"

    def _print_MatrixElement(self, e: MatrixElement) -> str:
        return rf"{{{self._print(Symbol(e.parent.name))}}}_{{{', '.join(map(self._print, e.args[1:]))}}}"

    def _print_KroneckerDelta(self, e: KroneckerDelta, exp: str | None = None) -> str:
        a, b = map(self._print, e.args)
        text = rf"\left[{a} = {b}\right]"
        return f"{text}^{{{exp}}}" if exp else text

    def _print_Function(self, e: Any, exp: str | None = None) -> str:
        if not isinstance(e, AppliedUndef):
            return super()._print_Function(e, exp)
        name = {"phi": r"\varphi", "rho": r"\varrho"}.get(
            e.func.__name__, rf"\mathrm{{{e.func.__name__}}}".replace("_", r"\_")
        )
        if is_activation(e):
            lam, _, *at = e.args
            inside = rf"{self._print(lam.variables[0])} \mapsto {self._print(lam.expr)}"
            text = rf"{name}\left({inside}\right)_{{{', '.join(map(self._print, at))}}}"
        else:
            text = rf"{name}({', '.join(map(self._print, e.args))})"
        return rf"\left({text}\right)^{{{exp}}}" if exp else text


def latex(e: Expr) -> str:
    """The expression in LaTeX, its nameless indices given letters.

    Example:
        >>> from sympy import IndexedBase, Sum, symbols
        >>> N = symbols("N", integer=True, positive=True)
        >>> i, a = Idx("i", N), IndexedBase("a")
        >>> latex(Sum(a[i], i))
        '\\\\sum_{i=0}^{N - 1} {a}_{i}'
    """
    dummies = sorted(e.atoms(Dummy), key=lambda s: s.dummy_index)
    taken = {s.name for s in e.atoms(Symbol) if not isinstance(s, Dummy)}
    letters = [name for name in (*"ijabuvpqrtxyz", *(f"i{n}" for n in range(99))) if name not in taken]
    names = {dummy: Symbol(name, integer=True) for dummy, name in zip(dummies, letters, strict=False)}
    return str(_Printer({"mul_symbol": r" \, "}).doprint(e.xreplace(names)))


def broken(text: str, width: int = 260) -> str:
    """A long formula in lines: new ones before a sum or an activation that is a factor outside of all brackets."""
    if len(text) <= width:
        return text
    depth, start, lines = 0, 0, []
    for token in re.finditer(
        r"\\left|\\right|[{}]|\\begin|\\end|\\, (?=\\sum|\\varphi|\\varrho|\\mathrm{J}\\left)", text
    ):
        depth += {"\\left": 1, "{": 1, "\\begin": 1, "\\right": -1, "}": -1, "\\end": -1}.get(token[0], 0)
        if token[0] == "\\, " and depth == 0 and token.start() - start > width / 2:
            lines.append(text[start : token.start()])
            start = token.end()
    return r" \\ & \qquad \times ".join([*lines, text[start:]])


def statement(identity: Identity) -> Markdown:
    """What is proved."""
    free = ", ".join(f"{i.label} = {i.lower} … {i.upper}" for i in identity.free)
    return Markdown(
        f"**{identity.name}.** {identity.claim[0].upper() + identity.claim[1:]}:\n\n"
        f"$$\\begin{{aligned}} & {broken(latex(identity.left))} \\\\"
        f" = {{}} & {broken(latex(identity.right))} \\end{{aligned}}$$\n\n"
        f"for all {free}."
    )


def derivation(identity: Identity) -> Markdown:
    """The steps, each with what is done in it; each is checked when this is shown."""
    lines, previous = [], identity.left
    for number, (what, e) in enumerate(identity.steps):
        if not proves(previous, e, identity.facts):
            raise AssertionError(f"{identity.name}: step {what!r} is not proved")
        sign = "" if number == 0 else "= {} "
        formula = rf"\begin{{aligned}} {sign}& {broken(latex(e))} \end{{aligned}}"
        label = f"**Step {number}:**" if number else "**Start:**"
        lines.append(f"{label} {what}\n\n$${formula}$$\n")
        previous = e
    return Markdown("\n".join(lines))


def assumptions(identity: Identity) -> Markdown:
    """What the proof takes for granted; the facts among it are checked by brute force in the concrete cases."""
    for fact in identity.facts:
        for world in identity.worlds:
            fact.check(world)
    return Markdown("Assumed:\n\n" + "\n".join(f"- {a.replace('*', chr(92) + '*')}" for a in identity.assumptions()))


def variants(identity: Identity) -> Markdown:
    """The wrong variants of the right side, and the exact counterexample to each."""
    lines = ["| wrong variant | proved? | counterexample |", "|---|---|---|"]
    for name, variant in identity.wrong.items():
        proved = proves(identity.left, variant, identity.facts)
        witness = counterexample(identity.left, variant, identity.free, identity.worlds)
        if proved or witness is None:
            raise AssertionError(f"{identity.name}: the wrong variant {name!r} was not refused")
        lines.append(f"| {name} | no | {witness.split(' with ')[0]} |")
    return Markdown("\n".join(lines))


def kernels(panels: Mapping[str, Any], caption: str = "") -> None:
    """Draw arrays side by side: blue below 0, red above, one grid line for each entry."""
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(1, len(panels), figsize=(2.2 * len(panels), 2.5), squeeze=False)
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        height, width = values.shape
        top = max(float(abs(values).max()), 1.0)
        axis.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top)
        axis.set_xticks([i - 0.5 for i in range(1, width)], [""] * (width - 1))
        axis.set_yticks([i - 0.5 for i in range(1, height)], [""] * (height - 1))
        axis.grid(color="white", linewidth=1)
        axis.tick_params(length=0)
        axis.set_title(title, fontsize=9)
    if caption:
        plt.figtext(0.5, 0.02, caption, ha="center", fontsize=9)
    plt.tight_layout(rect=(0, 0.06 if caption else 0, 1, 1))
    plt.show()
