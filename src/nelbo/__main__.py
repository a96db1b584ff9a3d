"""The program `nelbo`, and `python -m nelbo`."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

_IMPORTING = "<frozen importlib._bootstrap>"
_AGAIN = 0.05  # seconds


def main() -> None:
    """The command line; Ctrl-C while it is still being imported ends it as it would later."""
    # Where Ctrl-C is ignored, as for jobs in the background of a script, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from nelbo.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C; within an import it waits for its end, as libraries that are half imported may
    swallow what is raised there, turn it into an error of theirs, or abort the process."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            # Sent as a signal, since it has to wake a thread that by then may wait for something.
            main_thread = threading.main_thread().ident
            again = threading.Timer(_AGAIN, signal.pthread_kill, (main_thread, number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
