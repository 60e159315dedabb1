"""An observation made up for tests: numbers and pictures with the look of a real one, drawn from one seed."""

import json
from pathlib import Path

import numpy as np

LAYERS, HEADS = 4, 3


def number(value, null=0.1, how="the same network at the first look", **more):
    return {"value": value, "null": null, "how": how, **more}


def _layer(i, rng):
    shares = {f"head {h}": float(rng.normal(0.02, 0.01)) for h in range(HEADS)} | {"mlp": 0.03, "norm": -0.01}
    before = 0.1 + 0.1 * i
    return {
        "name": f"block {i}", "before": before, "after": before + sum(shares.values()), "residual": 1e-9, "step": 0.2, "why": "",
        "parts": {name: {"share": share, "chance": 0.002} for name, share in shares.items()},
        "directions": {}, "prediction": {},
    }  # fmt: skip


def _way():
    """What observe.json says of motion, growth and separability."""
    told = {"stretch": [0.2, 0.1, 0.0, -0.1], "stretch_error": [0.01] * 4, "divergence": [-0.02, 0.0, 0.01, None]}
    told |= {"divergence_error": [0.005] * 4, "exponents": [0.4, 0.3], "residual": [0.01, 0.02]}
    score = {"accuracy": [0.4, 0.5, 0.6, 0.7, 0.8], "error": [0.03] * 5, "chance": 0.25, "null95": [0.35] * 5}
    start = "the same network before training"
    return {
        "motion": {
            "trained": {"speed": [0.3] * 4}, "words": ["trained: transport is that of 256 tokens"],
            "panel": {
                "energy": number(24.0, 0.2, start), "transport": number(10.0, 0.04, start), "paid": number(2.4, 5.0, start),
                "way": number(1.5, 2.4, start), "clusters": number(12.5, 60.0, start),
            },
        },
        "growth": {"trained": told, "untrained": told, "words": [], "panel": {"exponent": number(0.4, 0.1, start)}},
        "separability": {
            "images": 24, "classes": 4, "words": ["1 of 5 classes"], "trained": score,
            "untrained": score | {"accuracy": [0.4, 0.4, 0.3, 0.4, 0.45]},
        },
    }  # fmt: skip


def found(state="healthy", cause="", hostile=""):
    """What observe.json holds."""
    rng = np.random.default_rng(0)
    level = {"reliability": 0.6, "null95": 0.1, "rank": 12.0, "rank_null95": 1.5, "n": 24, "d": 6, "spread": 0.4, "error": 0.02}
    panel = {
        "variance.image": number(0.3), "similarity": number(0.5, 0.2), "heads.effective": number(0.8, 0.9),
        "heads.ablation": number(0.2, None), "order": number(None, None, "not sought", why="not measured at every look"),
        "teacher": number(None, None, why="no teacher was given"), "rankme": number(20.0, 40.0, "noise"),
        "shortcut.intensity": number(0.3, 0.5, low=0.2, high=0.4),
        "reuse.untrained": number(0.11, 0.0, "the same network before training", low=0.02, high=0.2),
    }  # fmt: skip
    layers = {"similarity": [0.1, 0.2, 0.3, 0.4, 0.5], "speed": [0.3, None, 0.2, 0.1], "entropy_low": [0, 0, 0, 0]}
    look = {
        "step": 1,
        "pooled": level,
        "dense": level,
        "panel": panel,
        "layers": layers,
        "words": ["tokens after blocks.3", "seen"],
    }
    ablated = {"layer": 2, "parts": ["mlp", "head 1"], "given": 0.05, "lost": 0.048, "step": 0.2}
    eigen = {"real": [0.5, -0.1, 0.02], "imaginary": [0.0, 0.05, 0.0], "radius": 0.2, "null95": 0.25, "share": 0.02}
    heads = [
        {
            "layer": f"blocks.{i}.attn", "heads": HEADS, "array": f"heads.{i}", "effective": number(2.1, 2.8),
            "ablation": [number(0.01 * h, 0.02) for h in range(HEADS)], "entropy": [number(0.8)] * HEADS,
        }
        for i in range(LAYERS)
    ]  # fmt: skip
    return _way() | {
        "model": {"name": hostile or "dino.pth", "kind": "ViT", "parameters": 21_000_000, "words": ["54 parameters of 54"]},
        "images": {"place": "scans", "used": 24, "found": 30, "crop": [32, 32], "words": [hostile or "left out: 2"]},
        "final": {"pooled": level, "dense": level}, "initial": {"pooled": level | {"reliability": 0.3}, "dense": level},
        "pixels": {"dense": level | {"reliability": 0.4}}, "look": look, "start": look | {"layers": {"similarity": [0.1] * 5}},
        "verdict": {
            "state": state, "cause": cause, "remedy": "train on",
            "sentence": "Features are stable and not random: dense agreement 0.60 (chance 0.10). Next: go on.",
        },
        "explanation": {
            "sentence": "Layers 1-2 pull tokens together; head 1 of layer 2 does 62 % of it.",
            "words": [hostile or "layer 3: no"],
            "layers": [_layer(i, rng) for i in range(LAYERS)], "ablated": ablated,
            "prediction": {"correlation": 0.93, "null95": 0.4, "why": ""},
        },
        "eigenvalues": [eigen | {"layer": 2, "head": "head 1", "how": "random factors"}],
        "closer": {
            "heads": heads, "scale": [0.0, 3.0], "words": ["eigen-images: few"], "eigen": {"explained": [0.5, 0.2], "needed": 7},
            "dictionary": {"together": number(0.4)},
            "order": {"tokens": [0.1, 0.5, 0.7, 0.9], "pooled": [0.1] * 4, "floor": [0] * 4},
        },
        "command": f"headwater observe dino.pth scans {hostile}", "versions": {"python": "3.11", "torch": "2.13"},
    }  # fmt: skip


def arrays():
    """What closer.npz holds."""
    rng = np.random.default_rng(0)
    made = {
        "image": rng.normal(size=(2, 32, 32)),
        "tokens": rng.random((2, 8, 8, 3)),
        "tokens.untrained": rng.random((2, 8, 8, 3)),
    }
    made |= {f"heads.{i}": rng.random((2, HEADS, 8, 8)) * 3 for i in range(LAYERS)}
    made |= {f"{name}.{i}": np.eye(HEADS) for i in range(LAYERS) for name in ("redundancy", "redundancy.untrained")}
    near = np.stack([np.roll(np.arange(24), -i - 1)[:8] for i in range(24)])
    made |= {"thumbs": rng.normal(size=(24, 16, 16)), "neighbours": near, "neighbours.cosine": rng.random((24, 8))}
    made |= {"eigen": rng.normal(size=(8, 32, 32)), "eigen.mean": rng.normal(size=(32, 32)), "eigen.error": np.linspace(1, 0, 24)}
    made |= {"eigen.null": np.linspace(1, 0.1, 24), "eigen.unseen": np.linspace(1, 0.2, 12)}
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in made.items()} | {
        "words": rng.integers(-1, 8, (2, 8, 8)).astype(np.int8)
    }


def write(folder, **told):
    """A folder with both files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "observe.json").write_text(json.dumps(found(**told)), encoding="utf-8")
    np.savez_compressed(folder / "closer.npz", **arrays())
    return folder
