"""How tokens travel: length and straightness of their ways, and the action above the least that transport allows."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.sphere import check_finite, check_on_sphere, distance
from headwater.flow.transport import MOST, Cost, wasserstein


@dataclass(frozen=True)
class Journey:
    """What a trajectory costs. B members of a batch, N tokens.

    length (B, N): of each way. displacement (B, N): of its ends. action (B,): T int mean |v|^2 dt over the time T, so that
    action >= mean length^2 >= mean displacement^2 >= W2^2 of the end clouds, each within rounding; the three steps are
    unevenness (speed changes on the way), bending (ways are not geodesics), crossing (the pairs are not the cheapest).
    transport (B,): W2^2. error (B,): by which W2 may be off where clouds were subsampled, else 0.
    """

    length: Float[Tensor, "B N"]
    displacement: Float[Tensor, "B N"]
    action: Float[Tensor, "B"]
    transport: Float[Tensor, "B"]
    error: Float[Tensor, "B"]

    @property
    def straightness(self) -> Float[Tensor, "B N"]:
        """displacement / length, 0 to 1; 1 for a token that stays where it is."""
        moved = self.length > 0
        return torch.where(moved, self.displacement / torch.where(moved, self.length, 1.0), 1.0)

    @property
    def unevenness(self) -> Float[Tensor, "B"]:
        """action - mean length^2."""
        return self.action - self.length.square().mean(-1)

    @property
    def bending(self) -> Float[Tensor, "B"]:
        """mean length^2 - mean displacement^2."""
        return (self.length.square() - self.displacement.square()).mean(-1)

    @property
    def crossing(self) -> Float[Tensor, "B"]:
        """mean displacement^2 - W2^2; may be negative by the error where clouds were subsampled."""
        return self.displacement.square().mean(-1) - self.transport

    @property
    def gap(self) -> Float[Tensor, "B"]:
        """action - W2^2, the sum of the three: 0 for optimal transport at constant speed along geodesics."""
        return self.action - self.transport


def journey(
    times: Float[Tensor, "T"],
    states: Float[Tensor, "T B N D"],
    *,
    space: str = "flat",
    most: int = MOST,
    generator: torch.Generator | None = None,
) -> Journey:
    """Measures a trajectory, as `integrate.solve` gives it, by geodesics between the states saved.

    The action of these is exact for the path that follows them and rises to that of the true path as times get denser
    (second order). Raises ValueError for fewer than two times and tokens off the sphere.
    """
    times = _check(times, states, space)
    steps = _apart(states[1:], states[:-1], space)  # T-1 B N
    spans = (times[1:] - times[:-1]).abs().to(steps)
    action = spans.sum() * (steps.square().mean(-1) / spans[:, None]).sum(0)
    ends = [_cost(x, y, space, most, generator) for x, y in zip(states[0], states[-1], strict=True)]
    least = torch.stack([cost.power for cost in ends]).to(states)
    error = torch.tensor([cost.error for cost in ends], dtype=states.dtype, device=states.device)
    return Journey(steps.sum(0), _apart(states[-1], states[0], space), action, least, error)


def kinetic_energy(v: Float[Tensor, "B N D"]) -> Float[Tensor, "B"]:
    """Mean |v|^2 / 2 over the tokens, from what a velocity returns."""
    return v.square().sum(-1).mean(-1) / 2


def layer_costs(
    states: Float[Tensor, "T B N D"],
    *,
    space: str = "flat",
    most: int = MOST,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "T_1 B"], Float[Tensor, "T_1 B"]]:
    """W2 between the clouds of consecutive states, (T-1, B), and by how much each may be off (0 unless subsampled)."""
    _check(torch.arange(len(states)), states, space)
    found = [
        [_cost(x, y, space, most, generator) for x, y in zip(a, b, strict=True)] for a, b in zip(states, states[1:], strict=False)
    ]
    value = torch.stack([torch.stack([cost.distance for cost in row]) for row in found])
    return value, torch.tensor([[cost.error for cost in row] for row in found], dtype=states.dtype, device=states.device)


def _cost(x: Tensor, y: Tensor, space: str, most: int, generator: torch.Generator | None) -> Cost:
    return wasserstein(x, y, space=space, most=most, generator=generator)


def _apart(x: Tensor, y: Tensor, space: str) -> Tensor:
    return distance(x, y) if space == "sphere" else torch.linalg.vector_norm(x - y, dim=-1)


def _check(times: Tensor, states: Tensor, space: str) -> Tensor:
    if space not in ("sphere", "flat"):
        raise ValueError(f"journey: space {space!r}: use 'sphere' or 'flat'")
    if len(times) != len(states) or len(states) < 2:
        raise ValueError(f"journey: {len(times)} times and {len(states)} states: needs two or more, one time for each")
    if not bool((times.diff() != 0).all()):
        raise ValueError("journey: two times are equal: give each state a time of its own")
    check_on_sphere(states, "journey") if space == "sphere" else check_finite(states, "journey")
    return times
