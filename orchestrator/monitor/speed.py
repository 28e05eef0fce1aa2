"""How fast a sweep goes: ends of trials an hour, epochs a second, over the latest of each."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

LATEST_TRIALS, LATEST_EPOCHS = 20, 50
PAUSE_S = 900.0


@dataclass
class Speed:
    """Counts what ends; times are seconds on one clock. After a pause of `PAUSE_S` the counting begins anew."""

    _begun: float | None = None
    _last: float = 0.0
    _trials: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST_TRIALS + 1))
    _epochs: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=LATEST_EPOCHS + 1))

    def note(self, now: float, trials: int = 0, epochs: int = 0) -> None:
        """Take note that something happened, and of trials and epochs that ended with it."""
        if self._begun is None or now - self._last > PAUSE_S:
            self._begun = now
            self._trials.clear()
            self._epochs.clear()
        self._last = now
        self._trials.extend([now] * trials)
        if epochs:
            self._epochs.append((now, epochs))

    def trials_an_hour(self, now: float) -> float | None:
        """Trials that ended, an hour; None before the first one."""
        if not self._trials or self._begun is None:
            return None
        full = len(self._trials) > LATEST_TRIALS
        took = now - (self._trials[0] if full else self._begun)
        return 3600 * (len(self._trials) - full) / took if took > 0 else None

    def epochs_a_second(self, now: float) -> float | None:
        """Epochs trained, a second; None before the second one."""
        if len(self._epochs) < 2:
            return None
        took = now - self._epochs[0][0]
        return sum(count for _, count in list(self._epochs)[1:]) / took if took > 0 else None
