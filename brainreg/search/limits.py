"""When a search has done enough: trials, time, GPU hours, or a recommendation that is sure enough."""

import time


class Limits:
    """The limits of a search that is not ended by its number of trials alone.

    Time is that of the search, not of the clock: what earlier drivers spent counts, what lies between them does not.

    Args:
        trials: of the whole search; None lets the others end it.
        gpus_per_trial: GPUs that a trial takes.
        minutes: limit of the search's time; None has none.
        gpu_hours: limit of the GPUs' time; None has none.
        tolerance: the search ends when the best of its settings is expected to be better than the recommended one by no
            more than this; None never ends it.
        before: (seconds, GPU seconds) that were spent before the search was resumed.
        copied: trials, of those of the whole search, that are copies of another one's.

    All but the last two may be changed while the search runs.

    Attributes:
        stopped: why no further trial begins, where someone asked for that; empty as long as nobody did.
    """

    def __init__(
        self,
        trials: int | None = None,
        gpus_per_trial: float = 0,
        minutes: float | None = None,
        gpu_hours: float | None = None,
        tolerance: float | None = None,
        before: tuple[float, float] = (0.0, 0.0),
        copied: int = 0,
    ):
        self.trials, self.minutes, self.gpu_hours, self.tolerance = trials, minutes, gpu_hours, tolerance
        self.stopped = ""
        self._gpus, self._copied = gpus_per_trial, copied
        self._began, (self._seconds, self._gpu_seconds) = time.monotonic(), before
        self._running: dict[str, float] = {}

    def begin(self, trial_id: str) -> None:
        """A trial begins."""
        self._running[trial_id] = time.monotonic()

    def end(self, trial_id: str) -> None:
        """A trial has ended."""
        if trial_id in self._running:
            self._gpu_seconds += self._gpus * (time.monotonic() - self._running.pop(trial_id))

    @property
    def seconds(self) -> float:
        """Seconds that the search has taken."""
        return self._seconds + time.monotonic() - self._began

    @property
    def gpu_seconds(self) -> float:
        """Seconds that its trials have held GPUs, each counted."""
        now = time.monotonic()
        return self._gpu_seconds + self._gpus * sum(now - began for began in self._running.values())

    def part_spent(self, begun: int) -> float:
        """Return how much of the limits is spent, 0 to 1 and beyond: of the one that is nearest to its end.

        Args:
            begun: trials that began, copies too.
        """
        own = 0 if self.trials is None else self.trials - self._copied
        parts = [(begun - self._copied) / own if own else 0.0]
        if self.minutes is not None:
            parts.append(self.seconds / (60 * self.minutes))
        if self.gpu_hours is not None:
            parts.append(self.gpu_seconds / (3600 * self.gpu_hours))
        return max(parts)

    def reason(self) -> str:
        """Return which limit no further trial may pass, in words; nothing where there is none."""
        if self.stopped:
            return self.stopped
        if self.minutes is not None and self.seconds >= 60 * self.minutes:
            return f"its time is over (--minutes={self.minutes:g})"
        if self.gpu_hours is not None and self.gpu_seconds >= 3600 * self.gpu_hours:
            return f"its GPU hours are spent (--gpu-hours={self.gpu_hours:g})"
        return ""
