# %% [markdown]
# # 10. Softmax: shifts, row sums, permutations
#
# Three properties of softmax that the code relies on: subtracting the maximum of a row changes nothing; the weights
# of a row sum to one; and softmax treats all kernels alike, so that attention does not care about the order of the
# tokens. The last holds for every φ that is equivariant, and that is what its proof assumes.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# Logits, the logits shifted by row, and the softmax of either.

# %%
logits = rng.integers(-2, 3, (4, 5))
shifted = logits - logits.max(1, keepdims=True)
weights = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
show.kernels({"logits": logits, "shifted rows": shifted, "softmax of both": weights})

# %% [markdown]
# ## 10a. Adding the same number to all logits of a row, such as minus their maximum, changes nothing

# %%
identity = find("10a")
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
# ## 10b. Each row of a softmax sums to one

# %%
identity = find("10b")
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
# ## 10c. Permuting the logits permutes the softmax

# %%
identity = find("10c")
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
# ## 10d. Permuting the tokens permutes the output of attention, if phi treats all kernels alike

# %%
identity = find("10d")
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
# Softmax itself is compared where float64 computes it exactly: equal logits, with weights 1/4. 10d is compared with
# ReLU for φ.

# %%
print(bridge(10))
