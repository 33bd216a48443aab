"""`python -m recon` is the command `recon`."""

import atexit
import os
import sys
import threading

from recon import cli


def main() -> None:
    """Run the command as a program of its own.

    Once all is done the process just ends: Python would first take down every object of torch and Numba, which takes
    a quarter of a second. What ends a command early, such as wrong input, goes the ordinary way.
    """
    cli.main()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
