"""The global part: two views of a scan are closer than views of different scans."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError


def nt_xent(student: Float[Tensor, "2 B D"], teacher: Float[Tensor, "2 B D"], temperature: float = 0.5) -> Float[Tensor, ""]:
    """Normalised-temperature cross entropy between two views, with vectors of the own scan removed from the negatives.

    Anchor: student view v of scan i. Positive: teacher view 1 - v of scan i. Negatives: both students and both teachers of every
    other scan, 4 B - 4 of them. Cosine similarity over `temperature`; mean over the 2 B anchors; no gradient into the teacher.

    Raises:  InputError for a batch of one scan (there is nothing to tell it from).
    Source:  Chen et al. 2020 (2002.05709), equation 1, in the student-teacher form of CVA (2509.13846).
    """
    batch = student.shape[1]
    if batch < 2:
        raise InputError(f"Telling scans apart needs 2 scans per step, this batch has {batch}: set pretrain.batch=2 or more.")
    with torch.autocast(student.device.type, enabled=False):
        s = F.normalize(student.float(), dim=-1).flatten(0, 1)  # (2B, D)
        t = F.normalize(teacher.detach().float(), dim=-1)
        positive = (s * t.flip(0).flatten(0, 1)).sum(-1, keepdim=True) / temperature  # (2B, 1)
        others = s @ torch.cat([s, t.flatten(0, 1)]).T / temperature  # (2B, 4B)
        scan = torch.arange(batch, device=s.device)
        own = scan.repeat(2)[:, None] == scan.repeat(4)[None, :]
        logits = torch.cat([positive, others.masked_fill(own, float("-inf"))], 1)
        return (logits.logsumexp(1, keepdim=True) - positive).mean()
