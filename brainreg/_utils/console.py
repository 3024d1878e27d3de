"""What a terminal shows, and how an interruption reaches a program."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

from rich.console import Console


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, with which a cluster takes a machine back, do what Ctrl-C does.

    Also where Ctrl-C itself is ignored, as by what a script starts in the background.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_console() -> Console:
    """The console of a command; a log file has room for a table's columns."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def make_printer(console: Console) -> Callable[[str], None]:
    """A function that prints text as it is, in long lines."""
    return partial(console.print, soft_wrap=True, highlight=False, markup=False)
