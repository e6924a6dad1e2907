# %% [markdown]
# # 8. D-Conv: a mixture of kernels is a mixture of convolutions
#
# D-Conv (Chen et al. 2020) keeps a small **static** bank of ordinary K×K kernels and mixes them with coefficients
# predicted from the image. Convolution is linear in its kernel, so mixing kernels (one convolution) is mixing the
# outputs of all kernels (as many convolutions as the bank has). The textbook form of the layer then unfolds the
# patches and multiplies by a matrix.

# %%
import numpy as np

from equiv.symbolic import find, show
from equiv.symbolic.bridge import bridge

rng = np.random.default_rng(0)

# %% [markdown]
# ## The kernels
#
# Three kernels of a bank, and their mixture with coefficients ½, 0, ½.

# %%
bank, coefficients = rng.integers(-2, 3, (3, 3, 3)), np.array([0.5, 0, 0.5])
mixed = np.tensordot(coefficients, bank, 1)
show.kernels({f"kernel {m}, π = {coefficients[m]}": bank[m] for m in range(3)} | {"mixed kernel": mixed})

# %% [markdown]
# ## 8a. Convolving with the mixture of kernels is mixing the convolutions, at any stride, dilation and padding

# %%
identity = find("8a")
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
# ## 8b. The convolution is the product of the kernel as a matrix C'×(C·K²) with the unfolded patches

# %%
identity = find("8b")
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
print(bridge(8))
