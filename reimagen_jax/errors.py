"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Bad input or a bad request; the message says what is wrong, where, and what to do.

    The command line prints the message on one line and exits with status 2. Anything else that escapes is a bug.
    """


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
