"""The operators written once more, in steps that a seeded bug can replace.

Each specimen has the name, constructor and parameters of an operator of ``equiv.matmul`` and a forward of its own.
Every intermediate result, and every function that a bug may want to replace, passes through :meth:`Specimen.step`.
Without a bug a specimen equals its operator, which the tests show: so a rejection is due to the bug and not to the
specimen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from equiv import matmul

#: What a bug does to a step: from the correct value or function, and the operator, to the wrong one.
Wrong = Callable[[Any, Any], Any]


class Specimen:
    """An operator in steps; to be mixed into the operator, whose ``forward`` it replaces by ``compute``."""

    bug: Mapping[str, Wrong] = {}

    if TYPE_CHECKING:  # the operator's attributes

        def __getattr__(self, name: str) -> Any: ...

    def step(self, name: str, correct: Any) -> Any:
        return self.bug[name](correct, self) if name in self.bug else correct

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step("out", self.compute(self.step("x", x)))


class Heads(Specimen):
    """Steps of the operators with heads."""

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., N, heads·d)`` as ``(..., heads, N, d)``."""
        return torch.stack(x.chunk(self.heads, -1), -3)

    def merge(self, y: torch.Tensor) -> torch.Tensor:
        return torch.cat(y.unbind(-3), -1)

    def qkv_of(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        bias = self.step("qkv bias", self.qkv.bias)
        q, k, v = self.step("qkv", F.linear(x, self.qkv.weight, bias).chunk(3, -1))
        split = self.step("split", self.split)
        return self.step("q", split(q)), self.step("k", split(k)), self.step("v", split(v))

    def project(self, y: torch.Tensor) -> torch.Tensor:
        return self.proj(self.step("merge", self.merge)(y))

    def table_bias(self, height: int, width: int, class_token: bool = False) -> torch.Tensor:
        """The relative position bias ``(columns, N, N)``."""
        places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        offset = places[:, None] - places + torch.tensor([height - 1, width - 1])
        table = self.step("table", self.relative_position_bias_table)
        bias = self.step("bias", table[offset[..., 0] * (2 * width - 1) + offset[..., 1]].permute(2, 0, 1))
        return self.step("pad bias", lambda b: F.pad(b, (1, 0, 1, 0)))(bias) if class_token else bias

    def scale(self, width: int) -> float:
        return {"softmax": width**-0.5, "scaling": 1 / width, "scaling_relu": 1 / width}.get(self.activation, 1.0)

    def normalise(self, z: torch.Tensor, together: torch.Tensor) -> torch.Tensor:
        wide, t = z.to(torch.promote_types(z.dtype, torch.float32)), together.float()
        count = t.sum(-1, keepdim=True)
        centred = (wide - (wide * t).sum(-1, keepdim=True) / count) * t
        variance = self.step("variance", (centred**2).sum(-1, keepdim=True) / count)
        return (centred / (variance + self.step("eps", 1e-5)).sqrt()).to(z.dtype)

    def phi(self, z: torch.Tensor, together: torch.Tensor) -> torch.Tensor:
        if self.activation == "softmax":
            mask = torch.zeros_like(z).masked_fill(~together, self.step("mask value", getattr(self, "mask_value", 0.0)))
            return self.step("softmax", lambda logits: logits.softmax(-1))(z + mask)
        if self.activation.startswith("layernorm"):
            z = self.step("normalise", self.normalise)(z, together)
        return (z.clamp(min=0) if self.activation.endswith("relu") else z) * together

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None = None,
        together: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``y_i = Σ_j φ_j(s·q_i·k_j + B_ij) v_j`` for ``(..., heads, N, d)``."""
        z = torch.einsum("...id,...jd->...ij", q, k) * self.step("scale", self.scale(q.shape[-1]))
        if bias is not None:
            z = z + bias
        if together is None:
            together = torch.ones(z.shape[-2:], dtype=torch.bool)
        weights = self.step("phi", self.phi)(self.step("z", z), together)
        return torch.einsum("...ij,...jd->...id", self.step("weights", weights), v)


class GlobalAttention(Heads, matmul.GlobalAttention):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.table_bias(*self.relative_position, self.class_token) if self.relative_position else None
        return self.project(self.attend(*self.qkv_of(x), bias))


class LinformerAttention(Heads, matmul.LinformerAttention):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv_of(x)
        e, f = self.step("mixing", (self.mix_key, self.mix_key if self.mix_value is None else self.mix_value))
        equation = "hmj,...hjd->...hmd" if e.dim() == 3 else "mj,...hjd->...hmd"
        return self.project(self.attend(q, torch.einsum(equation, e, k), torch.einsum(equation, f, v)))


class LinearAttention(Heads, matmul.LinearAttention):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv_of(x)
        kernel = self.step("merged", torch.einsum("bhjc,bhjd->bhcd", k, v))
        y = torch.einsum("bhic,bhcd->bhid", q, kernel) * self.step("scale", self.scale(q.shape[-1]))
        if self.relative_position:
            y = y + self.table_bias(*self.relative_position, self.class_token) @ v
        return self.project(y)


class DepthwiseAttention(Heads, matmul.DepthwiseAttention):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        q, k = self.qk(x).chunk(2, -1)
        y = q * self.step("mean", lambda bank: bank.mean(1, keepdim=True))(k)
        if self.relative_position:
            z = self.step("z", {"k": k, "q": q, "x": x})[self.values]
            bias = self.table_bias(*self.relative_position, self.class_token)
            y = y + (bias.repeat_interleave(self.dim // len(bias), 0) @ z.mT[..., None]).squeeze(-1).mT
        return self.proj(y)


class Windows(Heads):
    """The frame of windows: locations gathered by index, not rolled and partitioned."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        w, (height, width) = self.window, x.shape[2:]
        x = self.step("pad", lambda m: F.pad(m, (0, -width % w, 0, -height % w)))(x)
        rows, columns = x.shape[2:]
        shift = (self.shift[0] * (rows > w), self.shift[1] * (columns > w))
        places = torch.arange(rows * columns).view(rows, columns).roll([-s for s in self.step("shift", shift)], (0, 1))
        places = places.view(rows // w, w, columns // w, w).transpose(1, 2).reshape(-1, w * w)
        wrapped = torch.stack((places // columns < shift[0], places % columns < shift[1]), -1)
        together = (wrapped[:, :, None] == wrapped[:, None]).all(-1)
        padded = (places // columns >= height) | (places % columns >= width)
        together = self.step("mask", lambda t, _: t)(together, padded)
        bias = self.table_bias(w, w) if self.relative_position else None
        y = self.inside(x.flatten(2).mT[:, places], bias, together)
        y = y.flatten(1, 2)[:, places.flatten().argsort()].mT.unflatten(2, (rows, columns))
        return self.step("crop", lambda m: m[:, :, :height, :width])(y)


class WindowAttention(Windows, matmul.WindowAttention):
    def inside(self, x: torch.Tensor, bias: torch.Tensor | None, together: torch.Tensor) -> torch.Tensor:
        return self.project(self.attend(*self.qkv_of(x), bias, together[:, None]))


class LinearWindowAttention(Windows, matmul.LinearWindowAttention):
    inside = WindowAttention.inside


class DepthwiseWindowAttention(Windows, matmul.DepthwiseWindowAttention):
    def inside(self, x: torch.Tensor, bias: torch.Tensor | None, together: torch.Tensor) -> torch.Tensor:
        q, k = self.qk(x).chunk(2, -1)
        share = together.to(x.dtype) / together.sum(-1, keepdim=True)
        y = q * (self.step("share", share) @ k)
        if bias is not None:
            z = {"k": k, "q": q, "x": x}[self.values]
            masked = bias.repeat_interleave(self.dim // len(bias), 0) * together[:, None]
            y = y + (masked @ z.mT[..., None]).squeeze(-1).mT
        return self.proj(y)


class DynamicConv2d(Specimen, matmul.DynamicConv2d):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        pool = self.step("pool", lambda m: F.adaptive_avg_pool2d(m, 1).flatten(1))
        hidden = self.fc1(pool(x)).clamp(min=0)
        logits = self.step("temperature", lambda z: z / self.temperature)(self.fc2(hidden))
        coefficients = self.step("coefficients", logits.softmax(-1))
        kernel = self.step("kernel", torch.einsum("bm,mocuv->bocuv", coefficients, self.weight))
        y = F.conv2d(
            self.step("channels", x).reshape(1, -1, *x.shape[2:]),
            kernel.flatten(0, 1),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=len(x) * self.groups,
        ).unflatten(1, (len(x), -1))[0]
        return y if self.bias is None else y + self.step("mixed bias", coefficients @ self.bias)[..., None, None]


class Generated(Specimen):
    """Kernels generated at locations and applied as a sum over shifted maps."""

    def apply_kernels(self, features: torch.Tensor, x: torch.Tensor, groups: int, stride: int) -> torch.Tensor:
        size, reach = self.kernel_size, self.kernel_size // 2
        hidden = F.conv2d(features, self.conv1.weight[:, :, None, None])
        hidden = self.step("bn", self.bn)(hidden).clamp(min=0)
        kernels = F.conv2d(hidden, self.conv2.weight[:, :, None, None], self.conv2.bias)
        kernels = self.step("kernels", kernels.unflatten(1, (groups, size, size)))
        share = self.step("share", lambda ks: ks.repeat_interleave(x.shape[1] // groups, 1))
        kernels = share(kernels)
        padded = self.step("padded", F.pad(x, [reach] * 4))
        return sum(
            (kernels[:, :, u, v] * padded[:, :, u : u + x.shape[2] : stride, v : v + x.shape[3] : stride])
            for u in range(size)
            for v in range(size)
        )


class DynamicDepthwiseConv2d(Generated, matmul.DynamicDepthwiseConv2d):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        features = x.mean((2, 3), keepdim=True) if self.variant == "homogeneous" else x
        y = self.apply_kernels(features, x, self.channels // (self.group_channels or 1), 1)
        return y if self.bias is None else y + self.bias[:, None, None]


class Involution2d(Generated, matmul.Involution2d):
    def compute(self, x: torch.Tensor) -> torch.Tensor:
        s = self.stride
        pool = self.step("pool", lambda m: m.unflatten(3, (-1, s)).unflatten(2, (-1, s)).mean((3, 5)))
        return self.apply_kernels(pool(x), x, self.channels // self.group_channels, s)
