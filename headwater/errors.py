"""The errors that have a meaning for the user."""


class InputError(ValueError):
    """Something from outside does not fit: says what, where, and how to fix it. The command line prints it and exits with 2."""


class Unwritable(InputError, OSError):
    """Nothing can be written there: the user's to mend where a result was to lie, an OSError to those that only keep a copy."""


class Unhealthy(RuntimeError):
    """Features have collapsed, are random, or something is wired wrongly, and the watch was told to stop then (exit code 3)."""
