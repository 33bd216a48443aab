"""The one exception that means "the user's input is wrong", as opposed to a fault of ours."""


class InputError(Exception):
    """Something given to us cannot be used.

    The message is one plain line that names the file (or option) and the offending value. The command line
    prints it as it is and exits with code 2, without a traceback.
    """


class NoSceneError(InputError):
    """Photos that can be read, and of which no scene comes; `why` says it without naming them."""

    def __init__(self, photos: object, why: str) -> None:
        super().__init__(f"{photos}: {why}")
        self.why = why
