"""The one exception that means "the user's input is wrong", as opposed to a fault of ours."""


class InputError(Exception):
    """Something given to us cannot be used.

    The message is one plain line that names the file (or option) and the offending value. The command line
    prints it as it is and exits with code 2, without a traceback.
    """
