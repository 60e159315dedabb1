"""A run folder made up for tests: numbers and pictures with the look of a real run, drawn from one seed, learned by nobody."""

import json
import math
from pathlib import Path

import numpy as np

STRUCTURES = {1: "anterior", 2: "posterior"}
COUNTS, DRAWS, ARMS = (1, 2, 4, 8, 16), 3, ("scratch", "frozen", "fine-tuned")


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def slices(rng: np.random.Generator, count: int, shape: tuple[int, int] = (50, 36)) -> tuple[np.ndarray, np.ndarray]:
    """Grey slices (count, H, W) with two touching bodies in them, and their labels."""
    yy, xx = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    images, labels = [], []
    for _ in range(count):
        a, b, c = rng.normal(0, 0.08, 3)
        bend = xx - 0.35 * np.sin(2.2 * yy + 3 * a) - b
        body = (bend / (0.34 + 0.12 * np.cos(2 * yy + a))) ** 2 + (yy / (0.72 + c)) ** 2 < 1
        front = body & (yy < 0.05 + a)
        rest = 0.25 + 0.18 * np.sin(5 * xx + 4 * yy + 9 * a) + 0.22 * (np.hypot(xx + 0.1, yy * 0.8) > 0.95)
        image = np.where(body, 0.72 + 0.05 * front, rest) + 0.12 * xx + rng.normal(0, 0.045, shape)
        images.append(image)
        labels.append(front * 1 + (body & ~front) * 2)
    return np.stack(images).astype(np.float32), np.stack(labels).astype(np.int16)


def _blocks(rgb: np.ndarray, size: int = 4) -> np.ndarray:
    """Every token's square in one colour, rgb (n, H, W, 3)."""
    coarse = rgb[:, ::size, ::size]
    return np.clip(coarse.repeat(size, 1).repeat(size, 2)[:, : rgb.shape[1], : rgb.shape[2]], 0, 1).astype(np.float32)


def passport(run: Path, rng: np.random.Generator, scans: int = 60, hostile: str = "") -> None:
    """passport.json: scans in three intensity scales, some duplicates, a cut file, a mask that does not fit."""
    entries = []
    for index in range(scans):
        scale = (1.0, 60.0, 2400.0)[index % 3] * math.exp(rng.normal(0, 0.15))
        shape = [int(n) for n in rng.normal((36, 50, 35), (1.6, 2.4, 2.2))]
        labels = {"0": 50_000} | {str(v): int(rng.normal(1700 - 150 * v, 160)) for v in STRUCTURES} if index % 2 == 0 else None
        facts = {
            "shape": shape, "spacing": [1.0, 1.0, 1.0], "spaced": True, "channels": 1,
            "dtype": "float32" if index % 3 else "uint8", "format": "NIfTI", "modality": "MR" if index % 2 else "",
            "orientation": "RAS", "mean": [0.4 * scale], "spread": [0.2 * scale],
            "low": [0.02 * scale], "high": [scale], "least": [0.0], "most": [1.2 * scale],
            "clipped": 0.001, "blank": 0, "sha256": f"{index:064x}", "notes": [],
        }  # fmt: skip
        entries.append({
            "name": f"s{index:03d}.nii.gz", "subject": f"s{index:03d}", "facts": facts,
            "session": "baseline" if index < 9 else "", "mask": f"s{index:03d}.nii.gz" if labels else None,
            "mask_sha256": "0" if labels else None, "labels": labels, "group": "",
            "split": "test" if index % 6 == 0 else "train",
        })  # fmt: skip
    aside = [
        {"file": f"copy{i}.nii.gz", "fault": f"is an exact copy of s{i:03d}.nii.gz", "remedy": "kept one of each", "kind": "copy"}
        for i in range(4)
    ]
    aside += [
        {"file": hostile or "s061.nii.gz", "fault": "is cut off at 63 %", "remedy": "copy it again", "kind": "unreadable"},
        {
            "file": "masks/s007.nii.gz",
            "fault": "is 36 × 50 × 34 voxels, its scan 36 × 50 × 35",
            "remedy": "resample the mask onto the scan",
            "kind": "mask",
        },
    ]
    concerns = [
        {"kind": "stray label", "text": "label 2 is a speck of under 10 voxels in 1 scan", "files": [hostile or "s004.nii.gz"]},
        {
            "kind": "clipped",
            "text": f"2 scans with a clipped range (up to 8%) {hostile}",
            "files": ["s001.nii.gz", "s002.nii.gz"],
        },
    ]
    doubles = {
        "pairs": [["s010.nii.gz", hostile or "s011.nii.gz", 0.9991, "flipped along axis 1"]], "null": 0.71, "closest": 0.92,
        "sentence": "1 near-duplicate (one explains at least 97.0 % of the other).", "linked": [["s010", hostile or "s011"]],
    }  # fmt: skip
    _write(run / "passport.json", {
        "root": "scans", "layout": "plain folder", "rule": "plain folder: no marker of another layout is here", "ndim": 3,
        "channels": 1, "entries": entries, "quarantine": aside, "spacing": [1.0, 1.0, 1.0], "shape": [36, 50, 35],
        "orientation": "RAS", "label_names": {str(value): name for value, name in STRUCTURES.items()}, "masked": True,
        "instances": False, "ignore": None, "held_out": "drawn", "channel_names": [], "concerns": concerns,
        "notes": ["a folder of notes is not read"], "duplicates": doubles,
        "sentences": [
            f"{scans} volumes (NIfTI), {scans} subjects, 1.0 x 1.0 x 1.0 mm, about 36 x 50 x 35 voxels",
            "read as plain folder: no marker of another layout is here",
            "4 duplicates (kept one of each) · 1 unreadable",
            "intensity comes in three scales: normalised per scan", f"masks for {scans // 2} subjects: anterior, posterior",
            "look at this: 2 scans with a clipped range", "a folder of notes is not read",
        ],
    })  # fmt: skip


def _finding(name: str, value: float | None, unit: str, sentence: str, null: tuple[float, float, float] | None = None) -> dict:
    ends = None if value is None else [value - 0.1 * abs(value), value + 0.1 * abs(value)]
    beside = None if null is None else dict(zip(("of", "value", "low", "high"), ("Gaussian draws", *null), strict=True))
    return {"name": name, "value": value, "unit": unit, "sentence": sentence, "interval": ends, "error": None, "null": beside}


def _series(name: str, x: object, y: object, marks: str = "line", **more: object) -> dict:
    rest = {"low": [], "high": [], "labels": []} | more
    return {"name": name, "x": list(map(float, x)), "y": list(map(float, y)), "marks": marks, **rest}


def _plot(name: str, *series: dict, log_x: bool = False, log_y: bool = False) -> dict:
    words = {"title": f"About the {name}", "x_label": f"x of {name}", "y_label": f"y of {name}"}
    return {"name": name, **words, "series": list(series), "log_x": log_x, "log_y": log_y}


def distribution(run: Path) -> None:
    """distribution.json: Laplace histograms, a spectrum of slope -3, a length of 5 mm, a dimension of 9, a clone gap."""
    x, families = np.linspace(-6, 6, 48), ("intensity", "wavelet", "principal", "neighbour")
    laplace, gauss = np.exp(-np.abs(x) * math.sqrt(2)) / math.sqrt(2), np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    plots = [
        _plot(f"histogram {name}", _series("scans", x, laplace, "points"), _series("Gaussian", x, gauss), log_y=True)
        for name in families
    ]
    f, mm, rising = np.geomspace(0.05, 0.5, 30), np.linspace(0, 20, 30), np.linspace(0, 0.3, 40)
    fit, white = _series("fitted line", (0.1, 0.3), (1e3, 1e3 / 27)), _series("white noise", (0.1, 0.3), (200, 200))
    plots.append(_plot("spectrum", _series("scans", f, f**-3.0), fit, white, log_x=True, log_y=True))
    level = _series("1/e", (0, 20), (math.exp(-1),) * 2)
    shuffled = _series("shuffled voxels", (0, 1, 20), (1, 0, 0))
    plots.append(_plot("autocorrelation", _series("scans", mm, np.exp(-mm / 5)), shuffled, level))
    line, clone = _series("line of slope 9", (0, 0.3), (0, 2.7)), _series("Gaussian", rising, 20 * rising)
    plots.append(_plot("neighbours", _series("patches", rising, 9 * rising, "points"), line, clone))
    counts = _series("patches", (300, 600, 1200), (8, 8.6, 9), "points", low=[7, 8, 8.5], high=[9, 9.2, 9.5])
    plots.append(_plot("dimension by number", counts, log_x=True))
    k = np.arange(257)
    plots.append(_plot("linear code", _series("scans", k, 1 - np.exp(-k / 20)), _series("shuffled voxels", k, k / 256)))
    probes = {"labels": ["linear", "quadratic", "combined"]}
    real = _series("real patches", range(3), (0.7, 0.8, 0.9), "bars", low=[0.65, 0.75, 0.85], high=[0.75, 0.85, 0.95], **probes)
    fake = _series("Gaussian clones", range(3), (0.6, 0.65, 0.7), "bars", low=[0.55, 0.6, 0.65], high=[0.65, 0.7, 0.75], **probes)
    plots.append(_plot("clone gap", real, fake, _series("chance", (0, 2), (0.5, 0.5))))
    words = ("single voxels", "wavelet details", "leading principal axes of patches", "differences of neighbouring voxels")
    tails = "{} have heavier tails than a Gaussian (excess kurtosis 3, Gaussian -0.1 to 0.1): rare strong structure."
    found = [_finding(f"tails of {w}", 3.0, "excess kurtosis", tails.format(w.capitalize()), (0, -0.1, 0.1)) for w in words]
    found += [
        _finding("shape of wavelet details", 0.24, "L-kurtosis", "The bulk is peaked.", (0.12, 0.11, 0.13)),
        _finding("slope of the power spectrum", -3.0, "log power", "Coarse structure carries more (slope -3).", (0, -0.1, 0.1)),
        _finding("correlation length", 5.0, "mm", "Voxels are alike over 5 mm.", (0.6, 0.6, 0.6)),
        _finding("intrinsic dimension", 9.0, "dimensions", "Patches vary in 9 ways.", (20, 18, 22)),
        _finding("components for 90% of the variance", 46.0, "components", "46 components explain 90%.", (230, 229, 231)),
        _finding("components for 99% of the variance", None, "components", "It cannot be measured: too few patches."),
        _finding("clone gap", 0.2, "share", "Higher orders matter: 90% of real patches, 70% of clones.", (0, -0.02, 0.02)),
        _finding("probe accuracy", 0.9, "share", "A patch tells its class."),
    ]
    _write(run / "distribution.json", {
        "scans": 48, "of": 60, "patches": 4408, "patch": [8, 8, 8], "channels": 1, "spacing": [1, 1, 1], "unit": "mm",
        "background": 0.14, "findings": found, "plots": plots, "notes": ["2 of the scans drawn are left out: no contrast."],
    })  # fmt: skip


def _agreement(reliability: float, rank: float, null: float, dims: int) -> dict[str, float | int]:
    return {
        "reliability": reliability,
        "null95": null,
        "rank": rank,
        "rank_null95": 1.4,
        "n": 64,
        "d": dims,
        "spread": 0.4 + reliability,
    }


def events(run: Path, rng: np.random.Generator, steps: int = 1900, stop: int | None = None) -> None:
    """events.jsonl: a loss of three parts that falls, a watch every hundred steps; `stop` ends it early."""
    lines = []
    for step in range(1, (stop or steps) + 1):
        fall = math.exp(-step / 350)
        middles = {"reconstruction": 0.09 + 0.25 * fall, "consistency": 0.14 + 1.9 * fall, "contrast": 1.3 + 1.3 * fall}
        parts = {name: value + rng.normal(0, 0.02) for name, value in middles.items()}
        loss = 5 * parts["reconstruction"] + parts["consistency"] + 0.1 * parts["contrast"]
        lines.append({"event": "step", "step": step, "of": steps, "loss": loss, "parts": parts, "rate": 1e-3, "seconds": 0.4})
        if step % 100 == 0 or step == 1:
            grown = 1 - math.exp(-step / 500)
            pooled = _agreement(
                0.35 + 0.27 * grown + rng.normal(0, 0.01),
                6 + 18 * grown + rng.normal(0, 0.7),
                0.05 + abs(rng.normal(0, 0.01)),
                240,
            )
            dense = _agreement(
                0.22 + 0.39 * grown + rng.normal(0, 0.01),
                9 + 22 * grown + rng.normal(0, 0.7),
                0.02 + abs(rng.normal(0, 0.003)),
                240,
            )
            words = f"Features are stable and not random: agreement {dense['reliability']:.2f}, directions {dense['rank']:.0f}."
            usual = {"dense": {"reliability": [0.2 + 0.2 * grown, 0.3 + 0.5 * grown]}}
            told = {"pooled": pooled, "dense": dense, "sentence": words, "usual": usual}
            lines.append({"event": "watch", "step": step, **told})
    if not stop:
        lines.append({"event": "pretrained", "step": steps, "waiting": 0.034})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "events.jsonl").write_text(text + '{"event":"step","st' if stop else text, encoding="utf-8")


def observations(run: Path, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """observe.json and tokens.npz: trained tokens follow the labels, initial ones the intensity."""
    (run / "observations").mkdir(exist_ok=True)
    palette = np.array([[0.25, 0.30, 0.62], [0.93, 0.62, 0.30], [0.36, 0.76, 0.62]])
    ramp = np.linspace(0, 0.35, images.shape[1])[None, :, None, None]
    final = _blocks(
        palette[labels] + ramp * np.array([0.4, -0.2, 0.5]) + 0.15 * images[..., None] + rng.normal(0, 0.03, (*images.shape, 3))
    )
    tint = images[..., None] * np.array([0.7, 0.5, 0.8]) + ramp * np.array([1.0, -0.6, 0.2])
    initial = _blocks(tint + rng.normal(0, 0.1, (*images.shape, 3)))
    pixels = np.clip(np.stack([images, 1 - images, images**2], -1) + rng.normal(0, 0.05, (*images.shape, 3)), 0, 1).astype(
        np.float32
    )
    np.savez_compressed(run / "observations" / "tokens.npz", image=images, final=final, initial=initial, pixels=pixels)
    _write(run / "observations" / "observe.json", {
        "initial": {"pooled": _agreement(0.35, 6, 0.05, 240), "dense": _agreement(0.22, 9, 0.02, 240)},
        "final": {"pooled": _agreement(0.61, 24, 0.05, 240), "dense": _agreement(0.60, 31, 0.02, 240)},
        "pixels": {"pooled": _agreement(0.41, 4, 0.06, 64), "dense": _agreement(0.30, 5, 0.02, 64)},
        "explained": [0.31, 0.17, 0.09], "shift_voxels": 8,
        "verdict": {"state": "healthy", "sentence": "Views agree to 0.60 (chance 0.02, before training 0.22) in 31 directions."},
    })  # fmt: skip


def adapted(run: Path, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """scores.csv, summary.json and the examples, worst first: pretraining gains with few labels."""
    start, reach, bend = (
        {"scratch": 0.52, "frozen": 0.66, "fine-tuned": 0.63},
        {"scratch": 0.865, "frozen": 0.835, "fine-tuned": 0.872},
        3.0,
    )
    lines, table, gains = ["count,draw,arm,subject,structure,dice"], [], []
    for count in COUNTS:
        means = {}
        for arm in ARMS:
            middle = reach[arm] - (reach[arm] - start[arm]) * math.exp(-(count - 1) / bend)
            offsets = rng.normal(0, 0.03 / math.sqrt(count), DRAWS)
            dice = np.clip(middle + offsets[:, None, None] + rng.normal(0, 0.03, (DRAWS, 10, 2)), 0, 1)
            for (draw, subject, k), value in np.ndenumerate(dice):
                lines.append(f"{count},{draw},{arm},s{6 * subject:03d},{STRUCTURES[k + 1]},{value:.4f}")
            half = 0.045 / math.sqrt(count) + 0.006
            means[arm] = float(dice.mean())
            each = {name: float(dice[:, :, k - 1].mean()) for k, name in STRUCTURES.items()}
            ends = {"low": means[arm] - half, "high": means[arm] + half}
            ends |= {"nsd": means[arm] + 0.05, "hd95": 9 * (1 - means[arm])}
            table.append({"count": count, "arm": arm, "mean": means[arm], **ends, "per_structure": each})
            if arm != "scratch":
                gain, width = means[arm] - means["scratch"], 0.03 / math.sqrt(count) + 0.007
                found = "worth it" if gain > width else "harmful" if gain < -width else "no evidence of a gain"
                told = {"low": gain - width, "high": gain + width, "sentence": f"{arm} at {count}: {found}."}
                gains.append({"count": count, "arm": arm, "gain": gain, **told})
    (run / "adapt").mkdir(exist_ok=True)
    (run / "adapt" / "scores.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write(
        run / "adapt" / "summary.json",
        {
            "counts": COUNTS,
            "arms": ARMS,
            "draws": DRAWS,
            "seeds": 1,
            "test_subjects": 10,
            "table": table,
            "gains": gains,
            "saved": {"sentence": "4 labels with this backbone do what 9 do from scratch."},
            "choice": {"arm": "fine-tuned", "sentence": "To predict with: fine-tuned, which is clearly better at 1 to 4 labels."},
            "model": {"sentence": "The model that is kept has a Dice of 84.1 on 6 subjects set aside."},
            "words": [],
        },
    )
    shifts = [5, 3, 3, 2, 1, 0][: len(images)]
    guess = np.stack([np.roll(label, shift, axis=shift % 2) for label, shift in zip(labels, shifts, strict=False)])
    count = len(guess)
    np.savez_compressed(
        run / "adapt" / "examples.npz", image=images[:count], truth=labels[:count], prediction=guess.astype(np.int16)
    )
    notes = [{"subject": f"s{6 * i:03d}", "dice": 0.61 + 0.055 * i, "arm": "fine-tuned", "count": 4} for i in range(count)]
    _write(run / "adapt" / "examples.json", notes)


def compared(run: Path) -> None:
    """compare/summary.json: a CNN beside a hybrid and a transformer, at equal steps and in equal time."""
    methods, table, pairs = ["resenc", "hybrid", "vit"], [], []
    for regime, steps, means in (("steps", (300, 300, 300), (0.842, 0.845, 0.78)), ("time", (300, 281, 402), (0.842, 0.84, 0.8))):
        for method, count, mean in zip(methods, steps, means, strict=True):
            table.append({
                "method": method, "regime": regime, "steps": count, "seconds": 61.0, "memory_gib": 0.9, "parameters": 1_100_000,
                "trials": 0, "mean": mean, "low": mean - 0.012, "high": mean + 0.012,
            })  # fmt: skip
            if method != "resenc":
                gain, verdict = mean - means[0], "worse" if method == "vit" else "no difference"
                words = f"{method} against resenc: {verdict}, {100 * gain:+.1f} Dice points."
                ends = {"low": gain - 0.008, "high": gain + 0.008, "verdict": verdict, "sentence": words}
                pairs.append({"method": method, "against": "resenc", "regime": regime, "gain": gain, **ends})
    (run / "compare").mkdir(exist_ok=True)
    radius = [1.0, 2.0, 4.0, 8.0, 16.0]
    error = [0.41, 0.22, 0.12, 0.11, 0.11]
    _write(run / "compare" / "summary.json", {
        "methods": methods, "regimes": ["steps", "time"], "table": table, "pairs": pairs,
        "suitability": {"between": 0.03, "within": 0.004, "sentence": "This set can tell these methods apart."},
        "knockout": [{"method": "hybrid", "change": -0.001, "low": -0.006, "high": 0.004,
                      "sentence": "hybrid without its attention: -0.1 Dice points [-0.6, 0.4]."}],
        "factor": {"differs": ["backbone.family"], "sentence": "The networks differ in backbone.family and in nothing else."},
        "context": {"radius_mm": radius, "error": error, "low": [e - 0.02 for e in error], "high": [e + 0.02 for e in error],
                    "chance": 0.5, "sentence": "Nothing is gained beyond 4 mm."},
        "advice": {"answer": "CNN", "low": -0.5, "high": 0.8, "sentence": "No evidence that a transformer is needed.",
                   "because": ["Attention adds nothing to the hybrid."]},
        "leakage": [], "words": ["No setting was tuned for any network."],
    })  # fmt: skip


def decided(run: Path) -> None:
    """settings.json, plan.json and provenance.json."""
    _write(run / "settings.json", {
        "seed": 0, "views": {"parent": [40, 48, 40], "crop": [32, 32, 32], "overlap": [0.4, 0.8]}, "backbone": {
            "family": "resenc", "size": "nano"
        },
        "pretrain": {"objective": "cva", "steps": 1900, "batch": 16, "rate": 1e-3}, "adapt": {
            "counts": list(COUNTS), "draws": DRAWS
        },
    })  # fmt: skip
    _write(run / "plan.json", {"lines": [
        {
            "name": "backbone", "choice": "residual encoder, nano, 2.4 M parameters",
            "because": "no transformer block would see beyond 40 mm", "set": "backbone.family, backbone.size",
        },
        {
            "name": "pretrain", "choice": "consistent view alignment + masked, 1,900 steps",
            "because": "about 14 min on 2 cores", "set": "pretrain.steps, budget",
        },
        {
            "name": "adapt", "choice": "1, 2, 4, 8, 16 labels × 3 draws × 3 arms",
            "because": "20 labelled subjects are there to learn from", "set": "adapt.counts",
        },
    ]})  # fmt: skip
    _write(run / "provenance.json", {
        "command": "headwater run scans/ --labels masks/ --seed 0", "versions": {
            "headwater": "0.1.0", "torch": "2.13.0", "numpy": "2.4.1", "python": "3.12.3"
        },
        "commit": "4f0c2d9a", "machine": {
            "cores": 2, "memory": 23.46484375, "accelerator": "", "bf16": True, "system": "Linux x86_64"
        }, "seed": 0, "minutes": 31.4, "peak_memory_gib": 0.71, "finished": "2026-11-23 07:25",
    })  # fmt: skip


def complete(run: Path, seed: int = 0, hostile: str = "") -> Path:
    """A run that came to its end. `hostile` is used as a file's name, a subject and a sentence."""
    run.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(seed))
    images, labels = slices(rng, 6)
    passport(run, rng, hostile=hostile)
    distribution(run)
    events(run, rng)
    observations(run, images[:4], labels[:4], rng)
    adapted(run, images, labels, rng)
    compared(run)
    decided(run)
    sentences = [
        {
            "text": "Features are stable and not random.",
            "detail": "agreement 0.60 (chance 0.02, before training 0.22), directions 31", "evidence": "tokens",
        },
        {"text": "Pretraining is worth it for few labels: +4.1 Dice at 4 labels; from 16 labels on, no evidence of a gain.",
         "detail": "4 labels: +4.1 [1.9, 6.0]; 16 labels: +0.7 [−0.8, 2.1]", "evidence": "labels"},
        {"text": "4 labels with this backbone do what 9 do from scratch.", "detail": "Dice 78", "evidence": "labels"},
        {
            "text": "6 files were set aside.", "detail": hostile or "4 duplicates, 1 unreadable, 1 mask that does not fit",
            "evidence": "data",
        },
    ]  # fmt: skip
    _write(run / "verdicts.json", {"sentences": sentences})
    return run


def incomplete(run: Path, seed: int = 0) -> Path:
    """A run killed in its 700th step: looked at and trained a while, a line torn, nothing observed or adapted."""
    run.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(seed))
    passport(run, rng)
    events(run, rng, stop=700)
    decided(run)
    (run / "provenance.json").unlink()
    return run


def looked(run: Path, seed: int = 0, hostile: str = "", measured: bool = True) -> Path:
    """A folder that was only looked at, with slices of some scans."""
    run.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(seed))
    passport(run, rng, hostile=hostile)
    images, labels = slices(rng, 5)
    images[1, 40:], images[1, :, 30:] = np.nan, np.nan  # a smaller one
    np.savez_compressed(run / "preview.npz", image=images, mask=labels)
    if measured:
        distribution(run)
    return run
