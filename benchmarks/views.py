"""How many views a second, beside batchgeneratorsv2, TorchIO and MONAI, and beside the one resampling that a view needs at least?

Question:  are our views at least 3 times as fast as the fastest peer, and within 1.5 times of one bare resampling, for
           default: nnU-Net's chances (rotation 0.2, scale 0.2, mirroring, noise 0.1, blur 0.2, brightness 0.15, contrast 0.15,
             low resolution 0.25, inverted gamma 0.1, gamma 0.3);
           all on: rotation, scale, noise, blur and gamma in every view;
           elastic: rotation, scale and elastic change in every view?
Command:   python benchmarks/views.py [--rounds 15] [--volumes 16] [--size 64] [--threads 1 2] [--out results/views.csv]
Peers:     pip install batchgeneratorsv2 torchio monai; what is missing is named and left out.
Duration:  about six minutes; the machine must be otherwise quiet.
How:       one process, one volume (1, 64, 64, 64) in and one out, float32, no labels, linear interpolation, zeros outside.
Every round each library changes the same volumes, one after the other, in an order that turns from round to round; parameters
are drawn anew each time and the drawing counts. A volume is copied before the clock starts, since some peers write into it. A
ratio is the median over rounds of the ratio within a round, so that a change of load strikes both sides; processor_ms is the
time all threads of the process worked, which says more than the clock on a busy machine with one thread. "bare" is
F.grid_sample on grids made beforehand.
The peers do not do quite the same. TorchIO has neither brightness nor contrast (two lines of torch do it), low resolution along
one axis only, one chance for rotation and scale together (as MONAI), and its gamma keeps no mean and spread. Elastic change of
batchgeneratorsv2 and MONAI is smoothed noise, of TorchIO and ours a cubic B-spline on 7 control points per axis. "make_views"
is all that a training step calls: two crops of one parent (half as long again) with boxes and masks, with its own settings, per
view.
"""

import argparse
import csv
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from datetime import date
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from headwater import settings
from headwater.streams import numpy_stream
from headwater.views import draw_intensity, draw_placements, make_views, place
from headwater.views.intensity import apply_intensity_
from torch import Tensor

PIPELINES = ("default", "all on", "elastic")
ANGLE, SCALE = 30.0, (0.7, 1.4)
SIGMA, GAMMA, FACTOR, ZOOM = (0.5, 1.0), (0.7, 1.5), (0.75, 1.25), (0.5, 1.0)
MOVED = 0.2 + 0.2 - 0.2 * 0.2  # chance that a volume is rotated or scaled, where a library has one chance for both
KNOTS, SHIFT = 7, 5.0  # control points per axis and largest displacement in voxels of the elastic change
OFF = dict.fromkeys(("noise", "blur", "brightness", "contrast", "gamma", "inverted_gamma"), 0.0)
CHANCES = {"default": {"resolution": 0.25}, "all on": OFF | {"noise": 1.0, "blur": 1.0, "gamma": 1.0}, "elastic": OFF}
Change = Callable[[Tensor], Tensor]
Took = dict[str, list[tuple[float, float]]]


def headwater(pipeline: str, size: int) -> Change:
    """One placement and one change of intensity, drawn and applied."""
    shape, turn = (size,) * 3, count()
    always = pipeline != "default"

    def view(x: Tensor) -> Tensor:
        n = next(turn)
        placement = draw_placements(
            numpy_stream(0, n, "placement"),
            [shape],
            shape,
            rotation=ANGLE,
            scale=SCALE,
            probability=1.0 if always else 0.2,
            mirror=() if always else (0, 1, 2),
            elastic=0.8 if pipeline == "elastic" else 0.0,  # 0.8 of 6.5 voxels, where a map could begin to fold
        )[0]
        params = draw_intensity(numpy_stream(0, n, "intensity"), 1, changes=CHANCES[pipeline])
        return apply_intensity_(place(x, placement, padding="zero")[None], params)[0]

    return view


def whole(pipeline: str, size: int) -> Change | None:
    """What a training step calls, with the default settings; two views a call."""
    if pipeline != "default":
        return None
    how, turn = settings.Views(parent=(size * 3 // 2,) * 3, crop=(size,) * 3), count()

    def views(x: Tensor) -> Tensor:
        return make_views([F.pad(x, (0, size // 2) * 3)], how, seed=0, step=next(turn), stride=(4, 4, 4)).x

    return views


def batchgenerators(pipeline: str, size: int) -> Change:
    """batchgeneratorsv2, as nnU-Net puts it together."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    chance = 0.2 if pipeline == "default" else 1.0
    elastic = {"p_elastic_deform": 1.0} if pipeline == "elastic" else {}
    angle = (-ANGLE / 360 * 2 * np.pi, ANGLE / 360 * 2 * np.pi)
    steps = [
        SpatialTransform(
            (size,) * 3,
            patch_center_dist_from_border=0,
            random_crop=False,
            p_rotation=chance,
            rotation=angle,
            p_scaling=chance,
            scaling=SCALE,
            p_synchronize_scaling_across_axes=1,
            **elastic,
        )
    ]
    noise, blur = GaussianNoiseTransform((0, 0.1), 1, True), GaussianBlurTransform(SIGMA, True, True, 1)

    def gamma(invert: int) -> GammaTransform:
        return GammaTransform(BGContrast(GAMMA), invert, False, 1, 1)

    if pipeline == "all on":
        steps += [noise, blur, gamma(0)]
    if pipeline == "default":
        contrast = BGContrast(FACTOR)
        low = SimulateLowResolutionTransform(ZOOM, False, True, (), None, 1)
        rare = [(noise, 0.1), (blur, 0.2), (MultiplicativeBrightnessTransform(contrast, False, 1), 0.15)]
        rare += [(ContrastTransform(contrast, True, False, 1), 0.15), (low, 0.25), (gamma(1), 0.1), (gamma(0), 0.3)]
        steps += [RandomTransform(step, apply_probability=p) for step, p in rare] + [MirrorTransform((0, 1, 2))]
    change = ComposeTransforms(steps)
    return lambda x: change(image=x)["image"]


def torchio(pipeline: str, size: int) -> Change:
    """TorchIO; standard deviations in mm of 1 mm voxels."""
    import torchio as tio

    affine = {"scales": SCALE, "isotropic": True, "degrees": ANGLE, "default_pad_value": 0.0}
    noise, blur = {"std": (0, 0.1**0.5)}, {"std": SIGMA}
    gamma = {"log_gamma": tuple(np.log(GAMMA))}
    if pipeline == "all on":
        steps = [tio.RandomAffine(**affine), tio.RandomNoise(**noise), tio.RandomBlur(**blur), tio.RandomGamma(**gamma)]
    elif pipeline == "elastic":
        bend = {"num_control_points": KNOTS, "max_displacement": SHIFT}
        steps = [tio.RandomAffineElasticDeformation(affine_kwargs=affine, elastic_kwargs=bend)]
    else:
        rng = np.random.default_rng(0)

        def contrast(x: Tensor) -> Tensor:
            mean = x.mean()
            return ((x - mean) * rng.uniform(*FACTOR) + mean).clamp(x.min(), x.max())

        steps = [
            tio.RandomAffine(**affine, p=MOVED),
            tio.RandomNoise(**noise, p=0.1),
            tio.RandomBlur(**blur, p=0.2),
            tio.Lambda(lambda x: x * rng.uniform(*FACTOR), p=0.15),
            tio.Lambda(contrast, p=0.15),
            tio.RandomAnisotropy(downsampling=(1, 2), p=0.25),
            tio.Compose([tio.Lambda(torch.neg), tio.RandomGamma(**gamma), tio.Lambda(torch.neg)], p=0.1),
            tio.RandomGamma(**gamma, p=0.3),
            tio.RandomFlip((0, 1, 2)),
        ]
    change = tio.Compose(steps)
    return lambda x: change(tio.Subject(image=tio.ScalarImage(tensor=x)))["image"].data


def monai(pipeline: str, size: int) -> Change:
    """MONAI's array transforms."""
    from monai import transforms as m

    angle, zoom = np.deg2rad(ANGLE), (SCALE[0] - 1, SCALE[1] - 1)
    affine = {"rotate_range": (angle,) * 3, "scale_range": (zoom,) * 3, "padding_mode": "zeros"}
    noise, blur = {"std": 0.1**0.5}, {f"sigma_{axis}": SIGMA for axis in "xyz"}
    factor = (FACTOR[0] - 1, FACTOR[1] - 1)
    if pipeline == "all on":
        steps = [m.RandAffine(1.0, **affine), m.RandGaussianNoise(1.0, **noise), m.RandGaussianSmooth(**blur, prob=1.0)]
        steps.append(m.RandAdjustContrast(1.0, GAMMA, retain_stats=True))
    elif pipeline == "elastic":
        steps = [m.Rand3DElastic((5, 7), (50, 150), 1.0, **affine)]
    else:
        steps = [
            m.RandAffine(MOVED, **affine),
            m.RandGaussianNoise(0.1, **noise),
            m.RandGaussianSmooth(**blur, prob=0.2),
            m.RandScaleIntensity(factor, 0.15),
            m.RandScaleIntensityFixedMean(0.15, factor, preserve_range=True),
            m.RandSimulateLowResolution(0.25, zoom_range=ZOOM),
            m.RandAdjustContrast(0.1, GAMMA, invert_image=True, retain_stats=True),
            m.RandAdjustContrast(0.3, GAMMA, retain_stats=True),
            *(m.RandFlip(0.5, axis) for axis in range(3)),
        ]
    change = m.Compose(steps)
    return lambda x: change(x)


def bare(pipeline: str, size: int) -> Change:
    """One linear resampling, on grids made beforehand: rotations and scales as drawn for the others."""
    shape, grids = (size,) * 3, []
    for n in range(16):
        drawn = draw_placements(numpy_stream(1, n), [shape], shape, rotation=ANGLE, scale=SCALE, probability=1.0)[0]
        turn = torch.tensor(drawn.matrix).flip(0, 1)  # grid_sample names the last axis first
        grids.append(F.affine_grid(torch.cat([turn, torch.zeros(3, 1)], 1)[None].float(), (1, 1, *shape), align_corners=False))
    turn = count()
    return lambda x: F.grid_sample(x[None], grids[next(turn) % len(grids)], align_corners=False)[0]


LIBRARIES: dict[str, tuple[Callable[[str, int], Change | None], str]] = {
    "headwater": (headwater, "headwater"),
    "headwater make_views": (whole, "headwater"),
    "batchgeneratorsv2": (batchgenerators, "batchgeneratorsv2"),
    "torchio": (torchio, "torchio"),
    "monai": (monai, "monai"),
    "bare": (bare, "torch"),
}
OURS = ("headwater", "headwater make_views", "bare")


def phantoms(volumes: int, size: int) -> list[Tensor]:
    """Smooth z-scored volumes with a plain background."""
    made = []
    for n in range(volumes):
        coarse = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(n))
        x = F.interpolate(coarse, size=(size,) * 3, mode="trilinear")[0].clamp_min(0)
        made.append((x - x.mean()) / x.std())
    return made


def use_threads(threads: int) -> None:
    """Of torch, and of ITK, which TorchIO resamples with."""
    torch.set_num_threads(threads)
    if importlib.util.find_spec("SimpleITK"):
        import SimpleITK

        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def timed(change: Change, volumes: list[Tensor]) -> tuple[float, float]:
    """Seconds per view, by the clock and of the processor."""
    given = [x.clone() for x in volumes]
    started, worked = time.perf_counter(), time.process_time()
    views = sum(len(change(x)) for x in given)  # (1, ...), or (2, 1, ...) for two views
    return (time.perf_counter() - started) / views, (time.process_time() - worked) / views


def race(pipeline: str, size: int, volumes: list[Tensor], rounds: int, names: list[str]) -> Took:
    """Seconds per view of every library in every round."""
    changes = {name: change for name in names if (change := LIBRARIES[name][0](pipeline, size)) is not None}
    took: Took = {name: [] for name in changes}
    for change in changes.values():  # the first calls make caches
        timed(change, volumes[:4])
    order = list(changes)
    for n in range(rounds):
        for name in order[n % len(order) :] + order[: n % len(order)]:
            took[name].append(timed(changes[name], volumes))
    return took


def ratio(above: list[tuple[float, float]], below: list[tuple[float, float]], clock: int = 0) -> float:
    """Median over rounds of the ratio within a round. clock: 0 the wall's, 1 the processor's."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(above, below, strict=True))


def rows_of(took: Took, pipeline: str, threads: int) -> list[dict[str, object]]:
    """One row per library."""
    return [
        {
            "pipeline": pipeline,
            "threads": threads,
            "library": name,
            "version": "" if name.startswith("headwater") else importlib.metadata.version(LIBRARIES[name][1]),
            "median_ms": f"{1e3 * statistics.median(wall for wall, _ in spent):.2f}",
            "min_ms": f"{1e3 * min(spent)[0]:.2f}",
            "max_ms": f"{1e3 * max(spent)[0]:.2f}",
            "processor_ms": f"{1e3 * statistics.median(worked for _, worked in spent):.2f}",
            "views_per_s": f"{1 / statistics.median(wall for wall, _ in spent):.1f}",
            "headwater is x times as fast": f"{ratio(spent, took['headwater']):.2f}",
            "the same by processor time": f"{ratio(spent, took['headwater'], 1):.2f}",
            "times a bare resampling": f"{ratio(spent, took['bare']):.2f}",
            "the same by the processor": f"{ratio(spent, took['bare'], 1):.2f}",
        }
        for name, spent in took.items()
    ]


def verdict(took: Took, pipeline: str, threads: int) -> str:
    """The two goals in a sentence."""
    peers = {name: ratio(spent, took["headwater"]) for name, spent in took.items() if name not in OURS}
    line = f"{pipeline}, {threads} thread(s): {ratio(took['headwater'], took['bare']):.2f} times a bare resampling (goal 1.5)"
    if not peers:
        return f"{line}; no peer is installed"
    fastest = min(peers, key=peers.__getitem__)
    return f"{line}; {peers[fastest]:.2f} times as fast as the fastest peer, {fastest} (goal 3)"


def main() -> None:
    """Measures everything, prints a line each and the answers, and writes the CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=15)
    asked.add_argument("--volumes", type=int, default=16)
    asked.add_argument("--size", type=int, default=64)
    asked.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    asked.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=PIPELINES)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "views.csv")
    told = asked.parse_args()
    warnings.filterwarnings("ignore")
    names = [name for name, (_, package) in LIBRARIES.items() if importlib.util.find_spec(package)]
    if missing := [name for name in LIBRARIES if name not in names]:
        print(f"not installed and left out: {', '.join(missing)}")
    place_ = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=place_).stdout.strip()
    about = {"size": told.size, "rounds": told.rounds, "volumes": told.volumes, "torch": torch.__version__, "commit": commit}
    about |= {"machine": f"{platform.machine()} {os.cpu_count()} cores", "date": str(date.today())}
    torch.manual_seed(0)
    np.random.seed(0)  # peers draw from the generators of the process
    volumes, rows, answers = phantoms(told.volumes, told.size), [], []
    for threads in told.threads:
        use_threads(threads)
        for pipeline in told.pipelines:
            load = f"{os.getloadavg()[0]:.1f}"
            took = race(pipeline, told.size, volumes, told.rounds, names)
            for row in rows_of(took, pipeline, threads):
                rows.append(row | {"load": load})
                print("  ".join(f"{value:>9}" if i > 2 else f"{value!s:<20}" for i, value in enumerate(row.values())), flush=True)
            answers.append(verdict(took, pipeline, threads))
            print(answers[-1], flush=True)
    told.out.parent.mkdir(parents=True, exist_ok=True)
    with open(told.out, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*rows[0], *about, "answer"])
        table.writeheader()
        table.writerows(row | about for row in rows)
        table.writerows({"answer": answer} | about for answer in answers)


if __name__ == "__main__":
    main()
