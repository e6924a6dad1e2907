"""Where each identity is written down and proved again: its notebook, and its theorems in Coq. Literal tables.

``proofs/README.md`` shows them; ``tests/symbolic`` checks that every notebook, file and theorem exists, that ``coqc``
accepts each theorem without axioms, and that no identity and no theorem is left out.
"""

from __future__ import annotations

#: The notebook of each family, ``proofs/NAME.ipynb``.
NOTEBOOKS = {
    1: "01_linear",
    2: "02_query_key",
    3: "03_attention",
    4: "04_window",
    5: "05_linformer",
    6: "06_merged",
    7: "07_depthwise",
    8: "08_mixture",
    9: "09_generated",
    10: "10_softmax",
    11: "11_express",
    12: "12_gradient",
}

#: The theorems of each identity: ``File.name`` is in ``proofs/coq/File.v``.
THEOREMS = {
    "1a": ("Linear.linear_is_conv",),
    "1b": ("Linear.static_after_static", "Linear.linear_after_linear"),
    "2a": ("Attention.query_key_is_conv",),
    "3a": ("Attention.attention_value_is_conv",),
    "3b": ("Attention.attention_is_two_convs",),
    "3c": ("Attention.block_is_convs",),
    "4a": ("Window.window_is_selection",),
    "4b": ("Window.window_softmax", "Window.window_sum", "Softmax.masked_is_selected"),
    "4c": ("Window.window_elementwise",),
    "5a": ("Linformer.linformer_is_soft_selection",),
    "5b": ("Linformer.mixing_kernels_is_mixing_logits",),
    "5c": ("Linformer.mixing_after_projecting",),
    "6a": ("Merged.merged_kernel", "Merged.merged_kernel_outer"),
    "6b": ("Merged.merged_with_bias",),
    "6c": ("Merged.merged_in_window",),
    "7a": ("Depthwise.depthwise_is_conv",),
    "7b": ("Depthwise.depthwise_with_bias",),
    "7c": ("Depthwise.depthwise_in_window",),
    "8a": ("Mixture.mixing_kernels_is_mixing_convs",),
    "8b": ("Mixture.convolution_is_unfolded_product",),
    "9a": ("Generated.depthwise_is_unfold_sum",),
    "9b": ("Generated.involution_is_unfold_sum",),
    "10a": ("Softmax.softmax_shift",),
    "10b": ("Softmax.softmax_rows",),
    "10c": ("Softmax.softmax_equivariant", "Softmax.softmax_by_values"),
    "10d": ("Softmax.permutation_equivariance",),
    "11a": ("Express.one_hot_head", "Softmax.one_kept"),
    "11b": ("Express.patches_are_convolved",),
    "11c": ("Express.quadratic_scores",),
    "11d": ("Express.pixels_are_nearly_convolved", "Express.pixels_limit"),
    "12a": ("Gradient.gradient_by_values", "Gradient.losses_agree", "Gradient.lift_exists"),
    "12b": ("Gradient.gradient_by_keys", "Gradient.losses_agree"),
    "12c": ("Gradient.gradient_by_queries", "Gradient.losses_agree"),
    "12d": ("Gradient.gradient_by_weight", "Gradient.linear_losses_agree"),
    "12e": ("Gradient.gradient_by_bias", "Gradient.linear_losses_agree"),
}

#: The theorems behind the facts that derivations in SymPy assume (:mod:`equiv.symbolic.facts`), by map or by kind.
#: ``AtLeast`` is a hypothesis of the theorems; ``perm`` is any permutation there, too.
FACTS = {
    "cat, tap": ("Facts.catK", "Facts.uncatK", "Facts.head_cat", "Facts.sum_cat"),
    "tok": ("Facts.roll_tokK", "Facts.roll_placeK", "Facts.swin_tokK", "Facts.swin_placeK"),
    "Division": ("Facts.division",),
    "Equivariant": ("Softmax.elementwise_equivariant", "Softmax.softmax_is_equivariant"),
    "Limit": ("Express.pixels_limit",),
}
