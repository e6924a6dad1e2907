# %% [markdown]
# # 9. Generated kernels: unfold, multiply, sum
#
# D-DW-Conv (Han et al. 2021) and involution (Li et al. 2021) have no bank at all: their kernels are **generated**, one
# set for the image or one for each location. The textbook form unfolds the patches, multiplies and sums; the
# convolution form convolves each patch with its own kernel. One counts the taps by $t$, the other by $(u, v)$: that
# $t = \mathrm{tap}(u, v)$ loses none and repeats none is a fact that the proof uses.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# How taps are counted, and three locations' own kernels.

# %%
local = rng.integers(-2, 3, (3, 3, 3))
show.kernels({"tap(u, v)": np.arange(9).reshape(3, 3)} | {f"kernel of location {i}": local[i] for i in range(3)})

# %% [markdown]
# ## 9a. A depth-wise convolution with one generated kernel set per image is unfold, multiply, sum

# %%
identity = find("9a")
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
# ## 9b. Involution: each location convolves its own patch with its own kernel, shared by the channels of a group

# %%
identity = find("9b")
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
print(bridge(9))
