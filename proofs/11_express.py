# %% [markdown]
# # 11. Attention expresses every K×K convolution
#
# The other direction: attention can be *any* convolution. Cut the image into patches of $P \times P$ pixels (Li et
# al. 2021). A head whose relative position bias is 0 at one offset between patches and −∞ elsewhere reads the patch
# at that offset, and its values and output projection hold the taps that fall into it. $(2M+1)^2$ heads are a
# $(2r+1)\times(2r+1)$ convolution as soon as $P M \ge r$: nine heads if the kernel is no larger than $2P+1$. On
# pixels, Cordonnier et al. (2020) reach the one-hot weights as a limit, from quadratic position scores.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# $P = 2$, a 5×5 kernel around the pixel at the top left of the middle patch: which of the nine heads holds each tap.
# Right: softmax of Cordonnier's scores for α = ½, 2: it tends to one-hot.

# %%
rows = np.arange(-2, 3)
heads = 3 * (rows // 2 + 1)[:, None] + (rows // 2 + 1)[None]
squares = rows[:, None] ** 2 + (rows[None] - 1) ** 2
soft = {f"softmax, α = {a}": np.exp(-a * squares) / np.exp(-a * squares).sum() for a in (0.5, 2)}
show.kernels({"head of each tap": heads, **soft})

# %% [markdown]
# ## 11a. A head whose relative bias is 0 at one offset and −∞ elsewhere reads the patch at that offset

# %%
identity = find("11a")
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
# ## 11b. Attention over P×P patches with (2M+1)² heads is a (2r+1)×(2r+1) convolution of the pixels, if P·M ≥ r

# %%
identity = find("11b")
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
# ## 11c. Cordonnier's quadratic scores are −α times the squared distance to the offset Δ, up to a shift of the row

# %%
identity = find("11c")
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
# ## 11d. As α → ∞, attention over pixels with K² heads and quadratic scores is a K×K convolution, K = 2M+1

# %%
identity = find("11d")
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
# 11a is the head inside 11b, and is compared with it. 11c is about real numbers `exp(−α …)`, which no float64 holds
# exactly, so no bridge is claimed for it; 11d is compared after the limit.

# %%
print(bridge(11))
