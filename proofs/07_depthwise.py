# %% [markdown]
# # 7. Depth-wise attention is a depth-wise convolution
#
# Go one step further than the merged kernel: multiply query and key *channel by channel* and average over kernels.
# The average of the kernels can be taken first, and a product by channel is a **depth-wise 1×1 convolution** with it.
# There are no values left; the relative position bias weighs a second bank $z$ (Eq. 5 of the paper, where the symbol
# was lost: the layers have it as an option).

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# Four kernels, their average, and the same as a dense kernel: a diagonal matrix.

# %%
keys = rng.integers(-2, 3, (4, 4))
mean = keys.mean(0)
show.kernels({"bank (one row per kernel)": keys, "average kernel": mean[None], "as a dense kernel": np.diag(mean)})

# %% [markdown]
# ## 7a. Averaging the products with all kernels is one depth-wise convolution with the average kernel

# %%
identity = find("7a")
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
# ## 7b. Eq. 5: the relative position bias, one for each head, weighs a second bank z of depth-wise kernels

# %%
identity = find("7b")
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
# ## 7c. In a shifted window the average is over the kernels of the window's part, and so is their number

# %%
identity = find("7c")
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
print(bridge(7))
