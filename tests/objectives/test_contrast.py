"""NT-Xent against a loop that follows the sentence in its docstring."""

import math

import pytest
import torch

from headwater.errors import InputError
from headwater.objectives.contrast import nt_xent


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
