# %% [markdown]
# # 1. A linear layer is a static 1×1 convolution
#
# A Transformer's linear layer multiplies each token, a row of $C$ numbers, by the same matrix $W$ and adds the same
# bias. Put the tokens back where they came from, on the grid of the image: the layer now does the same thing at every
# pixel, reads no neighbour, and its weights do not depend on the image. That is a **static convolution with a 1×1
# kernel**.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# A 3×4 grid of tokens with 2 channels, a kernel of 1×1 taps (one number for each pair of channels), and an output
# channel.

# %%
tokens = rng.integers(-3, 4, (12, 2))
weight = np.array([[2], [-1]])
show.kernels(
    {
        "channel 0 of the map": tokens[:, 0].reshape(3, 4),
        "channel 1 of the map": tokens[:, 1].reshape(3, 4),
        "1×1 kernel, 2 → 1": weight,
        "output = tokens @ weight": (tokens @ weight).reshape(3, 4),
    }
)

# %% [markdown]
# ## 1a. A linear layer on tokens is a K×K convolution with K = 1 on their feature map

# %%
identity = find("1a")
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
# ## 1b. Two static 1×1 convolutions are one, with the product of the kernels and the first bias sent through the second

# %%
identity = find("1b")
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
print(bridge(1))
