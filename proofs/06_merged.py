# %% [markdown]
# # 6. Without activation, one merged kernel
#
# If nothing non-linear stands between the two dynamic convolutions, they are one. Its kernel has $d \times d$
# numbers, the sum of the outer products of keys and values, and it no longer depends on the location: $N^2$ becomes
# $N$. A relative position bias does not merge; it becomes a second term on the values (Eq. 4 of the paper).

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# The merged kernel of six tokens, and the first three of the outer products that it is the sum of.

# %%
keys, values = rng.integers(-2, 3, (6, 3)), rng.integers(-2, 3, (6, 3))
outer = {f"kᵀ v of token {j}": np.outer(keys[j], values[j]) for j in range(3)}
show.kernels({**outer, "merged kernel, all six": keys.T @ values})

# %% [markdown]
# ## 6a. Two linear dynamic convolutions merge into one with the kernel Σ_j k_jᵀ v_j

# %%
identity = find("6a")
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
# ## 6b. Eq. 4: without softmax the relative position bias is a second term, on the values

# %%
identity = find("6b")
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
# ## 6c. Inside a window, the merged kernel sums over the window's tokens only

# %%
identity = find("6c")
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

# %%
print(bridge(6))
