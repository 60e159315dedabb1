"""NT-Xent against a loop that follows the sentence in its docstring."""

import math

import pytest
import torch

from headwater.errors import InputError
from headwater.objectives.contrast import across, nt_xent


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def oracle(student, teacher, temperature):
    s, t, batch = student.tolist(), teacher.tolist(), student.shape[1]
    losses = []
    for view in (0, 1):
        for i in range(batch):
            anchor = s[view][i]
            positive = math.exp(cosine(anchor, t[1 - view][i]) / temperature)
            negatives = [
                math.exp(cosine(anchor, group[v][j]) / temperature)
                for group in (s, t)
                for v in (0, 1)
                for j in range(batch)
                if j != i
            ]
            assert len(negatives) == 4 * batch - 4
            losses.append(-math.log(positive / (positive + sum(negatives))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_equals_the_naive_loop(batch, temperature):
    made = torch.Generator().manual_seed(batch)
    student, teacher = (torch.randn(2, batch, 6, generator=made) for _ in range(2))
    assert math.isclose(nt_xent(student, teacher, temperature).item(), oracle(student, teacher, temperature), rel_tol=1e-5)


def test_known_values():
    same = torch.ones(2, 3, 4)
    assert math.isclose(nt_xent(same, same).item(), math.log(9), rel_tol=1e-5)  # 1 positive, 8 negatives, all alike
    apart = torch.eye(2).expand(2, 2, 2)
    assert math.isclose(nt_xent(apart, apart, 0.5).item(), math.log(1 + 4 * math.exp(-2)), rel_tol=1e-5)


def test_order_of_scans_and_scale_do_not_matter():
    student, teacher = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(nt_xent(student, teacher), nt_xent(3 * student[:, order], 0.1 * teacher[:, order]), atol=1e-5)


def test_gradient_into_the_student_only():
    student, teacher = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    nt_xent(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


def test_one_scan_is_refused_with_a_value_that_works():
    with pytest.raises(InputError, match="pretrain.batch=2"):
        nt_xent(torch.randn(2, 1, 4), torch.randn(2, 1, 4))


def test_without_a_teacher_it_is_simclr():
    """Oracle: cross entropy of 2 B - 1 logits, the own vector left out, as the paper's equation 1 has it."""
    z = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float32, requires_grad=True)
    rows = torch.nn.functional.normalize(z.flatten(0, 1), dim=1)
    logits = (rows @ rows.T / 0.3).masked_fill(torch.eye(8, dtype=torch.bool), float("-inf"))
    exact = torch.nn.functional.cross_entropy(logits, torch.arange(8).roll(4))
    ours = nt_xent(z, temperature=0.3)
    assert torch.isclose(ours, exact, rtol=1e-5)
    slopes = [torch.autograd.grad(loss, z)[0] for loss in (ours, exact)]
    assert torch.allclose(*slopes, atol=1e-6)


def rank(rank, count, file, out, student, teacher):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count)
    part = student.chunk(count, 1)[rank].clone().requires_grad_()
    loss = nt_xent(part, None if teacher is None else teacher.chunk(count, 1)[rank])
    loss.backward()
    torch.save((loss.detach(), part.grad), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("taught", [False, True])
def test_ranks_share_their_negatives(tmp_path, taught):
    """Two processes with half of the scans each: the mean loss and the gradients are those of one with all."""
    made = torch.Generator().manual_seed(5)
    student, teacher = torch.randn(2, 4, 6, generator=made), torch.randn(2, 4, 6, generator=made) if taught else None
    given = (2, tmp_path / "meet", tmp_path, student, teacher)
    torch.multiprocessing.start_processes(rank, given, nprocs=2, start_method="fork")
    losses, slopes = zip(*(torch.load(tmp_path / f"{r}.pt") for r in (0, 1)), strict=True)
    whole = student.clone().requires_grad_()
    loss = nt_xent(whole, teacher)
    loss.backward()
    assert torch.isclose(sum(losses) / 2, loss, rtol=1e-5)
    assert torch.allclose(torch.cat(slopes, 1) / 2, whole.grad, atol=1e-6)


def test_one_process_is_all_there_is():
    z = torch.randn(2, 3, 4)
    assert across(z) == (z, 0)
