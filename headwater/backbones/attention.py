"""The transformer block: pre-norm attention with rotary positions, then SwiGLU."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones.positions import rotate
from headwater.errors import InputError

EPSILON = 1e-6  # of RMSNorm


class Attention(nn.Module):
    """Multi-head self-attention, fused; queries and keys are turned by their places."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            nearest = max(1, round(width / heads)) * heads
            raise InputError(f"width {width} does not split into {heads} heads: use width {nearest}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N D"], cos: Float[Tensor, "b 1 N P"], sin: Float[Tensor, "b 1 N P"]
    ) -> Float[Tensor, "B N D"]:
        """cos, sin of the angles of the N places; b is 1 when all images share them."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each B H N E
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.out(y.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Gated feed-forward of 8/3 the width, which costs what a plain one of 4 does (Shazeer 2002.05202)."""

    def __init__(self, width: int):
        super().__init__()
        hidden = -(-width * 8 // 3 // 16) * 16
        self.gate = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """silu(a) * b, then back to the width."""
        a, b = self.gate(x).chunk(2, -1)
        return self.out(F.silu(a) * b)


class Block(nn.Module):
    """x + attention(norm x), then x + swiglu(norm x). The sum keeps the precision of the weights under autocast."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm_attention, self.attention = nn.RMSNorm(width, EPSILON), Attention(width, heads)
        self.norm_mix, self.mix = nn.RMSNorm(width, EPSILON), SwiGLU(width)

    def forward(
        self, x: Float[Tensor, "B N D"], cos: Float[Tensor, "b 1 N P"], sin: Float[Tensor, "b 1 N P"]
    ) -> Float[Tensor, "B N D"]:
        """Same shape."""
        x = x + self.attention(self.norm_attention(x), cos, sin)
        return x + self.mix(self.norm_mix(x))


def initialise(module: nn.Module, depth: int) -> None:
    """Truncated normal 0.02 for every linear map; what is added to the sum is scaled down by sqrt(2 depth) (GPT-2)."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            std = 0.02 / (2 * depth) ** 0.5 if name.endswith(".out") else 0.02
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
