"""The errors that have a meaning for the user."""


class InputError(ValueError):
    """Something from outside does not fit: says what, where, and how to fix it. The command line prints it and exits with 2."""


class Unhealthy(RuntimeError):
    """Features have collapsed, are random, or something is wired wrongly, and the watch was told to stop then (exit code 3)."""
