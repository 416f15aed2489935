"""Errors that reach a person as a sentence, without a traceback."""


class UserError(Exception):
    """Something the user can fix.

    message: what was expected, what was found, and what to do. exit_code: the process's exit code, non-zero.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
