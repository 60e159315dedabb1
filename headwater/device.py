"""What this machine can do, and what a run should use of it."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None


@dataclass(frozen=True)
class Machine:
    """Cores, memory in GiB, accelerator if any, and whether bfloat16 pays here."""

    cores: int
    memory: float
    accelerator: str
    bf16: bool
    system: str

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return torch.device("cuda" if self.accelerator else "cpu")


def machine() -> Machine:
    """Looks at this machine."""
    cuda = torch.cuda.is_available()
    bf16 = torch.cuda.is_bf16_supported() if cuda else _bf16_on_cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else float("nan")
    return Machine(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory,
        torch.cuda.get_device_name() if cuda else "",
        bool(bf16),
        f"{platform.system()} {platform.machine()}",
    )


def _bf16_on_cpu() -> bool:
    """Whether this processor computes in bfloat16; PyTorch builds without oneDNN have no such question."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Mixed precision for the forward pass: bf16 or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def peak_memory() -> float:
    """The most resident memory this process has used, in GiB; NaN where the system does not say (Windows)."""
    if resource is None:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def available_memory() -> float:
    """GiB that are free for networks: on the accelerator if there is one, else in main memory, a container's limit counted."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / 2**30
    free = [machine().memory]
    told = _numbers("/proc/meminfo")
    free += [told["MemAvailable:"] / 2**20] if "MemAvailable:" in told else []
    try:
        limit, taken = (int(Path(f"/sys/fs/cgroup/{name}").read_text()) for name in ("memory.max", "memory.current"))
        files = _numbers("/sys/fs/cgroup/memory.stat").get("inactive_file", 0)  # given back when asked for
        free.append(max(0, limit - taken + files) / 2**30)
    except (OSError, ValueError):
        pass  # no container, or none with a limit
    return min(f for f in free if f == f)


def _numbers(file: str) -> dict[str, int]:
    """Lines of a name and a number; nothing where the system has no such file."""
    try:
        lines = [line.split() for line in Path(file).read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
