"""Theorems made wrong: what is wrong, ``File.theorem``, and one change in its statement. Coq must refuse it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutant:
    """``old`` is in the statement of the theorem exactly once."""

    what: str
    theorem: str
    old: str
    new: str


MUTANTS = (
    Mutant("the kernel reads the next column", "Linear.linear_is_conv", "(x + v)%N) c *", "(x + v).+1) c *"),
    Mutant("the bias is dropped", "Linear.linear_is_conv", "W c o + b 0 o", "W c o"),
    Mutant("the first bias is dropped", "Linear.static_after_static", "(fun p => \\sum_o b o * W2 o p + b2 p)", "b2"),
    Mutant("the first bias is dropped", "Linear.linear_after_linear", "(b *m W2 + b2)", "b2"),
    Mutant("location and kernel change places", "Attention.query_key_is_conv", "s * K m k) n m", "s * K m k) m n"),
    Mutant("the scale is applied twice", "Attention.query_key_is_conv", "s * K m k", "s * (s * K m k)"),
    Mutant("the weights are transposed", "Attention.attention_value_is_conv", "fun n m => A n m", "fun n m => A m n"),
    Mutant("the bias is transposed", "Attention.attention_is_two_convs", "(fun n => Bias n)", "(fun n m => Bias m n)"),
    Mutant(
        "the values are the keys",
        "Attention.attention_is_two_convs",
        "(fun n => K n) (fun n => V n)",
        "(fun n => K n) (fun n => K n)",
    ),
    Mutant("keys from the queries' weight", "Attention.block_is_convs", "(project Wk bk gc.1)", "(project Wq bq gc.1)"),
    Mutant("the bias is transposed", "Attention.block_is_convs", "(fun n => Rel gc.1 n)", "(fun n m => Rel gc.1 m n)"),
    Mutant("no output bias", "Attention.block_is_convs", "(fun o => bo 0 o)", "(fun o => 0)"),
    Mutant("the penalty is left out", "Window.window_is_selection", "+ Penalty (win n) (pos n) j", ""),
    Mutant("the bias is transposed", "Window.window_is_selection", "Rel (pos n) j", "Rel j (pos n)"),
    Mutant(
        "masked after the softmax",
        "Window.window_softmax",
        "masked (fun j => region (own j) == region n) (fun j => logit (own j))",
        "masked predT (fun j => logit (own j))",
    ),
    Mutant("the same place, not window", "Window.window_sum", "(win m == win n)", "(pos m == pos n)"),
    Mutant("no mask", "Window.window_elementwise", "(region (tok (win n, j)) == region n)%:R *", "1 *"),
    Mutant("the values are mixed as the keys", "Linformer.linformer_is_soft_selection", "(F *m V)", "(E *m V)"),
    Mutant("mixed without the scale", "Linformer.mixing_kernels_is_mixing_logits", "s *: (Q *m K^T)", "(Q *m K^T)"),
    Mutant("the order does not matter", "Linformer.mixing_after_projecting", "(\\sum_m E p m) * b 0 k", "b 0 k"),
    Mutant("merged the other way round", "Merged.merged_kernel", "K m a * V m k", "K m k * V m a"),
    Mutant(
        "keys and values change places",
        "Merged.merged_kernel_outer",
        "(row m K)^T *m row m V",
        "(row m V)^T *m row m K",
    ),
    Mutant("the bias acts on the keys", "Merged.merged_with_bias", "Bias n m * V m k", "Bias n m * K m k"),
    Mutant(
        "a window's keys, everyone's values",
        "Merged.merged_in_window",
        "k (token n j) a * v (token n j) c) n c",
        "k (token n j) a * v n c) n c",
    ),
    Mutant(
        "the kernel is dense",
        "Depthwise.depthwise_is_conv",
        "diagonal (fun _ c => t * \\sum_m k m c)",
        "fun _ _ c => t * \\sum_m k m c",
    ),
    Mutant("the bias is transposed", "Depthwise.depthwise_with_bias", "fun n m => Rel g n m", "fun n m => Rel g m n"),
    Mutant(
        "divided by the window's size",
        "Depthwise.depthwise_in_window",
        "#|[pred j | region (own j) == region n]|%:R",
        "#|Place|%:R",
    ),
    Mutant(
        "not mixed", "Mixture.mixing_kernels_is_mixing_convs", "\\sum_q pi q * bank q o c t)", "\\sum_q bank q o c t)"
    ),
    Mutant(
        "another location",
        "Mixture.convolution_is_unfolded_product",
        "convolve kernel (at_ y) o",
        "convolve kernel (at_ y) o *+ 2",
    ),
    Mutant("taps column by column", "Generated.depthwise_is_unfold_sum", "cat (u, v)", "cat (v, u)"),
    Mutant(
        "groups are interleaved",
        "Generated.involution_is_unfold_sum",
        "\\sum_v local g (u, v) y",
        "\\sum_v local g (v, u) y",
    ),
    Mutant("a factor instead of a shift", "Softmax.softmax_shift", "Some (x j + t)", "Some (x j * t)"),
    Mutant("a shift without its hypothesis", "Softmax.softmax_shift", "e t != 0 -> ", ""),
    Mutant("rows sum to zero", "Softmax.softmax_rows", "softmax x i = 1", "softmax x i = 0"),
    Mutant("softmax stays as it was", "Softmax.softmax_equivariant", "softmax x (s i)", "softmax x i"),
    Mutant("the denominator counts all", "Softmax.masked_is_selected", "\\sum_(j | keep j)", "\\sum_j"),
    Mutant("the values are not permuted", "Softmax.permutation_equivariance", "(row_perm p V) 0", "V 0"),
    Mutant("the wrong offset", "Express.one_hot_head", "= v (q.1 + s.1)%N", "= v (q.1 + s.2)%N"),
    Mutant(
        "a kernel off by one",
        "Express.patches_are_convolved",
        "(P * q.1 + p.1 + t.1 + off)",
        "(P * q.1 + p.1 + t.1 + off.+1)",
    ),
    Mutant("a smaller grid", "Express.patches_are_convolved", "(q.1 + M.*2 < Ny)%N ->", "(q.1 + M < Ny)%N ->"),
    Mutant("the factor 2 is missing", "Express.quadratic_scores", "(Dy * dy l) *+ 2", "(Dy * dy l)"),
    Mutant(
        "the bound is the square", "Express.pixels_are_nearly_convolved", "<= e (- alpha) *", "<= e (- alpha) ^+ 2 *"
    ),
    Mutant("no small number is needed", "Express.pixels_limit", "0 < e (- alpha) < x0 ->", "0 < e (- alpha) ->"),
    Mutant(
        "the weights are not transposed", "Gradient.gradient_by_values", "weights n m * G n k", "weights m n * G n k"
    ),
    Mutant("the scale is left out", "Gradient.gradient_by_keys", "(s * \\sum_n", "(\\sum_n"),
    Mutant("queries instead of keys", "Gradient.gradient_by_queries", "* K m k", "* Q m k"),
    Mutant("averaged over tokens", "Gradient.gradient_by_weight", "(X^T *m H) c o", "(X^T *m H) c o *+ N"),
    Mutant("one token only", "Gradient.gradient_by_bias", "(\\sum_n H n o)", "(\\sum_(n < N | n == 0%N :> nat) H n o)"),
    Mutant("a remainder of P is allowed", "Facts.division", "int * 'I_P,", "int * 'I_P.+1,"),
    Mutant("heads are interleaved", "Facts.head_cat", "its_head (cat (g, c)) = g", "its_head (cat (g, c)) = c :> nat"),
)
