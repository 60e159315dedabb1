"""Is our segmentation as good as nnU-Net's: same network and steps, and our recipe at equal wall-clock?

Question:  same scans, same network, same number of steps: is our training within 0.3 Dice points of nnU-Net v2 or above? And is
           our own recipe above it when both have 5 or 15 minutes of the same cores?
Command:   python benchmarks/against_nnunet.py DATA --nnunet PYTHON --work FOLDER [--minutes 5 15] [--parts pace default ...]
           DATA holds images, labels and test.txt; PYTHON is the one of an environment with nnunetv2.
           ... --held 20 --set backbone.size=small --steps 300: our recipe with changes on all but 20 training scans, scored on
           those; what to choose by. The scans of test.txt are never chosen by.
Duration:  two quiet cores: five times the minutes, and about ten for the rest; what lies in FOLDER is not done again.
Method:    nnU-Net: its plan (from the training scans), its trainer, loss, augmentation and schedule, 3d_fullres, all its scans;
           the rate falls to nought at the end of the given iterations. It gets what is best for it at this budget: batch 2
           instead of the plan's, bfloat16, and beside its default the trainer without mirroring. Its own predictor writes the
           masks, with and without mirroring. Ours: the same scans, the same network (from its plan), patch and batch for as many
           steps; and recipes.default. Iterations are the minutes over the seconds of one, the smallest of three medians, to be
           taken while nothing else runs (--pace gives them instead); processor_s is what a whole training took of the
           processor, whatever else ran. Both sides' masks are scored in the files' geometry by transfer.scores.dice; gains are
           paired over the subjects of test.txt, one training each.
Printed last time: 5 and 15 minutes (197 and 593 iterations of nnU-Net, 2346 and 7038 of our recipe), Dice on 40 scans:
           nnU-Net as it is 0.511 and 0.829, without mirroring 0.825 and 0.864; its network trained by us 0.856 and 0.879 (+3.1
           points, 2.4 to 3.8; +1.6, 0.9 to 2.2); our recipe 0.886 and 0.887 (+6.1, 4.9 to 7.3; +2.3, 1.5 to 3.1). Trained two
           beside each other, one thread each, where our recipe took 5 to 9 % more of the processor than nnU-Net. Newest: benchmarks/results/against_nnunet_*.csv.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
DATASET = "Dataset004_Hippocampus"
TRAINERS = {"default": "nnUNetTrainer", "unmirrored": "nnUNetTrainerNoMirroring"}
PARTS = ("pace", *TRAINERS, "same", "own")
Store, Settings, Segmenter = Any, Any, Any


# nnU-Net's half: runs in its Python and imports nothing of ours


def peer(task: dict[str, Any]) -> None:
    """Its own trainer for some iterations, then its own predictor on the test scans; `out` gets masks and peer.json."""
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    np.random.seed(task["seed"])
    torch.manual_seed(task["seed"])
    folder = Path(os.environ["nnUNet_preprocessed"]) / DATASET
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"plans_name": f"nnUNetPlans_batch{task['batch']}"}
    plans["configurations"]["3d_fullres"]["batch_size"] = task["batch"]
    (folder / f"{plans['plans_name']}.json").write_text(json.dumps(plans))
    device = torch.device("cpu")
    trainer = get_trainer_from_args("4", "3d_fullres", "all", task["trainer"], plans["plans_name"], device=device)
    trainer.on_train_start()
    forward = trainer.network.forward

    def mixed(x: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bf16"):
            scores = forward(x)
        return [s.float() for s in scores]

    trainer.network.forward = mixed
    trainer.network.train()
    schedule = PolyLRScheduler(trainer.optimizer, trainer.initial_lr, task["iterations"])
    record: dict[str, list[float]] = {"seconds": [], "worked": [], "losses": []}
    for step in range(task["iterations"]):
        start, busy = time.perf_counter(), time.process_time()
        schedule.step(step)  # theirs falls once per 250 iterations, of which there are one to four here
        record["losses"].append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        note(record, step, start, busy)
    if task["out"]:
        trainer.network.forward = forward
        trainer.current_epoch = 1  # epochs that a checkpoint says it has
        trainer.on_train_end()
        trainer.set_deep_supervision_enabled(False)
        peer_predict(trainer, Path(task["out"]))
        (Path(task["out"]) / "record.json").write_text(json.dumps({"task": task, **record}))
    print("median", statistics.median(record["seconds"][2:]), flush=True)


def peer_predict(trainer: Any, out: Path) -> None:
    """Masks of the test scans from nnU-Net's predictor: `out`/plain, and `out`/mirrored where the trainer allows it."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network = trainer.network.eval()
    axes, scans = (
        trainer.inference_allowed_mirroring_axes,
        sorted((Path(os.environ["nnUNet_raw"]) / DATASET / "imagesTs").iterdir()),
    )
    for mirror in (False, True) if axes else (False,):
        predictor = nnUNetPredictor(
            use_mirroring=mirror, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.manual_initialization(
            network, trainer.plans_manager, trainer.configuration_manager, [network.state_dict()], trainer.dataset_json,
            type(trainer).__name__, axes,
        )  # fmt: skip
        folder = out / ("mirrored" if mirror else "plain")
        folder.mkdir(parents=True, exist_ok=True)
        names = [str(folder / p.name.replace("_0000.nii.gz", "")) for p in scans]
        predictor.predict_from_files_sequential([[str(p)] for p in scans], names)


def note(record: dict[str, list[float]], step: int, start: float, busy: float) -> None:
    """Seconds of an iteration by the clock and of the processor; a line every 20."""
    record["seconds"].append(time.perf_counter() - start)
    record["worked"].append(time.process_time() - busy)
    if (step + 1) % 20 == 0:
        clock, work = (statistics.median(record[key][-20:]) for key in ("seconds", "worked"))
        loss = np.mean(record["losses"][-20:])
        print(f"{step + 1} loss {loss:.3f}, {clock:.3f} s an iteration, {work:.3f} s of the processor", flush=True)


def asked_of_peer(given: argparse.Namespace, **task: Any) -> str:
    """What nnU-Net's half prints."""
    work = given.work.resolve()
    told = os.environ | {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    told |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "0", "CUDA_VISIBLE_DEVICES": ""}
    told["PATH"] = f"{given.nnunet.parent}{os.pathsep}{told['PATH']}"
    if task:
        task = {"seed": 0, "precision": "bf16", "out": "", **task}
        command = [str(given.nnunet), __file__, "--task", json.dumps(task)]
    else:
        command = ["nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "3d_fullres", "-np", "2", "-npfp", "2"]
    return subprocess.run(command, env=told, check=True, stdout=subprocess.PIPE, text=True).stdout


def peer_scans(given: argparse.Namespace) -> None:
    """The training scans as nnU-Net wants them, planned and preprocessed; the test scans apart."""
    import nibabel

    raw = given.work / "raw" / DATASET
    if (given.work / "preprocessed" / DATASET / "nnUNetPlans_3d_fullres").is_dir():
        return
    tests, count = set((given.data / "test.txt").read_text().split()), 0
    for scan in sorted((given.data / "images").iterdir()):
        part, stem = "Ts" if scan.name in tests else "Tr", scan.name.replace(".nii.gz", "")
        for folder in (f"images{part}", f"labels{part}"):
            (raw / folder).mkdir(parents=True, exist_ok=True)
        image, mask = nibabel.load(scan), nibabel.load(given.data / "labels" / scan.name)
        nibabel.save(image, raw / f"images{part}" / f"{stem}_0000.nii.gz")
        whole = np.asarray(mask.dataobj).round().astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(whole, image.affine), raw / f"labels{part}" / f"{stem}.nii.gz")
        count += part == "Tr"
    told = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}}
    (raw / "dataset.json").write_text(json.dumps({**told, "numTraining": count, "file_ending": ".nii.gz"}))
    asked_of_peer(given)


# our half


def prepared(given: argparse.Namespace) -> tuple[Store, list[Path]]:
    """Our store, and the file of each scan's mask."""
    from headwater.scans.passport import look
    from headwater.scans.prepare import prepare

    passport = look(given.data / "images", given.data / "labels", test=given.data / "test.txt")
    store = prepare(passport, given.work / "ours" / "store")
    return store, [passport.mask_source(entry).files[0] for entry in passport.entries]


def recipe(store: Store, changes: list[str]) -> Settings:
    """recipes.default for these scans, with changes."""
    from headwater import recipes, settings as told
    from headwater.device import machine
    from headwater.transfer import adapt

    shape = tuple(int(n) for n in np.median([store.shape(i) for i in adapt.trainable(store)], axis=0))
    found = recipes.default(shape, bool(machine().accelerator), images=len(store.split("train")))
    found = replace(found, precision="fp32")  # narrow networks are no faster in bfloat16 on a processor
    for change in changes:
        found = told.change(found, change)
    return found


def from_their_plan(given: argparse.Namespace, store: Store, settings: Settings) -> tuple[Segmenter, Settings]:
    """nnU-Net's network of its own plan as one of our segmenters, and settings with patch, batch and precision as it has."""
    from headwater.backbones.nnunet import from_plan
    from headwater.streams import seeded
    from headwater.transfer.segment import Segmenter as Kind
    from headwater.transfer.task import Task

    plans = json.loads((given.work / "preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    plan = plans["configurations"]["3d_fullres"]
    like_them = {
        "patch": tuple(plan["patch_size"]),
        "batch": 2,
        "learning_rate": 1.5e-3,
    }  # the recipe's rate is for narrow networks
    settings = replace(settings, precision="bf16", adapt=replace(settings.adapt, **like_them))
    task = Task.of(store, settings)
    with seeded(settings.seed, "plan"):
        backbone, decoder = from_plan(plan["architecture"], store.channels, task.logits)
    return Kind(backbone, decoder, False, task), settings


def steps(network: Segmenter, store: Store, labelled: list[int], settings: Settings) -> Iterator[float]:
    """Trains as transfer.segment.fit does, in place; yields the loss of each of `adapt.steps`."""
    from headwater.train.schedule import learning_rate
    from headwater.transfer import segment
    from headwater.transfer.batches import batch_at

    adapt = settings.adapt
    network.train()
    optimizer, loss = segment.optimizer_for(network, adapt.learning_rate, adapt.weight_decay), network.task.loss()
    for step in range(adapt.steps):
        rate = learning_rate(step, adapt.steps, adapt.learning_rate, adapt.warmup, adapt.schedule)
        yield segment.train_step(
            network, loss, optimizer, *batch_at(step, store, labelled, settings, settings.seed), rate, settings
        )
    network.eval()


def trained(network: Segmenter, store: Store, labelled: list[int], settings: Settings) -> dict[str, list[float]]:
    """Trains in place; what it took."""
    record: dict[str, list[float]] = {"seconds": [], "worked": [], "losses": []}
    start, busy = time.perf_counter(), time.process_time()
    for step, loss in enumerate(steps(network, store, labelled, settings)):
        record["losses"].append(loss)
        note(record, step, start, busy)
        start, busy = time.perf_counter(), time.process_time()
    return record


def ours(
    given: argparse.Namespace, part: str, store: Store, count: int, tests: list[int], files: list[Path], out: Path | None
) -> Any:
    """Part "same" or "own" for `count` steps on all other labelled scans: (Dice of `tests` (n, K), record); masks in `out`."""
    import nibabel

    from headwater.scans import resampling
    from headwater.transfer import adapt, segment

    settings = recipe(store, given.set)
    if part == "same":
        network, settings = from_their_plan(given, store, settings)
    else:
        network = segment.untrained("scratch", store, settings, ("benchmark",))
    settings = replace(settings, adapt=replace(settings.adapt, steps=count))
    labelled = [i for i in adapt.trainable(store) if i not in set(tests)]
    record, found = trained(network, store, labelled, settings), []
    for i in tests if out or given.held else ():
        mask = resampling.back(segment.predict(network, store.image(i), settings), store.original(i))
        found.append(scored(mask, nibabel.load(files[i])))
        if out:
            (out / "plain").mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), nibabel.load(files[i]).affine), out / "plain" / files[i].name)
    if out:
        (out / "record.json").write_text(
            json.dumps({"settings": str(settings.adapt), "backbone": str(settings.backbone), **record})
        )
    return np.array(found), record


def scored(mask: np.ndarray, truth: Any) -> np.ndarray:
    """Dice of each structure (K,) of one mask against a NIfTI image, in its voxels."""
    from headwater.transfer.scores import dice

    whole = [torch.as_tensor(np.asarray(a).round().astype(np.int64)) for a in (mask, truth.dataobj)]
    return dice(*whole, 3)


# both


def paces(given: argparse.Namespace, store: Store) -> dict[str, float]:
    """Seconds of an iteration of each side, the smallest of three medians; as given, or as measured before."""
    kept = given.work / "pace.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    found = before | {name: float(value) for name, _, value in (pair.partition("=") for pair in given.pace)}
    for _ in range(3 if "pace" in given.parts and len(found) < 3 else 0):
        told = {"peer": float(asked_of_peer(given, trainer=TRAINERS["unmirrored"], iterations=15, batch=2).split()[-1])}
        for part in ("same", "own"):
            told[part] = statistics.median(ours(given, part, store, 15, [], [], None)[1]["seconds"][2:])
        found = {name: min(seconds, found.get(name, seconds)) for name, seconds in told.items()}
    if found != before:  # another of these may be reading it
        kept.write_text(json.dumps(found))
    return found


def rows_of(given: argparse.Namespace, minutes: float, pace: dict[str, float], files: list[Path]) -> list[dict[str, Any]]:
    """A row for each finished folder of masks: Dice of each structure, and gains of ours over nnU-Net's, paired over subjects."""
    import nibabel

    from headwater.transfer.scores import interval

    dice, rows = {}, []
    for part in PARTS[1:]:
        for folder in sorted((given.work / "out" / f"{part}_{minutes:g}").glob("*/")):
            shown = [np.asarray(nibabel.load(folder / f.name).dataobj) for f in files]
            dice[part, folder.name] = np.stack([scored(m, nibabel.load(f)) for m, f in zip(shown, files, strict=True)])
    theirs = {key: values.mean(1) for key, values in dice.items() if key[0] in TRAINERS}
    best = max(theirs, key=lambda key: theirs[key].mean(), default=None)
    for (part, averaged), values in dice.items():
        whole = interval(values.mean(1)[None], 0, bounds=(0.0, 1.0))
        record = json.loads((given.work / "out" / f"{part}_{minutes:g}" / "record.json").read_text())
        row = {"minutes": minutes, "side": "nnU-Net" if part in TRAINERS else "ours", "training": part, "prediction": averaged}
        row |= {
            "iterations": len(record["losses"]),
            "quiet_s": pace["peer" if part in TRAINERS else part],
            "processor_s": round(sum(record["worked"])),
        }
        row |= {f"dice_{name}": f"{v:.4f}" for name, v in zip(("anterior", "posterior"), values.mean(0), strict=True)}
        row |= {"dice": f"{whole.mean:.4f}", "low": f"{whole.low:.4f}", "high": f"{whole.high:.4f}"}
        for name, other in (("default", ("default", "mirrored")), ("best", best)) if part not in TRAINERS else ():
            if other in theirs:
                gain = interval((values.mean(1) - theirs[other])[None], 0, bounds=(-1.0, 1.0))
                points = {"": gain.mean, "_low": gain.low, "_high": gain.high}
                row |= {f"points_over_{name}{end}": f"{100 * value:+.2f}" for end, value in points.items()}
        rows.append(row)
    return rows


def write(rows: list[dict[str, Any]], work: Path) -> None:
    """The dated table, and on the screen."""
    from headwater import provenance
    from headwater.device import machine

    about = {
        "commit": provenance.commit()[:12],
        "machine": f"{machine().cores} cores {machine().system}",
        "torch": torch.__version__,
    }
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path = RESULTS / f"against_nnunet_{time.strftime('%Y-%m-%d')}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*columns, *about])
        table.writeheader()
        table.writerows({**row, **about} for row in rows)
    print(path.read_text(encoding="utf-8"))


def main() -> None:
    """Does what is not done yet, then writes the table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", type=Path, nargs="?")
    asked.add_argument("--nnunet", type=Path)
    asked.add_argument("--work", type=Path)
    asked.add_argument("--minutes", type=float, nargs="+", default=[5, 15])
    asked.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked.add_argument("--pace", nargs="*", default=[], metavar="peer|same|own=SECONDS")
    asked.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of our settings")
    asked.add_argument("--held", type=int, default=0)
    asked.add_argument("--steps", type=int, default=300)
    asked.add_argument("--task", help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.task:
        return peer(json.loads(given.task))
    from headwater.transfer import adapt

    store, files = prepared(given)
    if given.held:
        part = "same" if "same" in given.parts and len(given.parts) == 1 else "own"
        held = adapt.trainable(store)[:: len(adapt.trainable(store)) // given.held][: given.held]
        found, record = ours(given, part, store, given.steps, held, files, None)
        clock, work = (statistics.median(record[key]) for key in ("seconds", "worked"))
        return print(part, *given.set, given.steps, found.mean(0), found.mean(), f"{clock:.3f} s, {work:.3f} s of the processor")
    peer_scans(given)
    pace, tests, rows = paces(given, store), adapt.testable(store), []
    for minutes in given.minutes:
        for part in given.parts[given.parts[0] == "pace" :]:
            out = given.work / "out" / f"{part}_{minutes:g}"
            count = int(60 * minutes / pace["own" if part == "own" else "peer"])
            if (out / "record.json").exists():
                continue
            if part in TRAINERS:
                asked_of_peer(given, trainer=TRAINERS[part], iterations=count, batch=2, out=str(out.resolve()))
            else:
                ours(given, part, store, count, tests, files, out)
        rows += rows_of(given, minutes, pace, [files[i] for i in tests])
    write(rows, given.work)


if __name__ == "__main__":
    sys.exit(main())
