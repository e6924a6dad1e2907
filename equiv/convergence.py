"""The paper's activations side by side on scikit-learn's digits: which of them learns faster, at this small scale?

The paper says that its models "usually" converge faster once softmax gives way to scaling or ReLU. This trains small
models over several seeds and gives no verdict, only curves and their spread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from equiv.errors import check_int, message
from equiv.training import Recipe, build, digits, predict, train

BASELINE = "softmax"

#: The activations that are compared, with the names of the paper's Table 2.
ACTIVATIONS = {
    BASELINE: "softmax",
    "scaling": "scaling",
    "scaling_relu": "scaling+ReLU",
    "layernorm_relu": "LayerNorm+ReLU",
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training run of the convergence comparison, looked at a few times.

    Attributes:
        model: a key of :data:`MODELS`.
        activation: a key of :data:`ACTIVATIONS`.
        seed: of weights and order; the same seed gives all activations the same of both.
        steps: made when it was looked at.
        losses: mean training loss of the steps since the last look.
        accuracies: on the test images.
    """

    model: str
    activation: str
    seed: int
    steps: list[int]
    losses: list[float]
    accuracies: list[float]


def converge(recipe: Recipe, looks: int = 20, on_step: Callable[[str], None] | None = None) -> Curve:
    """Train the matmul form and look at it ``looks`` times, evenly, the last time at the end.

    Raises:
        ImportError: scikit-learn is missing.

    Example:
        >>> converge(Recipe("deit", steps=4, dtype=torch.float32), looks=2).steps
        [2, 4]
    """
    data = digits(recipe.dtype)
    check_int("looks", looks, "converge")
    model = build(recipe)
    wanted = {round(recipe.steps * (look + 1) / looks) for look in range(looks)}
    curve = Curve(recipe.model, recipe.activation, recipe.seed, [], [], [])
    since: list[float] = []
    for step, loss in enumerate(train(model, recipe, data), start=1):
        since.append(loss)
        if step in wanted:
            curve.steps.append(step)
            curve.losses.append(sum(since) / len(since))
            curve.accuracies.append(predict(model, data)[1])
            since = []
        if on_step is not None:
            on_step(f"{recipe.model}, {ACTIVATIONS.get(recipe.activation, recipe.activation)}, seed {recipe.seed}")
    return curve


def recipes(models: Sequence[str], steps: int = 200, seeds: int = 5) -> list[Recipe]:
    """One recipe for each model, activation and seed 0, 1, …, in float32 with 32 images a step, seed by seed.

    Example:
        >>> len(recipes(["deit", "swin"]))
        40
    """
    check_int("seeds", seeds, "convergence.recipes")
    return [
        Recipe(model, steps, batch=32, activation=activation, seed=seed, dtype=torch.float32)
        for model in models
        for seed in range(seeds)
        for activation in ACTIVATIONS
    ]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean, least and greatest of one number over the seeds.

    Example:
        >>> Spread.of([1.0, 2.0, 6.0])
        Spread(mean=3.0, least=1.0, greatest=6.0)
    """

    mean: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(sum(values) / len(values), min(values), max(values))


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the seeds of one model and activation came to.

    Attributes:
        model: a key of :data:`equiv.training.MODELS`.
        activation: a key of :data:`ACTIVATIONS`.
        seeds: how many.
        run_loss: training loss averaged over the whole run; lower: it learned faster.
        last_loss: training loss since the last look but one.
        accuracy: on the test images at the end.
        faster: seeds in which ``run_loss`` is below that of softmax with the same seed; ``None`` for softmax itself.
        better: seeds in which ``accuracy`` is above that of softmax with the same seed.
    """

    model: str
    activation: str
    seeds: int
    run_loss: Spread
    last_loss: Spread
    accuracy: Spread
    faster: int | None
    better: int | None


def summarise(curves: Sequence[Curve]) -> list[Summary]:
    """One summary for each model and activation, in the order of :data:`ACTIVATIONS`.

    Raises:
        ValueError: a model lacks an activation that another has, or its seeds.

    Example:
        >>> curves = [Curve("deit", "softmax", 0, [1], [2.0], [0.5]), Curve("deit", "scaling", 0, [1], [1.5], [0.5])]
        >>> [(row.activation, row.faster, row.better) for row in summarise(curves)]
        [('softmax', None, None), ('scaling', 1, 0)]
    """
    rows = []
    for model in dict.fromkeys(curve.model for curve in curves):
        of = {
            activation: {
                curve.seed: curve for curve in curves if (curve.model, curve.activation) == (model, activation)
            }
            for activation in ACTIVATIONS
        }
        for activation, runs in of.items():
            if not runs:
                continue
            if runs.keys() != of[BASELINE].keys():
                expected = f"those of {BASELINE}, {sorted(of[BASELINE])}"
                raise ValueError(message("seeds", sorted(runs), expected, f"summarise, {model} {activation}"))
            loss = {seed: _run_loss(curve) for seed, curve in runs.items()}
            other = of[BASELINE]
            baseline = activation == BASELINE
            faster = sum(loss[seed] < _run_loss(other[seed]) for seed in runs)
            better = sum(curve.accuracies[-1] > other[seed].accuracies[-1] for seed, curve in runs.items())
            rows.append(
                Summary(
                    model,
                    activation,
                    len(runs),
                    Spread.of(list(loss.values())),
                    Spread.of([curve.losses[-1] for curve in runs.values()]),
                    Spread.of([curve.accuracies[-1] for curve in runs.values()]),
                    None if baseline else faster,
                    None if baseline else better,
                )
            )
    return rows


def _run_loss(curve: Curve) -> float:
    """The mean over all steps: each look's mean counts for the steps since the look before it."""
    counts = [step - before for before, step in zip([0, *curve.steps], curve.steps, strict=False)]
    return sum(loss * count for loss, count in zip(curve.losses, counts, strict=True)) / curve.steps[-1]
