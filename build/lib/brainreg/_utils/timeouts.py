"""A time limit for actions that may wait for ever."""

import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def call_with_timeout(seconds: float, action: Callable[[], Value]) -> Value:
    """Return what `action()` returns, or raise TimeoutError where that takes longer than so many seconds.

    The action goes on in a thread of its own: libraries that try for minutes cannot be made to stop.
    """
    outcome: list[Value] = []
    errors: list[BaseException] = []

    def act() -> None:
        try:
            outcome.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return outcome[0]
