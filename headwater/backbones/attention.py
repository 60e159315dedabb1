"""The transformer block, in every style: attention with heads that may differ, then a feed-forward part, each added."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headwater.backbones.kernels import KERNELS, LARGEST_BETA, attend, first_beta, one_of, per_head
from headwater.backbones.norms import EPSILON, NORMS, PLACES, HeadNorm, add, norm_of
from headwater.backbones.positions import POSITIONS, rotate
from headwater.errors import InputError

INITIAL = ("small", "orthogonal", "mimetic")
POOLED = ("mean", "class")


class SwiGLU(nn.Module):
    """Gated feed-forward of 8/3 the width, which costs what a plain one of 4 does (Shazeer 2002.05202)."""

    def __init__(self, width: int, hidden: int = 0):
        super().__init__()
        hidden = hidden or -(-width * 8 // 3 // 16) * 16
        self.gate = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """silu(a) * b, then back to the width."""
        a, b = self.gate(x).chunk(2, -1)
        return self.out(F.silu(a) * b)


class GELU(nn.Module):
    """Plain feed-forward of 4 times the width, as in the first ViT."""

    def __init__(self, width: int, hidden: int = 0):
        super().__init__()
        hidden = hidden or 4 * width
        self.into, self.out = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Wider, gelu, then back."""
        return self.out(F.gelu(self.into(x)))


MIXES = {"swiglu": SwiGLU, "gelu": GELU}


@dataclass(frozen=True)
class Style:
    """What kind of transformer. The defaults are the plain one, after Primus.

    kernels      of the heads: one name, "mixed", or a tuple with every head's (kernels.py)
    normed       gain and temperature per head even where all are plain softmax; other heads always have them
    positions    rotary | none | sinusoidal | learned | relative; reach: tokens of the tables of the last two, per axis
    antialias    learned tables are smoothed before 2D grids coarser than theirs sample them (timm, DINOv2 with registers)
    norm, place  rms | layer, and pre | post | peri | ngpt (norms.py); epsilon: of every norm but those of heads
    mix, hidden  swiglu | gelu: the feed-forward part, and its channels; 0: 8/3 and 4 times the width
    qk_norm      RMSNorm of queries and keys per head (Henry 2010.04245; ngpt always has it); qkv_bias: as most published ViTs
    registers    tokens without a place that all others may read and write (Darcet 2309.16588); never in Features
    layer_scale  first factor of every step, learned per channel; 0 for none
    drop_path    share of images whose step is left out in training: from 0 at the first block to this at the last
    initial      small | orthogonal | mimetic (`initialise`)
    pooled       mean of the tokens | class: the first register after the last norm (a class token)
    Raises: InputError for a name that does not exist and for settings that contradict each other.
    """

    kernels: str | tuple[str, ...] = "softmax"
    normed: bool = False
    positions: str = "rotary"
    reach: int | tuple[int, ...] = 16
    antialias: bool = False
    norm: str = "rms"
    epsilon: float = EPSILON
    place: str = "pre"
    mix: str = "swiglu"
    hidden: int = 0
    qk_norm: bool = False
    qkv_bias: bool = False
    registers: int = 0
    layer_scale: float = 0.0
    drop_path: float = 0.0
    initial: str = "small"
    pooled: str = "mean"

    def __post_init__(self):
        named = {"positions": POSITIONS, "norm": NORMS, "place": PLACES, "mix": MIXES, "initial": INITIAL, "pooled": POOLED}
        for what, known in named.items():
            one_of(getattr(self, what), tuple(known), what)
        heads = len(KERNELS) if isinstance(self.kernels, str) else len(self.kernels)
        if "linear" in per_head(self.kernels, heads) and self.positions == "relative":
            raise InputError("linear heads have no scores that relative positions could bias: use positions='rotary'")
        if self.place == "ngpt" and self.layer_scale:
            raise InputError("the step sizes of place='ngpt' do what layer_scale does: use layer_scale=0")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path {self.drop_path} is no share of the images: use 0 to 0.9")
        if min(self.registers, self.layer_scale, self.hidden) < 0 or self.epsilon <= 0:
            raise InputError("registers, layer_scale and hidden are 0 or more, epsilon is positive")
        if self.pooled == "class" and not self.registers:
            raise InputError("pooled='class' reads the first register, and there is none: use registers=1")

    def control(self) -> "Style":
        """The matched control: all heads softmax, the same parameters to the last weight (norm and temperature per head stay)."""
        return replace(self, kernels="softmax", normed=True)


class Attention(nn.Module):
    """Multi-head self-attention; queries and keys are turned by their places.

    Heads of different kernels are computed kernel by kernel, each head's output brought to one scale (`HeadNorm`), then fused.
    Plain softmax heads are one call of torch's fused attention.
    """

    def __init__(self, width: int, heads: int, style: Style = Style()):
        super().__init__()
        if heads < 1 or width % heads:
            nearest = max(1, round(width / max(heads, 1))) * max(heads, 1)
            fits = min((h for h in range(1, width + 1) if width % h == 0), key=lambda h: abs(h - heads))
            raise InputError(f"width {width} does not split into {heads} heads: use {fits} heads, or width {nearest}")
        self.heads, head, self.kernels = heads, width // heads, per_head(style.kernels, heads)
        self.qkv = nn.Linear(width, 3 * width, bias=style.qkv_bias)
        self.out = nn.Linear(width, width)
        if style.qk_norm or style.place == "ngpt":
            self.norm_q, self.norm_k = nn.RMSNorm(head, style.epsilon), nn.RMSNorm(head, style.epsilon)
        else:
            self.norm_q = self.norm_k = None
        self.plain = set(self.kernels) == {"softmax"} and not style.normed
        if not self.plain:
            self.log_beta = nn.Parameter(torch.tensor([first_beta(kernel, head) for kernel in self.kernels]).log())
            self.norm_heads = HeadNorm(heads, head)
            self.groups = {kernel: self.kernels.count(kernel) for kernel in dict.fromkeys(self.kernels)}  # heads of each
            order = [h for kernel in self.groups for h, own in enumerate(self.kernels) if own == kernel]
            self.order = None if order == sorted(order) else order
            self.back = [order.index(h) for h in range(heads)]

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        cos: Float[Tensor, "b 1 N P"] | None = None,
        sin: Float[Tensor, "b 1 N P"] | None = None,
        bias: Float[Tensor, "b H N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """cos, sin of the angles of the N places, bias of the scores; b is 1 when all images share them."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each B H N E
        if self.norm_q is not None:  # in the precision of the weights: autocast leaves this norm alone
            exact = self.norm_q.weight.dtype
            q, k = self.norm_q(q.to(exact)).to(v.dtype), self.norm_k(k.to(exact)).to(v.dtype)
        if not self.plain:
            y = self.norm_heads(self.mixed(q, k, v, cos, sin, bias))
        else:
            if cos is not None:
                q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        return self.out(y.transpose(1, 2).flatten(2))

    def mixed(
        self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, bias: Tensor | None
    ) -> Float[Tensor, "B H N E"]:
        """Every head's answer by its own kernel, in the order of the heads; one pass per kernel."""
        beta = self.log_beta.exp().clamp_max(LARGEST_BETA).view(-1, 1, 1)
        if self.order is not None:
            q, k, v, bias = (x if x is None else x[:, self.order] for x in (q, k, v, bias))
            beta = beta[self.order]
        parts, start = [], 0
        for kernel, count in self.groups.items():
            run = slice(start, start := start + count)
            biased = None if bias is None else bias[:, run]
            parts.append(attend(q[:, run], k[:, run], v[:, run], beta[run], kernel, cos, sin, biased))
        y = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return y if self.order is None else y[:, self.back]


class Block(nn.Module):
    """Attention, then feed-forward; the plain one is x + attention(norm x), then x + swiglu(norm x)."""

    def __init__(self, width: int, heads: int, style: Style = Style(), drop: float = 0.0):
        super().__init__()
        self.place, self.drop = style.place, drop
        for part, module in (("attention", Attention(width, heads, style)), ("mix", MIXES[style.mix](width, style.hidden))):
            norms = [norm_of(style.norm, width, style.epsilon) for _ in range({"ngpt": 0, "peri": 2}.get(self.place, 1))]
            self.add_module(f"norm_{part}", norms[0] if norms else nn.Identity())
            self.add_module(f"after_{part}", norms[1] if self.place == "peri" else None)
            first = style.layer_scale or float(self.place == "ngpt")  # ngpt: `initialise` knows the depth
            self.register_parameter(f"scale_{part}", nn.Parameter(torch.full((width,), first)) if first else None)
            self.add_module(part, module)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        cos: Float[Tensor, "b 1 N P"] | None = None,
        sin: Float[Tensor, "b 1 N P"] | None = None,
        bias: Float[Tensor, "b H N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Same shape. The sum keeps the precision of the weights under autocast."""
        how = {"place": self.place, "drop": self.drop if self.training else 0.0}
        x = add(
            x,
            lambda z: self.attention(z, cos, sin, bias),
            self.norm_attention,
            after=self.after_attention,
            scale=self.scale_attention,
            **how,
        )
        return add(x, self.mix, self.norm_mix, after=self.after_mix, scale=self.scale_mix, **how)


def initialise(module: nn.Module, depth: int, initial: str = "small") -> None:
    """Weights of all blocks within a module, from torch's generator; step sizes of ngpt become 1 / depth.

    small       truncated normal 0.02 for every linear map; what is added to the sum is scaled down by sqrt(2 depth) (GPT-2)
    orthogonal  small, but all heads' queries read orthonormal directions, so do keys and values, and the output map is
                orthogonal over sqrt(2 depth): heads start in different subspaces, scores of order one
    mimetic     small, but W_q' W_k is near 0.7 I per head (its best approximation of the head's rank) and W_out W_v near -0.4 I
                (Trockman & Kolter 2305.09828). One SVD per head: about a minute for the largest ViTs.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            std = 0.02 / (2 * depth) ** 0.5 if name.endswith(".out") else 0.02
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, Attention) and initial == "orthogonal":
            for weight in part.qkv.weight.detach().chunk(3):
                nn.init.orthogonal_(weight)
            nn.init.orthogonal_(part.out.weight, 1 / (2 * depth) ** 0.5)
        elif isinstance(part, Attention) and initial == "mimetic":
            _mimetic(part)
        elif isinstance(part, Block) and part.place == "ngpt":
            nn.init.constant_(part.scale_attention, 1 / depth)
            nn.init.constant_(part.scale_mix, 1 / depth)


@torch.no_grad()
def _mimetic(part: Attention) -> None:
    """Noise as strong as the identity; factors share the singular values."""
    weight = part.out.weight
    width, noise = weight.shape[0], weight.shape[0] ** -0.5
    q, k, v = part.qkv.weight.chunk(3)
    for query, key in zip(q.chunk(part.heads), k.chunk(part.heads), strict=True):  # each E x D
        u, s, vh = torch.linalg.svd(0.7 * noise * torch.randn_like(weight) + 0.7 * torch.eye(width, device=weight.device))
        root = s[: len(query), None].sqrt()
        query.copy_(root * u.T[: len(query)])
        key.copy_(root * vh[: len(query)])
    u, s, vh = torch.linalg.svd(0.4 * noise * torch.randn_like(weight) - 0.4 * torch.eye(width, device=weight.device))
    v.copy_(s[:, None].sqrt() * vh)
    weight.copy_(u * s.sqrt())
