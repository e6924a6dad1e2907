"""Training both forms of small models on scikit-learn's digits: do they learn the same?

The matmul form and both lowerings of the conv form start from one state dict and see the same images in the same order
under the same AdamW; in float64 their losses must coincide at every step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv.errors import check_choice, check_int, check_positive, message
from equiv.ladder.evidence import Evidence, Verdict, combine
from equiv.models import SwinTransformer, VisionTransformer

#: The small models: class and options. DeiT has 16 patches and a class token; Swin has 8×8 locations in windows of 4×4,
#: of which the second block's are shifted by 2 and masked, then, merged, one window of 4×4.
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "deit": (VisionTransformer, {"image_size": 8, "patch_size": 2, "dim": 32, "depth": 2, "heads": 2}),
    "swin": (SwinTransformer, {"patch_size": 1, "dim": 16, "depths": (2, 2), "heads": (2, 4), "window": 4}),
}
COMMON: dict[str, Any] = {"channels": 1, "classes": 10, "mlp_ratio": 2.0}

#: What is compared: the matmul form, the reference, comes first.
FORMS: dict[str, dict[str, str]] = {
    "matmul": {"form": "matmul"},
    "conv literal": {"form": "conv", "lowering": "literal"},
    "conv fused": {"form": "conv", "lowering": "fused"},
}
REFERENCE = "matmul"

#: How far two float64 losses may be apart at any step. Not relative: the losses are of size 1.
TOLERANCE = 1e-9
TEST_IMAGES = 360
INSTALL = "scikit-learn is missing: pip install equiv[train]"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; everything random follows from ``seed``.

    Attributes:
        model: a key of :data:`MODELS`.
        steps: of AdamW.
        batch: images a step.
        activation: of every attention.
        seed: of the initial weights and the order of the images.
        lr: learning rate, constant.
        weight_decay: decoupled, of all parameters.
        eps: AdamW's ε, added to √v. A key bias adds the same to all logits of a query, which softmax ignores; so its
            gradient is 0 but for rounding, about 1e-18. ε=1e-8 keeps that rounding small; with ε=1e-30 it becomes
            steps of full size and random sign: the key biases of the forms drift apart, and the losses do not.
        dtype: of weights and images.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range.

    Example:
        >>> Recipe("deit", steps=10).batch
        16
    """

    model: str
    steps: int = 200
    batch: int = 16
    activation: str = "softmax"
    seed: int = 0
    lr: float = 2e-3
    weight_decay: float = 0.05
    eps: float = 1e-8
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS, "Recipe")
        check_int("steps", self.steps, "Recipe")
        check_int("batch", self.batch, "Recipe")
        check_int("seed", self.seed, "Recipe", minimum=0)
        check_positive("lr", self.lr, "Recipe")
        check_positive("eps", self.eps, "Recipe")


@dataclasses.dataclass(frozen=True)
class Digits:
    """The 8×8 digits: ``images (n, 1, 8, 8)``, standardised by the training part, and ``labels (n,)`` of each part."""

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]


def digits(dtype: torch.dtype = torch.float64) -> Digits:
    """The 1797 digits that ship inside scikit-learn: 1437 to train with and 360 to test, split at random, always alike.

    The file is sorted by writer, so that its own order would test on writers never trained on.

    Raises:
        ImportError: scikit-learn is missing; the message says how to install it.

    Example:
        >>> [len(labels) for _, labels in (digits().train, digits().test)]
        [1437, 360]
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(INSTALL) from error
    read = load_digits()
    images, labels = torch.as_tensor(read.images, dtype=torch.float64)[:, None], torch.as_tensor(read.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    images = ((images - images[train].mean()) / images[train].std()).to(dtype)
    return Digits((images[train], labels[train]), (images[test], labels[test]))


def build(recipe: Recipe, form: str = REFERENCE) -> nn.Module:
    """The recipe's model in one of :data:`FORMS`; all forms get the same initial weights, through their state dict.

    Matrices are drawn with variance 1/(their inputs), positions and bias tables with standard deviation 0.2: the usual
    0.02 would leave the attention of so small a model nearly uniform.

    Raises:
        ValueError: there is no such form.

    Example:
        >>> first, other = build(Recipe("swin")), build(Recipe("swin"), "conv fused")
        >>> all(torch.equal(first.state_dict()[name], other.state_dict()[name]) for name in first.state_dict())
        True
    """
    check_choice("form", form, FORMS, "training.build")
    kind, options = MODELS[recipe.model]
    options = options | COMMON | {"activation": recipe.activation, "dtype": recipe.dtype}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        reference = kind(**options, **FORMS[REFERENCE])
        for name, parameter in reference.named_parameters():
            if "pos_embed" in name or "cls_token" in name or "table" in name:
                nn.init.trunc_normal_(parameter, std=0.2)
            elif parameter.dim() == 2:
                nn.init.trunc_normal_(parameter, std=parameter.shape[1] ** -0.5)
        if form == REFERENCE:
            return reference
        model = kind(**options, **FORMS[form])
    model.load_state_dict(reference.state_dict())
    return model


def train(model: nn.Module, recipe: Recipe, data: Digits) -> Iterator[float]:
    """Train ``model`` in place; yields the loss of each step, the cross entropy of its batch before the update.

    Every epoch is a new permutation of the images, without its incomplete last batch.

    Example:
        >>> recipe = Recipe("deit", steps=3)
        >>> len(list(train(build(recipe), recipe, digits())))
        3
    """
    images, labels = data.train
    if recipe.batch > len(labels):
        raise ValueError(message("batch", recipe.batch, f"at most the {len(labels)} images to train with", "train"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, eps=recipe.eps)
    generator = torch.Generator().manual_seed(recipe.seed)
    batches: list[torch.Tensor] = []
    for _ in range(recipe.steps):
        if not batches:
            order = torch.randperm(len(labels), generator=generator)
            batches = list(order[: len(labels) // recipe.batch * recipe.batch].split(recipe.batch))
        batch = batches.pop(0)
        model.train()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def predict(model: nn.Module, data: Digits) -> tuple[torch.Tensor, float]:
    """Logits ``(n, 10)`` of the test images, and the share of them that is classified right."""
    model.eval()
    logits: torch.Tensor = model(data.test[0])
    return logits, (logits.argmax(1) == data.test[1]).double().mean().item()


@dataclasses.dataclass(frozen=True)
class Trained:
    """A form after training.

    Attributes:
        losses: of each step.
        state: the weights.
        moved: names of the parameters that differ from their initial values.
        logits: of the test images.
        accuracy: on the test images.
        seconds: that it took.
    """

    losses: list[float]
    state: dict[str, torch.Tensor]
    moved: frozenset[str]
    logits: torch.Tensor
    accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Parity:
    """The outcome of :func:`parity`: its evidence, and the trained forms by name, whose losses can be drawn."""

    recipe: Recipe
    evidence: Evidence
    forms: dict[str, Trained]


Builder = Callable[[Recipe], nn.Module]


def parity(
    recipe: Recipe,
    candidates: Mapping[str, Builder] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Parity:
    """Train the matmul form and every candidate alike and compare their losses ``L_t`` at every step t.

    ::

        EQUAL  iff  max_t |L_t(candidate) − L_t(matmul)| ≤ 1e-9

    UNKNOWN if the reference's losses are not finite or a parameter of it never moved, so that its gradient was not
    tested. The verdict speaks of losses; how far weights and test logits are apart at the end is reported beside it,
    key biases by themselves (see :class:`Recipe`).

    Args:
        recipe: of float64, for which the tolerance is meant.
        candidates: builders of modules by name; ``None``: the conv form in both lowerings.
        on_step: called after every step with the name of the form in training.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: the recipe is not one of float64, or there are no candidates.

    Example:
        >>> parity(Recipe("deit", steps=2)).evidence.verdict
        <Verdict.EQUAL: 'EQUAL'>
    """
    if recipe.dtype != torch.float64:
        raise ValueError(message("recipe.dtype", recipe.dtype, "torch.float64", "training.parity"))
    if candidates is None:
        candidates = {form: _builder(form) for form in FORMS if form != REFERENCE}
    if not candidates or REFERENCE in candidates:
        expected = f"one builder or more, none of them named {REFERENCE!r}"
        raise ValueError(message("candidates", sorted(candidates), expected, "training.parity"))
    data = digits(recipe.dtype)
    forms = {}
    for name, builder in {REFERENCE: _builder(REFERENCE), **candidates}.items():
        forms[name] = _trained(builder(recipe), recipe, data, name, on_step)
    parts = [_compare(name, forms[name], forms[REFERENCE], recipe) for name in candidates]
    evidence = combine(parts, f"both forms of the small {recipe.model} learn alike", parts[0].scope)
    evidence = dataclasses.replace(evidence, seed=recipe.seed, reproduce=_reproduce(recipe))
    return Parity(recipe, evidence, forms)


def _builder(form: str) -> Builder:
    return lambda recipe: build(recipe, form)


def _trained(
    model: nn.Module, recipe: Recipe, data: Digits, name: str, on_step: Callable[[str], None] | None
) -> Trained:
    start = time.perf_counter()
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    losses = []
    for loss in train(model, recipe, data):
        losses.append(loss)
        if on_step is not None:
            on_step(f"{recipe.model}, {name}")
    moved = frozenset(key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key]))
    logits, accuracy = predict(model, data)
    state = {key: parameter.detach() for key, parameter in model.named_parameters()}
    return Trained(losses, state, moved, logits, accuracy, time.perf_counter() - start)


def _compare(name: str, one: Trained, reference: Trained, recipe: Recipe) -> Evidence:
    # Where only the candidate is not finite, the deviation is infinite, not NaN, which no comparison would find.
    pairs = list(zip(one.losses, reference.losses, strict=True))
    deviations = [abs(a - b) if math.isfinite(a) else math.inf for a, b in pairs]
    largest = max(deviations)
    step = deviations.index(largest)
    fixed = sorted(reference.state.keys() - reference.moved)
    verdict, reason = Verdict.EQUAL, ""
    if not all(map(math.isfinite, reference.losses)):
        verdict, reason = Verdict.UNKNOWN, "the reference's losses are not all finite: nothing to compare with"
    elif not largest <= TOLERANCE:
        first = next(index for index, deviation in enumerate(deviations) if not deviation <= TOLERANCE)
        verdict = Verdict.DIFFERENT
        reason = (
            f"losses deviate by {largest:.3g} at step {step}, where {TOLERANCE:g} is allowed; first at step {first}: "
            f"got {pairs[first][0]:.12g}, expected {pairs[first][1]:.12g}"
        )
    elif fixed:
        verdict, reason = Verdict.UNKNOWN, f"no step moved {', '.join(fixed)}: their gradients were not compared"
    keys, others = _weights_apart(one.state, reference.state)
    numbers = {
        "largest deviation": largest,
        "tolerance": TOLERANCE,
        "at step": step,
        "tensors compared": recipe.steps,
        "first loss": reference.losses[0],
        "last loss": reference.losses[-1],
        "test accuracy": reference.accuracy,
        "deviation of test logits": _apart(reference.logits, one.logits),
        "deviation of key biases": keys,
        "deviation of other weights": others,
        "seconds": one.seconds + reference.seconds,
    }
    return Evidence(
        verdict,
        claim=f"{name} form of the small {recipe.model} has the losses of its {REFERENCE} form",
        scope=f"{recipe.steps} steps of AdamW on scikit-learn's digits, {recipe.batch} images each, "
        f"{recipe.activation}, float64 on cpu",
        assumptions=("batches, optimizer and initial weights are shared, so an error in them is not found",),
        numbers=numbers,
        seed=recipe.seed,
        reproduce=_reproduce(recipe),
        reason=reason,
    )


def _weights_apart(state: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The largest deviation of the key biases, the second third of each ``qkv.bias``, and that of all other weights."""
    keys, others = [0.0], [0.0]
    for name, value in reference.items():
        deviation = _apart(value, state.get(name))
        if name.endswith("qkv.bias") and math.isfinite(deviation):
            q, k, v = (state[name] - value).abs().chunk(3)
            keys.append(k.max().item())
            deviation = max(q.max().item(), v.max().item())
        others.append(deviation)
    return max(keys), max(others)


def _apart(value: torch.Tensor, other: torch.Tensor | None) -> float:
    """The largest absolute difference; infinite where there is nothing comparable."""
    if other is None or other.shape != value.shape:
        return math.inf
    largest = (other - value).abs().max().item()
    return largest if math.isfinite(largest) else math.inf


def _reproduce(recipe: Recipe) -> str:
    given = [f"{field.name}={getattr(recipe, field.name)!r}" for field in dataclasses.fields(recipe)]
    return f"equiv.training.parity(equiv.training.Recipe({', '.join(given)}))"
