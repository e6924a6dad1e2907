# %% [markdown]
# # 5. Linformer selects mixtures of kernels
#
# Linformer shortens attention from $N$ kernels to $R$ by learned mixtures of keys and values. In the language of
# dynamic convolutions that is a **soft selection from the bank**: each of the $R$ kernels is a mixture of the $N$ in
# it. Whether one mixes the kernels or the logits that they give is the same before φ, not after it. And the order of
# *projecting* and *mixing* matters as soon as the projection has a bias: the bias is multiplied by the sum of the
# mixture's row.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# Eight kernels, a learned 3×8 mixture, three mixed kernels.

# %%
keys, mixing = rng.integers(-2, 3, (8, 3)), rng.integers(-1, 2, (3, 8))
show.kernels({"bank (one row per kernel)": keys, "mixing E": mixing, "mixed kernels E K": mixing @ keys})

# %% [markdown]
# ## 5a. Attention over projected keys and values is a pair of convolutions with softly selected kernels

# %%
identity = find("5a")
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
# ## 5b. Mixing kernels is mixing logits, if that is done before phi

# %%
identity = find("5b")
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
# ## 5c. Mixing projected tokens is projecting mixed tokens, except that the bias is multiplied by the mixture's row sum

# %%
identity = find("5c")
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
print(bridge(5))
