"""Which score without labels picks the checkpoint whose features a probe reads best?

Question:  Several checkpoints of short runs, among them the untrained network (and rates meant to break, which did not). Ordered
           by each score of headwater.ranking (agreement and directions gained over the own start, RankMe, alpha-ReQ, LiDAR, ...) and by a
           linear probe with labels: how far do the orders agree?
Command:   python benchmarks/ranking.py [MEDNIST] [--steps 90] [--seed 0] [--threads 1] [--out FILE]
           On 96 phantoms of 48 x 48 with masks, made on the spot; and, where given, on MEDNIST, a folder of pictures by class.
Duration:  about 5 minutes of one core.
Method:    Headwater's own loop on a nano residual encoder, one run per objective, and three once more with a learning rate a
           hundred times higher; states at 0, a third and all of the steps. Looks through the same 48 images of the training part.
           Probe: phantoms: which structure holds most of a token's cell, logistic regression on frozen tokens of the training
           part, balanced accuracy on held-out phantoms. Pictures: class from pooled features, the same way.
           tau: Kendall's tau-b between score and probe over the checkpoints; low, high: bootstrap over checkpoints, 95 %. It
           takes checkpoints for independent, those of one run are not, so it is too narrow. Null: 0; p: share of permuted
           orders with a tau as large. picked: probe of the checkpoint the score likes best, beside the best and the middle one.
Printed last time: the rows of benchmarks/results/ranking_*.csv, checkpoint by checkpoint in ranking_*_checkpoints.csv (two
           calls, --seed 0 and 1, joined). With a probe of tokens dense gain agreed (0.42 and 0.72); RankMe, LiDAR and alpha-ReQ
           ran against it (-0.5 to -0.8); with a probe of image classes no score agreed (dense gain -0.12 and -0.21).
"""

import argparse
import csv
import shutil
import tempfile
from datetime import date
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from headwater import settings as told
from headwater.interrupt import Interrupted
from headwater.observe.pairs import probe_views
from headwater.observe.running import chosen_from
from headwater.ranking import measured
from headwater.scans import phantom
from headwater.scans.passport import look
from headwater.scans.prepare import prepare
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.streams import numpy_stream
from headwater.subject import Subject
from headwater.train import loop, state
from scipy.stats import kendalltau
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

RESULTS = Path(__file__).parent / "results"
RUNS = (
    ("cva", 1),
    ("mae", 1),
    ("byol", 1),
    ("vicreg", 1),
    ("simclr", 1),
    ("dino", 1),
    ("byol", 100),
    ("simclr", 100),
    ("vicreg", 100),
)
SEEN, DRAWS, CELL = 48, 2000, 4


def settings_of(objective: str, times: int, steps: int, seed: int) -> Settings:
    """A run of a minute."""
    small = (
        f"pretrain.objective={objective}", f"pretrain.steps={steps}", f"pretrain.learning_rate={1e-3 * times}",
        "pretrain.batch=8", "pretrain.watch=0", "pretrain.save=1000000", "views.parent=48,48", "views.crop=32,32",
        "precision=fp32", f"seed={seed}", "adapt.patch=32,32",
    )  # fmt: skip
    small += ("objective.prototypes=32",) if objective == "dino" else ()
    return reduce(told.change, small, Settings())


def states(store: Store, settings: Settings, run: Path) -> list[tuple[int, Path]]:
    """Steps and files of the states kept: a third of the steps, and all."""
    kept = []
    for stop in (settings.pretrain.steps // 3, None):
        try:
            loop.fit(store, settings, run, stop_at=stop)
        except Interrupted:
            pass
        file = run / f"{stop or settings.pretrain.steps}.safetensors"
        shutil.copy(run / "state" / "pretrain.safetensors", file)
        kept.append((stop or settings.pretrain.steps, file))
    return kept


@torch.no_grad()
def features(backbone: torch.nn.Module, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, N, D) and pooled (n, D)."""
    found = [backbone.eval()(part) for part in images.split(16)]
    return torch.cat([f.tokens for f in found]).numpy(), torch.cat([f.pooled for f in found]).numpy()


def cells(mask: np.ndarray) -> np.ndarray:
    """The class that holds most of each cell of 4 x 4, in the order of the tokens."""
    h, w = (n // CELL for n in mask.shape)
    blocks = mask[: h * CELL, : w * CELL].reshape(h, CELL, w, CELL).swapaxes(1, 2).reshape(h * w, -1)
    return np.array([np.bincount(row).argmax() for row in blocks])


def probed(x: np.ndarray, y: np.ndarray, train: np.ndarray, rows: int, seed: int) -> float:
    """Balanced accuracy of logistic regression. x (n, ..., D), y (n, ...): images of the training part against the others."""
    a, b = x[train].reshape(-1, x.shape[-1]), y[train].reshape(-1)
    some = numpy_stream(seed, "probe rows").permutation(len(a))[:rows]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, class_weight="balanced", C=0.1)).fit(
        a[some], b[some]
    )
    return float(balanced_accuracy_score(y[~train].reshape(-1), model.predict(x[~train].reshape(-1, x.shape[-1]))))


def checkpoints(name: str, folders: tuple, steps: int, seed: int, folder: Path) -> list[dict]:
    """Every checkpoint with its probe and its scores."""
    passport = look(*folders, classes=len(folders) == 1, seed=seed)
    store = prepare(passport, folder / "store")
    size = np.min([store.shape(i) for i in range(len(store))], axis=0) // CELL * CELL
    images = torch.stack(
        [torch.from_numpy(store.image(i)[:, : size[0], : size[1]].astype(np.float32)) for i in range(len(store))]
    )
    train = np.isin(np.arange(len(store)), store.split("train"))
    if len(folders) > 1:
        answers = np.stack([cells(store.label(i)[: size[0], : size[1]]) for i in range(len(store))])
    else:
        kinds = sorted({record["group"] for record in store.records})
        answers = np.array([kinds.index(record["group"]) for record in store.records])
    seen = chosen_from(store.split("train"), seed)[:SEEN]
    rows, base = [], settings_of("cva", 1, steps, seed)
    untrained = loop.assemble(base, store)[0].backbone.eval()
    probe = probe_views([store.image(i) for i in seen], base.views.crop, untrained.stride, seed=seed)

    def note(run: str, step: int, backbone: torch.nn.Module) -> None:
        x = features(backbone, images)[0 if len(folders) > 1 else 1]
        scores = measured(Subject(backbone, untrained, probe, {}, step=step, seed=seed))
        rows.append(
            {"data": name, "seed": seed, "run": run, "step": step, "probe": probed(x, answers, train, 3000, seed), **scores}
        )
        print(
            f"  {name:<9} {run:<12} {step:>4}  probe {rows[-1]['probe']:.3f}  dense gain {scores['dense gain']:+.3f}", flush=True
        )

    note("untrained", 0, untrained)
    for objective, times in RUNS:
        settings = settings_of(objective, times, steps, seed)
        label = objective + (f" rate x{times}" if times > 1 else "")
        run = folder / label.replace(" ", "-")
        run.mkdir()
        for step, file in states(store, settings, run):
            backbone = loop.assemble(settings, store)[0].backbone
            backbone.load_state_dict(state.under(state.read(file), "teacher.backbone."))
            if all(bool(torch.isfinite(p).all()) for p in backbone.parameters()):
                note(label, step, backbone.eval())
    return rows


def agreement(rows: list[dict], seed: int) -> list[dict]:
    """Kendall's tau of every score with the probe, its interval and chance, and what the score would pick."""
    probe = np.array([row["probe"] for row in rows])
    stream, found = numpy_stream(seed, "tau"), []
    for name in [key for key in rows[0] if key not in ("data", "seed", "run", "step", "probe")]:
        score = np.array([row[name] for row in rows], float)
        known = np.isfinite(score)
        if known.sum() < 5:
            found.append({"data": rows[0]["data"], "seed": seed, "score": name, "checkpoints": int(known.sum())})
            continue
        x, y, n = score[known], probe[known], int(known.sum())
        tau = float(kendalltau(x, y).statistic)
        drawn = [float(kendalltau(x[i], y[i]).statistic) for i in stream.integers(0, n, (DRAWS // 4, n))]
        chance = [float(kendalltau(x, stream.permutation(y)).statistic) for _ in range(DRAWS // 4)]
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        p = (1 + sum(c >= tau for c in chance)) / (1 + len(chance))
        found.append({
            "data": rows[0]["data"], "seed": seed, "score": name, "checkpoints": n,
            "tau": round(tau, 3), "low": round(float(low), 3), "high": round(float(high), 3), "p": round(p, 4),
            "picked": round(float(y[x.argmax()]), 3), "best": round(float(y.max()), 3), "middle": round(float(np.median(y)), 3),
        })  # fmt: skip
    return sorted(found, key=lambda row: -row.get("tau", -9))


def main() -> None:
    """Both data sets; prints everything, writes two tables in one CSV each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mednist", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / f"ranking_{date.today()}.csv")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kept, every = [], []
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        tasks = [("phantoms", phantom.write(base / "phantoms", 96, (48, 48), given.seed))]
        if given.mednist:
            for kind in sorted(p for p in given.mednist.iterdir() if p.is_dir()):
                (base / "pictures" / kind.name).mkdir(parents=True)
                for file in sorted(kind.iterdir())[:40]:
                    shutil.copy(file, base / "pictures" / kind.name / file.name)
            tasks.append(("pictures", (base / "pictures",)))
        for name, folders in tasks:
            (base / f"{name}-work").mkdir()
            rows = checkpoints(name, folders, given.steps, given.seed, base / f"{name}-work")
            every += rows
            kept += agreement(rows, given.seed)
            for row in kept[-len(kept) :]:
                if row["data"] == name:
                    print("  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    for file, table in ((given.out, kept), (given.out.with_name(given.out.stem + "_checkpoints.csv"), every)):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(max(table, key=len)))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
