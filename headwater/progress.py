"""What a long stage tells whoever waits for it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener: the terminal, a notebook, or nobody."""

    def say(self, text: str = "") -> None:
        """One line of words."""

    def track(self, label: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        """A bar; yields `advance(count=1, note="")`."""


class Silent:
    """Nobody listens."""

    def say(self, text: str = "") -> None:
        """Drops the line."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        """Drops the bar."""
        yield lambda count=1, note="": None
