"""The six figures of docs/guide/flow.md, each made by one command:

    python docs/guide/figures.py clusters|phases|counts|poles|norms|density|all [--folder docs/guide/figures]

Every figure is a function that simulates, compares with the closed form and returns a matplotlib figure; its arguments are sizes,
so that the tests can run it small. All six take about a minute on one core. Seeds are fixed: the same versions draw the same.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.patheffects
import numpy as np
import torch
from headwater.flow import exact, norms, onset, sphere
from headwater.flow.circle import against_particles
from headwater.flow.clusters import clusters, dissimilarity
from headwater.flow.integrate import solve
from headwater.flow.metastability import metastability
from headwater.flow.schemes import Normed, speed
from headwater.flow.velocity import Attention
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6E6E6E"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)  # Okabe and Ito: told apart with any colour vision
MARKS = ("o", "s", "^", "D", "v", "P")
LOOK = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "image.interpolation": "nearest",
    "svg.hashsalt": "headwater",  # names inside the file stay the same from run to run
}


def stream(seed: int) -> torch.Generator:
    """A generator of its own for each draw."""
    return torch.Generator().manual_seed(seed)


def _balls(figure: Figure, grid: object, states: torch.Tensor, times: Sequence[float], labels: np.ndarray) -> None:
    """One ball per time, seen from one side: tokens in front are filled, those behind are empty and pale."""
    for k, (t, x) in enumerate(zip(times, states.numpy(), strict=True)):
        axes = figure.add_subplot(grid[0, k], aspect="equal")
        axes.set_axis_off()
        axes.add_patch(matplotlib.patches.Circle((0, 0), 1, facecolor="#F4F4F4", edgecolor=GREY, linewidth=0.8))
        turn = np.linspace(-math.pi / 2, math.pi / 2, 40)
        for level in (-0.75, -0.4, 0, 0.4, 0.75):  # circles of latitude, half circles of longitude
            axes.plot((-math.sqrt(1 - level**2), math.sqrt(1 - level**2)), (level, level), color="#DDDDDD", linewidth=0.6)
            axes.plot(level * np.cos(turn), np.sin(turn), color="#DDDDDD", linewidth=0.6)
        near = x[:, 1] < 0  # seen along the second axis
        for label in range(labels.max() + 1):
            colour, mark = COLOURS[label % len(COLOURS)], MARKS[label % len(MARKS)]
            behind, front = ((labels == label) & ~near, (labels == label) & near)
            axes.plot(*x[behind][:, [0, 2]].T, mark, markersize=3.6, markerfacecolor="none", markeredgecolor=colour, alpha=0.5)
            axes.plot(*x[front][:, [0, 2]].T, mark, markersize=4.4, color=colour, markeredgewidth=0)
        axes.set(title=f"t = {t:g}", xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))


def clusters_on_the_sphere(
    n: int = 240, beta: float = 9.0, shown: Sequence[float] = (0, 2, 4, 8, 40, 400), saved: int = 120, seed: int = 1
) -> Figure:
    """Softmax attention on S^2 (V = Q = K = I) from uniform tokens: tokens at a few times, number of clusters against time."""
    times = sorted({*shown, *np.geomspace(0.5, shown[-1], saved).tolist()})
    with torch.no_grad():
        run = solve(Attention(beta), sphere.uniform(n, 3, stream(seed)), times, method="adaptive", tolerance=1e-5)
    seen = metastability(run.times, run.states[:, 0], smallest=2)
    states = run.states[[times.index(t) for t in shown], 0]
    labels = clusters(states[len(shown) // 2]).labels.numpy()
    figure = Figure((10, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1, 0.85))
    _balls(figure, grid, states, shown, labels)
    axes = figure.add_subplot(grid[1, :])
    gathered = seen.tight.numpy() >= 0.9
    when, counts = np.array(times)[gathered], seen.counts.numpy()[gathered]
    axes.step(when, counts, where="post", color=BLUE)
    axes.plot(when, counts, ".", color=BLUE, markersize=3)
    axes.axvspan(0.5, when[0], color="#EEEEEE", linewidth=0)
    axes.text(math.sqrt(0.5 * when[0]), 1.0, "not gathered yet", ha="center", color=GREY)
    top = max(counts) + 1
    axes.set(xscale="log", xlim=(0.5, times[-1]), ylim=(0, top), yticks=range(0, top + 1, 2))
    axes.set(xlabel="depth-time t (log)", ylabel="clusters (cosine > 0.99)")
    return figure


def agreement(betas: Sequence[float], d: int, *, n: int = 32, batch: int = 64, end: float = 30.0, rows: int = 60) -> np.ndarray:
    """Share of pairs of different tokens with cosine > .999 after t, (rows, betas): Euler of step .1, uniform starts."""

    def share(_: float, x: torch.Tensor) -> torch.Tensor:
        near = (x @ x.mT > 0.999).double().sum((1, 2)) - n
        return near.mean() / (n * (n - 1))

    found, times = [], np.linspace(0, end, rows + 1)
    with torch.no_grad():
        for k, beta in enumerate(betas):
            start = sphere.uniform(n, d, stream(k), batch=batch)
            found.append(solve(Attention(beta), start, times, method="euler", step=0.1, save=share).states.numpy()[1:])
    return np.stack(found, 1)


def phase_diagram(
    widths: Sequence[int] = (2, 8, 32), n: int = 32, batch: int = 64, betas: int = 24, end: float = 30.0, rows: int = 60
) -> Figure:
    """Probability that two tokens have met, over inverse temperature and depth-time, for several widths d."""
    edges = np.linspace(0.1, 9, betas + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    figure = Figure((10, 3.5), layout="constrained")
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
    for axes, d in zip(panels, widths, strict=True):
        met = agreement(middle, d, n=n, batch=batch, end=end, rows=rows)
        image = axes.imshow(met, "cividis", origin="lower", extent=(*edges[[0, -1]], 0, end), aspect="auto", vmin=0, vmax=1)
        axes.set(title=f"d = {d}", xlabel=r"$\beta$", xlim=(edges[0], edges[-1]), ylim=(0, end), xticks=range(1, 10, 2))
    fine = np.linspace(edges[0], edges[-1], 80)
    meeting = [exact.time_to_reach(0.999, n, beta) for beta in fine]
    edge = [matplotlib.patheffects.withStroke(linewidth=3, foreground="black")]
    panels[-1].plot(fine, meeting, color="white", linestyle="--", path_effects=edge)
    panels[-1].text(0.6, 2.2, "dashed: orthogonal tokens meet,\nby the common-angle equation", color="white", va="center")
    panels[0].set_ylabel("depth-time t")
    figure.colorbar(image, ax=panels, label="share of pairs with cosine > 0.999", pad=0.01)
    return figure


def peaks(beta: float, n: int = 400, starts: int = 8) -> list[int]:
    """Clusters that form first from n tokens evenly spaced on the circle and moved by .001, one number for each start."""
    even = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    angle = even + 1e-3 * torch.randn(starts, n, generator=stream(int(beta)), dtype=torch.float64)
    rate = onset.growth_rates(onset.first_degree(2, beta), 2, beta)[-1]
    times = [0.0, *(k / rate for k in (6.0, 8.0, 10.0, 12.0, 14.0))]
    with torch.no_grad():
        states = solve(Attention(beta), sphere.circle(angle), times, step=0.25).states
    found = []
    for member in range(starts):
        seen = (clusters(state[member], math.cos(0.25 / math.sqrt(beta)), smallest=n // 50) for state in states)
        found.append(next(c.count for c in seen if c.tight > 0.9))
    return found


def first_counts(betas: Sequence[float] = (4, 6, 9, 12, 16, 24, 32, 48), n: int = 400, starts: int = 8) -> Figure:
    """Number of clusters that form first on the circle against sqrt(2 beta) and the fastest growing harmonic."""
    figure = Figure((5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    fine = np.linspace(1, math.sqrt(2 * max(betas)) + 1, 400)
    fastest, told = [onset.first_degree(2, u * u / 2) for u in fine], r"fastest harmonic: argmax $k^2 I_k(\beta)/I_0(\beta)$"
    axes.plot(fine, fastest, color=BLUE, drawstyle="steps-mid", label=told)
    axes.plot(fine, fine, color=GREY, linestyle="--", label=r"$\sqrt{2\beta}$")
    for k, beta in enumerate(betas):
        found, place = np.array(peaks(beta, n, starts)), math.sqrt(2 * beta)
        beside = 0.05 * (np.arange(starts) - (starts - 1) / 2)
        axes.plot(place + beside, found, "o", color=ORANGE, markersize=3.5, label=None if k else "one start")
        axes.plot(place, found.mean(), "D", color="black", markersize=5, label=None if k else f"mean of {starts} starts")
    top = int(fine[-1]) + 2
    axes.set(xlabel=r"$\sqrt{2\beta}$", ylabel="clusters formed first", xlim=(1, fine[-1]), ylim=(0, top))
    axes.set_yticks(range(0, top, 2))
    axes.legend(loc="upper left")
    return figure


def near_poles(n: int, d: int, size: float = 1e-3) -> torch.Tensor:
    """n tokens, half of them near e_1 and half near -e_1, off by about `size`: (1, n, d)."""
    x = size * torch.randn(n, d, generator=stream(3), dtype=torch.float64)
    x[:, 0] = torch.where(torch.arange(n) < n // 2, 1.0, -1.0)
    return sphere.project(x[None])


def poles_hold(ratio: float, beta: float, n: int = 12, end: float = 100.0) -> bool:
    """Simulated, V = diag(1, ratio, ratio / 2): do tokens near +-e_1 stay, still coming closer in the second half of the time?"""
    v = Attention(beta, V=torch.diag(torch.tensor([1.0, ratio, ratio / 2], dtype=torch.float64)))
    with torch.no_grad():
        states = solve(v, near_poles(n, 3), (0.0, end / 2, end), step=1.0).states
    stayed = bool((states[-1, 0, : n // 2, 0] > 0.9).all() and (states[-1, 0, n // 2 :, 0] < -0.9).all())
    middle, last = (float(x[..., 1:].norm()) for x in states[1:])
    return stayed and last < middle


def two_poles(side: int = 12, n: int = 12, shown: float = 0.7, end: float = 240.0) -> Figure:
    """Where clusters at both ends of the leading eigenvector persist: the threshold tanh(beta), one run on each side of it."""
    figure = Figure((10, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    axes = figure.add_subplot(grid[:, 0])
    fine = np.linspace(0, 2, 200)
    axes.fill_between(fine, np.tanh(fine), color="#DCEAF4", linewidth=0)
    axes.plot(fine, np.tanh(fine), color="black", label=r"$\tanh\,\beta$")
    betas, ratios = (np.arange(side) + 0.5) * 2 / side, (np.arange(side) + 0.5) / side
    held = np.array([[poles_hold(ratio, beta, n) for beta in betas] for ratio in ratios])
    x, y = np.meshgrid(betas, ratios)
    axes.plot(x[held], y[held], "o", color=BLUE, markersize=5, label="simulated: two poles persist")
    axes.plot(x[~held], y[~held], "x", color=RED, markersize=5, label="simulated: tokens leave them")
    axes.set(xlabel=r"$\beta$", ylabel=r"$\lambda_2/\lambda_1$ of V", xlim=(0, 2), ylim=(0, 1))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    for row, (sign, ratio) in enumerate((("below", math.tanh(shown) - 0.05), ("above", math.tanh(shown) + 0.05))):
        v = Attention(shown, V=torch.diag(torch.tensor([1.0, ratio, ratio / 2], dtype=torch.float64)))
        times = torch.linspace(0, end, 121)
        with torch.no_grad():
            height = solve(v, near_poles(n, 3, 0.3), times, step=0.5, save=lambda t, x: x[0, :, 0]).states
        axes = figure.add_subplot(grid[row, 1])
        axes.plot(times, height[:, : n // 2], color=BLUE, linewidth=1)
        axes.plot(times, height[:, n // 2 :], color=ORANGE, linewidth=1, linestyle="--")
        axes.set_title(rf"$\beta$ = {shown:g}, $\lambda_2/\lambda_1$ = {ratio:.2f}, {sign} tanh $\beta$ = {math.tanh(shown):.2f}")
        axes.set(ylim=(-1.1, 1.1), xlim=(0, end), ylabel=r"$\langle x_i, \phi_1\rangle$", yticks=(-1, 0, 1))
    axes.set_xlabel("depth-time t")
    return figure


def _angles_and_speeds(field: Attention, scheme: str, t: float, x: torch.Tensor) -> torch.Tensor:
    """(1 - mean cosine, 1 / s) of tokens x = r theta."""
    theta, radius = sphere.project(x), x.norm(dim=-1, keepdim=True)
    s = speed(scheme, field.ambient(t, theta), radius)
    return torch.stack((dissimilarity(theta)[0], 1 / s.mean()))


def normalisation_speeds(n: int = 16, beta: float = 2.0, end: float = 1000.0, saved: int = 25) -> Figure:
    """Post-, pre- and peri-norm: how fast orthogonal tokens agree, their angular speed, and how fast they set off."""
    figure = Figure((10, 3.7), layout="constrained")
    left, centre, right = figure.subplots(1, 3)
    times, fine = [0.0, *np.geomspace(0.1, end, saved)], np.geomspace(0.1, end, 200)
    betas, some = np.linspace(0, 6, 100), np.linspace(0, 6, 13)
    start, field = torch.eye(n, dtype=torch.float64)[None], Attention(beta)
    styles = {"post": (BLUE, "-", "o"), "pre": (RED, "--", "s"), "peri": (GREEN, "-.", "^")}
    for scheme, (colour, line, mark) in styles.items():
        gap, radius = norms.normalised_gap(fine, scheme, n, beta)
        rates = [1 / norms.speeds(scheme, 1 - g, r, n, beta)[0] for g, r in zip(gap, radius, strict=True)]
        save = partial(_angles_and_speeds, field, scheme)
        with torch.no_grad():
            found = solve(Normed(field, scheme), start, times, method="adaptive", tolerance=1e-9, save=save).states.numpy()[1:]
            moving = [sphere.tangent(start, Normed(Attention(b), scheme)(0.0, start))[0] for b in some]
        going = [float(v[0] @ start[0, 1] + v[1] @ start[0, 0]) for v in moving]
        shown = found[:, 0] > 1e-7
        left.plot(fine[gap > 1e-7], gap[gap > 1e-7], line, color=colour)
        left.plot(np.array(times[1:])[shown], found[shown, 0], mark, color=colour, markersize=4)
        centre.plot(fine, rates, line, color=colour)
        centre.plot(times[1:], found[:, 1], mark, color=colour, markersize=4)
        right.plot(betas, [norms.initial_speed(scheme, n, b) for b in betas], line, color=colour)
        right.plot(some, going, mark, color=colour, markersize=4, markerfacecolor="none" if scheme == "pre" else colour)
    left.plot(fine[fine > 30], 200 * fine[fine > 30] ** -2.0, ":", color=GREY)
    left.text(200, 2e-2, r"$t^{-2}$", color=GREY)
    left.set(xscale="log", yscale="log", ylim=(1e-7, 2), title="distance", xlabel="depth-time t", ylabel="1 - cosine")
    centre.set(xscale="log", yscale="log", title="angular speed", xlabel="depth-time t", ylabel=r"$1/s$, $\theta' = PA/s$")
    right.set(yscale="log", title="speed at the start", xlabel=r"$\beta$", ylabel="d cosine / dt at t = 0")
    lines = [matplotlib.lines.Line2D([], [], color=c, linestyle=l, marker=m, markersize=4) for c, l, m in styles.values()]
    figure.legend(lines, [f"{scheme}-norm" for scheme in styles], loc="outside upper center", ncols=3)
    return figure


def density_and_particles(n: int = 2000, times: Sequence[float] = (0, 1, 2, 3), beta: float = 4.0, step: float = 0.1) -> Figure:
    """The continuity equation solved on the circle, beside particles that start from the same density and carry it along."""
    found = against_particles([float(t) for t in times], n, stream(5), beta=beta, step=step)
    figure = Figure((10, 3.4), layout="constrained")
    bins = np.linspace(-math.pi, math.pi, 49)
    some, top = slice(None, None, max(1, n // 60)), 1.15 * found.density.max()
    for k, axes in enumerate(figure.subplots(1, len(times), squeeze=False, sharey=True)[0]):
        axes.hist(found.particles[k], bins, density=True, color="#C9C9C9", label=f"histogram of {n} particles")
        axes.plot(found.angles, found.density[k], color=BLUE, label="density, by the continuity equation")
        carried = found.particles[k][some], found.carried[k][some]
        axes.plot(*carried, "o", color=RED, markersize=3, label="density that particles carry")
        axes.set(title=f"t = {found.times[k]:g}", xlim=(-math.pi, math.pi), ylim=(0, top), xlabel=r"angle $\theta$")
        axes.set_xticks((-math.pi, 0, math.pi), (r"$-\pi$", "0", r"$\pi$"))
        if k == 0:
            axes.set_ylabel("density per radian")
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


FIGURES = {
    "clusters": clusters_on_the_sphere,
    "phases": phase_diagram,
    "counts": first_counts,
    "poles": two_poles,
    "norms": normalisation_speeds,
    "density": density_and_particles,
}


def write(name: str, folder: Path) -> Path:
    """Draws one figure at full size into folder/NAME.svg."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **LOOK}):
        figure = FIGURES[name]()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return folder / f"{name}.svg"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*FIGURES, "all"])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "figures")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES if asked.name == "all" else (asked.name,):
        path = write(name, asked.folder)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
