"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Bad input or a bad request; the message says what is wrong, where, and what to do.

    The command line prints the message on one line and exits with status 2. Anything else that escapes is a bug.
    What is done by options of the command line is `options`: it ends the message, and a page, which has controls in
    their place, says `wrong` alone.
    """

    def __init__(self, message: str, options: str = "") -> None:
        super().__init__(f"{message}: {options}" if options else message)
        self.wrong = message


def require(condition: bool, message: str, options: str = "") -> None:
    """Raises `UserError(message, options)` unless `condition` holds."""
    if not condition:
        raise UserError(message, options)
