"""Ctrl-C as a wish: the step in hand is finished and saved first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """A stage ended early because it was asked to; the same command goes on from there."""


@contextmanager
def wishes() -> Iterator[Callable[[], bool]]:
    """Yields a question: has anyone asked us to stop? A second Ctrl-C stops at once. Outside the main thread nobody can ask."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
