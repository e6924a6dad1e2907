# %% [markdown]
# # 3. Attention = static → dynamic → φ → dynamic → static convolution
#
# After the logits comes an activation φ along the kernel axis (softmax, ReLU, …), and then the weighted sum of the
# values. The attention matrix, read row by row, is a map with $N$ channels; the values are the weights of a second
# dynamic 1×1 convolution, $N \to d$. So a head is **dynamic conv → φ → dynamic conv**, and with the projections a
# block is **static → dynamic → φ → dynamic → static**. φ stays an unknown function: the theorem holds for all
# activations at once.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# One head: the logits, ReLU of them (a map with 6 channels), the second bank, and the output.

# %%
queries, keys, values = (rng.integers(-2, 3, (6, 3)) for _ in range(3))
logits = queries @ keys.T
weights = np.maximum(logits, 0)
show.kernels({"logits": logits, "φ = ReLU": weights, "second bank, N → d": values, "output": weights @ values})

# %% [markdown]
# ## 3a. Multiplying by the values is a 1×1 convolution N → d whose input channel is the kernel index

# %%
identity = find("3a")
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
# ## 3b. Attention with any activation along the kernel axis is a pair of dynamic convolutions around that activation

# %%
identity = find("3b")
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
# ## 3c. A whole multi-head block is static conv → dynamic conv → phi → dynamic conv → static conv

# %%
identity = find("3c")
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
# φ is ReLU here, and softmax where float64 computes it exactly: logits that tie or are more than 745 apart.

# %%
print(bridge(3))
