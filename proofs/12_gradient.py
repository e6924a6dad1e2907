# %% [markdown]
# # 12. Both forms have the same gradients
#
# Equal functions have equal gradients, so training either form is training the other. Here both are differentiated
# symbolically and written out. The activation stays unknown: its derivative enters as an uninterpreted Jacobian
# $J(x)_{m, i} = \partial \varphi(x)_m / \partial x_i$.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# ReLU's Jacobian at one row of logits, which is diagonal, and softmax's, which is not.

# %%
logits = rng.integers(-2, 3, 5)
weights = np.exp(logits) / np.exp(logits).sum()
show.kernels(
    {
        "logits": logits[None],
        "Jacobian of ReLU": np.diag((logits > 0).astype(int)),
        "Jacobian of softmax (×4)": 4 * (np.diag(weights) - np.outer(weights, weights)),
    }
)

# %% [markdown]
# ## 12a. Both forms have the same gradient by the values: the transposed convolution, weightsᵀ G

# %%
identity = find("12a")
show.statement(identity)

# %% [markdown]
# Step by step; each step is checked for all sizes as this cell runs.

# %%
show.derivation(identity)

# %%
show.assumptions(identity)

# %% [markdown]
# A proof that cannot fail proves nothing: these wrong variants must be refused, with a point at which they differ.

# %%
show.variants(identity)

# %% [markdown]
# ## 12b. Both forms have the same gradient by the keys: the gradient by the logits, transposed, times the queries

# %%
identity = find("12b")
show.statement(identity)

# %% [markdown]
# Step by step; each step is checked for all sizes as this cell runs.

# %%
show.derivation(identity)

# %%
show.assumptions(identity)

# %% [markdown]
# A proof that cannot fail proves nothing: these wrong variants must be refused, with a point at which they differ.

# %%
show.variants(identity)

# %% [markdown]
# ## 12c. Both forms have the same gradient by the queries: the gradient by the logits times the keys

# %%
identity = find("12c")
show.statement(identity)

# %% [markdown]
# Step by step; each step is checked for all sizes as this cell runs.

# %%
show.derivation(identity)

# %%
show.assumptions(identity)

# %% [markdown]
# A proof that cannot fail proves nothing: these wrong variants must be refused, with a point at which they differ.

# %%
show.variants(identity)

# %% [markdown]
# ## 12d. A linear layer and a static 1×1 convolution have the same gradient by the weight, Xᵀ H

# %%
identity = find("12d")
show.statement(identity)

# %% [markdown]
# Step by step; each step is checked for all sizes as this cell runs.

# %%
show.derivation(identity)

# %%
show.assumptions(identity)

# %% [markdown]
# A proof that cannot fail proves nothing: these wrong variants must be refused, with a point at which they differ.

# %%
show.variants(identity)

# %% [markdown]
# ## 12e. A linear layer and a static 1×1 convolution have the same gradient by the bias, the sum of H over tokens

# %%
identity = find("12e")
show.statement(identity)

# %% [markdown]
# Step by step; each step is checked for all sizes as this cell runs.

# %%
show.derivation(identity)

# %%
show.assumptions(identity)

# %% [markdown]
# A proof that cannot fail proves nothing: these wrong variants must be refused, with a point at which they differ.

# %%
show.variants(identity)

# %% [markdown]
# ## The line that ties it to the code
#
# The same expressions, evaluated in rational arithmetic, and the layers in all their forms, run in float64, on the
# same small integers: every entry must be equal, bit for bit.
#
# φ is ReLU, and the gradients are those that `torch.autograd` computes for each form of the layer.

# %%
print(bridge(12))
