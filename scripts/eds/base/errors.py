"""Errors that reach a person as a sentence, without a traceback."""


class UserError(Exception):
    """Something the user can fix: what was expected, what was found, and what to do."""
