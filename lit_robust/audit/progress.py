"""How long an audit will still take, from what it has done so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lit_robust.attacks import Attack

_FIRST, _EVERY = 3.0, 15.0  # seconds before the first estimate, and between two lines


class Progress:
    """An estimate of the time left, which counts passes: an attack of twice the steps is twice the work.

    Broken images leave a search, so that an audit of a weak model ends earlier than the estimate.

    Args:
        rows: The attacks of each block.
        classes: Number of classes.
        blocks: Blocks of this process.
        show: Told a line, from time to time.
        name: Told at each attack what runs and how long is left.
        clock: Seconds.
    """

    def __init__(
        self,
        rows: Mapping[str, Attack],
        classes: int,
        blocks: int,
        *,
        show: Callable[[str], None],
        name: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = {row: _passes(attack, classes) for row, attack in rows.items()}
        self._blocks, self._show, self._name, self._clock = blocks, show, name, clock
        self._began = self._shown = clock()
        self._done = self._measured = 0.0  # work of all blocks so far, and what of it this process has timed
        self._block = 0
        self._running: float = 0.0

    @property
    def _total(self) -> float:
        return self._blocks * sum(self._work.values())

    def begin(self) -> None:
        """The first block begins now; what was before is not timed."""
        self._began = self._shown = self._clock()

    def before(self, row: str) -> None:
        """An attack of a block begins."""
        self._finish()
        self._running = self._work.get(row, 0.0)
        left = self.left()
        self._name(row if left is None else f"{row}, about {_spoken(left)} left")
        now = self._clock()
        if left is not None and now - self._shown >= (_FIRST if self._shown == self._began else _EVERY):
            self._shown = now
            part = f"block {self._block + 1} of {self._blocks}, {row}"
            self._show(f"audit: {self._done / self._total:.0%}, about {_spoken(left)} left ({part})")

    def end_block(self, *, skipped: bool = False) -> None:
        """A block is done, or was done before."""
        self._finish()
        self._block += 1
        if skipped:
            self._done += sum(self._work.values())

    def left(self) -> float | None:
        """Seconds that are left, or None before anything was timed."""
        if not self._measured:
            return None
        return (self._clock() - self._began) / self._measured * max(0.0, self._total - self._done)

    def _finish(self) -> None:
        self._done += self._running
        self._measured += self._running
        self._running = 0.0


def _passes(attack: Attack, classes: int) -> float:
    """What a row costs, in forward passes, a backward pass being two of them; at least the pass that judges."""
    forwards, backwards = attack.passes(classes) or (100, 100)
    return 1.0 + forwards + 2.0 * backwards


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
