# %% [markdown]
# # 4. Window attention selects kernels by index set
#
# Swin attends inside windows. The textbook code rolls the map, cuts it into windows, attends in each, masks pairs
# that the roll brought together from opposite ends of the map, and undoes it all. As a convolution none of that moves
# data: every location **selects, by an index set, the kernels of its own window** from the one bank. The mask is the
# statement that a kernel is not selected: its weight is 0, which is what a logit of −∞ gives.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge
from equiv.symbolic.families.common import window_maps

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# A 6×6 map, windows of 3×3, shift 1. Left: which window each token is in after the roll. Middle: its region, the end
# of the map that it came from. Right: the index set of the token marked −1: same window *and* same region.

# %%
maps = window_maps((6, 6), (3, 3), (1, 1))
win, region = (np.array([maps[name](t) for t in range(36)]) for name in ("win", "region"))
chosen = ((win == win[35]) & (region == region[35])).astype(int)
chosen[35] = -1
show.kernels({"window": win.reshape(6, 6), "region": region.reshape(6, 6), "index set": chosen.reshape(6, 6)})

# %% [markdown]
# ## 4a. Attending inside partitioned windows is convolving, at each location, with the kernels of its window

# %%
identity = find("4a")
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
# ## 4b. Masked window softmax is softmax over all tokens with weight 0 (a logit of −∞) outside of the window's part

# %%
identity = find("4b")
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
# ## 4c. Without softmax, excluding a kernel is multiplying its activated logit by 0

# %%
identity = find("4c")
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
# 4a is compared with ReLU, and with softmax where float64 computes it exactly (logits that tie or are more than 745
# apart); 4b with equal logits (weights 1, ½, ¼); 4c with ReLU.

# %%
print(bridge(4))
