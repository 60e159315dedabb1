"""Headwater: pretrain on your own scans, watch every token, know whether it was worth it."""

from importlib import import_module
from typing import Any

_PLACES = {
    name: "headwater.api" for name in ("Request", "adapt", "compare", "export", "look", "predict", "pretrain", "probe", "run")
}
_PLACES |= {"InputError": "headwater.errors", "Unhealthy": "headwater.errors", "Settings": "headwater.settings"}
_PLACES |= {"Watch": "headwater.observe.watch"}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """Loads what is asked for, so that importing the package stays quick."""
    if name not in _PLACES:
        raise AttributeError(f"module 'headwater' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
