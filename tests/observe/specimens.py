"""Small models of many families for the tests of observe; not a test itself."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

WIDTH, HEADS, SIDE, PATCH = 24, 3, 16, 4


def seeded(make, seed: int = 0):
    """make() with weights that do not depend on what ran before, far enough from zero to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def images(count: int = 3, channels: int = 3, side: int = SIDE) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def ids(count: int = 3, length: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(3, 50, (count, length), generator=torch.Generator().manual_seed(seed))


def hugging(kind: str, attention: str = "sdpa", **options) -> nn.Module:
    """A model of transformers built from its configuration, by the name of its class."""
    transformers = pytest.importorskip("transformers")
    told = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": HEADS, "attn_implementation": attention}
    if kind.startswith("GPT2"):
        told = {"n_embd": WIDTH, "n_layer": 3, "n_head": HEADS, "n_positions": 32, "attn_implementation": attention}
    if kind.startswith(("Bert", "GPT2")):
        told |= {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind.startswith(("ViT", "Dinov2")):
        told |= {"image_size": SIDE, "patch_size": PATCH}
    if kind.startswith(("ViT", "Bert")):
        told |= {"intermediate_size": 40}
    config = getattr(transformers, kind.removesuffix("Model") + "Config")(**told | options)
    return seeded(lambda: getattr(transformers, kind)(config))


class TimmAttention(nn.Module):
    """Attention of a plain ViT under timm's and DINOv2's names."""

    def __init__(self, fused: bool):
        super().__init__()
        self.num_heads, self.fused = HEADS, fused
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


class TimmBlock(nn.Module):
    def __init__(self, fused: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = TimmAttention(fused)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TimmViT(nn.Module):
    """patch_embed, cls_token, blocks.N.attn.qkv, norm; returns a dict of outputs."""

    def __init__(self, fused: bool = True, depth: int = 3):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.Sequential(*(TimmBlock(fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)))
        return {"class": x[:, 0], "patches": x[:, 1:]}


class Noisy(nn.Module):
    """Everything that could leave a trace: batch statistics, dropout, a counter that grows even in eval mode, a frozen part."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Dropout(0.5)) for _ in range(3))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("swapped", torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.count += 1
        self.swapped = self.swapped + torch.rand(2)
        x = self.stem(x)
        for stage in self.stages:
            x = x + stage(x)
        return x, x.mean()


class KeywordBlock(nn.Module):
    """A post-norm block with one head, as the Keyword Transformer has it."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(64, 64, bias=False) for _ in range(3))
        self.out, self.into, self.back = nn.Linear(64, 64), nn.Linear(64, 256), nn.Linear(256, 64)
        self.norm1, self.norm2 = nn.LayerNorm(64, 1e-6), nn.LayerNorm(64, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.scaled_dot_product_attention(*(f(x)[:, None] for f in (self.q, self.k, self.v)))[:, 0]
        x = self.norm1(x + self.out(y))
        return self.norm2(x + self.back(nn.functional.gelu(self.into(x), approximate="tanh")))


class Keyword(nn.Module):
    """KWT-1 from its published arrays; takes features (B, 98, 40)."""

    def __init__(self, arrays: dict):
        super().__init__()
        get = {name: torch.from_numpy(value.copy()) for name, value in arrays.items() if value.dtype.kind == "f"}
        self.embed = nn.Linear(40, 64)
        self.blocks = nn.ModuleList(KeywordBlock() for _ in range(12))
        self.register_buffer("start", get["class_emb"].clone()), self.register_buffer("places", get["pos_emb"].clone())
        self._load(self.embed, get["kws_transformer|dense|Tensordot|MatMul"], get["kws_transformer|dense|bias"])
        for i, block in enumerate(self.blocks):
            u, n, m = f"_{i}" if i else "", 6 * i, 2 * i
            t = f"kws_transformer|transformer_block{u}|"
            a = f"{t}multi_head_self_attention{u}|dense_"
            for j, part in enumerate((block.q, block.k, block.v)):
                self._load(part, get[f"{a}{n + 1 + j}|Tensordot|MatMul"])
            self._load(block.out, get[f"{a}{n + 4}|Tensordot|MatMul"], get[f"{a}{n + 4}|bias"])
            for k, part in ((5, block.into), (6, block.back)):
                stem = f"{t}sequential{u}|dense_{n + k}"
                self._load(part, get[f"{stem}|Tensordot|MatMul"], get[f"{stem}|bias"])
            for k, part in ((m, block.norm1), (m + 1, block.norm2)):
                stem = f"{t}layer_normalization{f'_{k}' if k else ''}"
                self._load(part, get[f"{stem}|gamma"], get[f"{stem}|beta"])

    @staticmethod
    @torch.no_grad()
    def _load(part: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
        part.weight.copy_(weight)
        if bias is not None:
            part.bias.copy_(bias)

    def forward(self, features: Tensor) -> Tensor:
        x = torch.cat([self.start.expand(len(features), -1, -1), self.embed(features)], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return x[:, 0]


def keyword_features(arrays: dict) -> Tensor:
    """Features (1, 98, 40) of the chirp by which the weights' own README checks a loader."""
    t = torch.arange(16000).double() / 16000
    sound = 0.5 * torch.sin(2 * torch.pi * (200 * t + 900 * t**2)) * torch.exp(-(((t - 0.5) / 0.2) ** 2))
    frames = sound.view(100, 160).unfold(0, 3, 1).transpose(1, 2).reshape(98, 480)
    get = {name.split("|", 1)[1]: torch.from_numpy(a.copy()) for name, a in arrays.items() if name.startswith("speech_features")}
    frames = frames * get["windowing|mul|y"].double()
    real, imaginary, mel = (get[f"magnitude_rdf_tmel|MatMul{k}"].double() for k in ("", "_1", "_2"))
    size = ((frames @ real.T).square() + (frames @ imaginary.T).square()).sqrt()
    return ((size @ mel.T).clamp_min(1e-12).log() @ get["dct|MatMul"].double().T)[None].float()


def batch_of(kind: str) -> Tensor | dict:
    if kind[0] in "VD":
        return images()
    mask = (torch.arange(9) < torch.tensor([[9], [7], [5]])).long() if kind.startswith("Bert") else torch.ones(3, 9).long()
    return {"input_ids": ids(), "attention_mask": mask}


def fingerprint(model: nn.Module) -> dict:
    """Everything that must not change, as bytes and identities."""
    state = {f"{n}|value": t.detach().numpy().tobytes() for n, t in model.state_dict().items()}
    state |= {f"{n}|same": id(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    state |= {f"{n}|grad": None if p.grad is None else p.grad.numpy().tobytes() for n, p in model.named_parameters()}
    state |= {f"{n}|mode": (m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    return state | {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": np.random.get_state()[1].tobytes()}


def worn() -> Noisy:
    """A model in the middle of training: one part frozen in eval mode, gradients there."""
    model = seeded(Noisy).train()
    model.stages[1].eval()
    model(images())[1].backward()
    return model
