# %% [markdown]
# # 2. Query-key product = dynamic convolution d → N
#
# Attention begins with the products of all queries with all keys: a matrix of $N \times N$ logits. Read it
# differently: fix the keys. They are $N$ vectors of $d$ numbers, that is, the weights of a **1×1 convolution with $d$
# input and $N$ output channels**. Convolving the map of queries with it gives, at each location, a vector of $N$
# numbers: its row of the logits. The kernel was computed from the image: the convolution is **dynamic**, and the keys
# of all tokens are its *kernel bank*.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# The queries as a map, the bank (column $m$ is the key of token $m$), and the logits: location down, kernel index
# across.

# %%
queries, keys = rng.integers(-2, 3, (6, 3)), rng.integers(-2, 3, (6, 3))
show.kernels({"queries, N × d": queries, "bank 1×1×d×N": keys.T, "logits, N × N": queries @ keys.T})

# %% [markdown]
# ## 2a. The scaled query-key product is a 1×1 convolution of the queries with the keys as kernels

# %%
identity = find("2a")
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
print(bridge(2))
