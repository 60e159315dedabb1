"""The one error a user can cause."""


class InputError(ValueError):
    """Something from outside does not fit: says what, where, and how to fix it. The command line prints it and exits with 2."""
