"""placeholder docstring"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

DATASET = "Dataset004_Hippocampus"


# ---- the peer's half: runs in the peer's Python, imports nothing of ours


def peer_train(task: dict) -> None:
    """nnU-Net's own trainer for a number of iterations, then its own predictor on the scans apart; writes `out`/peer.json."""
    from torch.nn import Module

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    np.random.seed(task["seed"])
    torch.manual_seed(task["seed"])
    plans = Path(os.environ["nnUNet_preprocessed"]) / DATASET / "nnUNetPlans.json"
    planned = json.loads(plans.read_text())
    planned["configurations"]["3d_fullres"]["batch_size"] = task["batch"] or planned["configurations"]["3d_fullres"]["batch_size"]
    planned["plans_name"] = f"nnUNetPlans_batch{task['batch']}"
    (plans.parent / f"{planned['plans_name']}.json").write_text(json.dumps(planned))
    trainer = get_trainer_from_args("4", "3d_fullres", "all", task["trainer"], planned["plans_name"], device=torch.device("cpu"))
    trainer.on_train_start()
    forward = trainer.network.forward

    def mixed(x: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bf16"):
            scores = forward(x)
        return [s.float() for s in scores]

    trainer.network.forward = mixed
    trainer.network.train()
    schedule = PolyLRScheduler(trainer.optimizer, trainer.initial_lr, task["iterations"])
    seconds, losses = [], []
    for step in range(task["iterations"]):
        start = time.perf_counter()
        schedule.step(step)  # theirs falls once an epoch of 250 iterations, of which there are one to four here
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        seconds.append(time.perf_counter() - start)
        if (step + 1) % 20 == 0:
            print(step + 1, f"loss {np.mean(losses[-20:]):.3f}", f"{statistics.median(seconds[-20:]):.3f} s/it", flush=True)
    told = {"task": task, "seconds": seconds, "losses": losses}
    if task["out"]:
        out = Path(task["out"])
        out.mkdir(parents=True, exist_ok=True)
        trainer.network.forward = forward
        trainer.current_epoch = 1
        trainer.on_train_end()
        network: Module = trainer.network.eval()
        trainer.set_deep_supervision_enabled(False)
        scans = sorted((Path(os.environ["nnUNet_raw"]) / DATASET / "imagesTs").iterdir())
        for mirror in (False, True) if trainer.inference_allowed_mirroring_axes else (False,):
            predictor = nnUNetPredictor(
                use_mirroring=mirror, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
            )
            predictor.manual_initialization(
                network,
                trainer.plans_manager,
                trainer.configuration_manager,
                [network.state_dict()],
                trainer.dataset_json,
                task["trainer"],
                trainer.inference_allowed_mirroring_axes,
            )
            folder = out / ("mirrored" if mirror else "plain")
            folder.mkdir(exist_ok=True)
            names = [str(folder / p.name.replace("_0000.nii.gz", "")) for p in scans]
            predictor.predict_from_files_sequential([[str(p)] for p in scans], names)
        (out / "peer.json").write_text(json.dumps(told))
    print("median", statistics.median(seconds[3:]), flush=True)


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("task")
    peer_train(json.loads(asked.parse_args().task))
