"""Errors that a user can act on."""


class UserError(Exception):
    """Something the user gave or has is wrong; the command line prints it on one line and exits with code 2.

    message: what is wrong and where. fix: what to do about it.
    """

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message, fix)  # both, so that it comes whole out of a worker process
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}"
