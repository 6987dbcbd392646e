"""Processor time of one process by what it was spent on, found by samples.

A timer of the kernel counts the processor time of the thread that runs the event loop; whenever it goes off, the
innermost function on the stack that belongs to a part is counted. That costs nothing between two samples: to look at
clocks before and after every function made a round of small messages a third longer. What other threads take, libzmq's
above all, is the rest of the process. Linux only.
"""

from __future__ import annotations

import ctypes
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FrameType
from typing import Any, Final, final

LOOP: Final = "event loop, tasks"
"""What belongs to no part, on the thread of the event loop."""

OTHERS: Final = "other threads: libzmq's"
"""Of the process."""

EVERY_S: Final = 1e-3
"""Between two samples, at least: the kernel looks at such timers at its own ticks, 100 to 1,000 times a second."""

CLOCK_THREAD_CPUTIME_ID: Final = 3
SIGEV_SIGNAL: Final = 0


class _Event(ctypes.Structure):
    """`struct sigevent`."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("pad", ctypes.c_int * 12),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`: interval and first, each seconds and nanoseconds."""

    _fields_ = (("times", ctypes.c_long * 4),)


@final
class Split:
    """Processor time of this process by part; made on its main thread.

    Parameters
    ----------
    parts : mapping of str to functions
        What belongs to each part, with all that it calls.
    rest : str
        Name of what belongs to none.
    """

    def __init__(self, parts: Mapping[str, Sequence[Callable[..., Any]]], rest: str = LOOP) -> None:
        self._parts: dict[CodeType, str] = {
            function.__code__: part for part, functions in parts.items() for function in functions
        }
        self._rest = rest
        self._samples: Counter[str] = Counter()
        self._stop: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Take samples from now on.

        Raises
        ------
        OSError
            This system has no such timers.
        """
        signal.signal(signal.SIGPROF, self._sample)
        library, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
        event = _Event(None, signal.SIGPROF, SIGEV_SIGNAL)
        nanoseconds = int(EVERY_S * 1e9)
        times = _Times((0, nanoseconds, 0, nanoseconds))
        if library.timer_create(CLOCK_THREAD_CPUTIME_ID, ctypes.byref(event), ctypes.byref(timer)) or (
            library.timer_settime(timer, 0, ctypes.byref(times), None)
        ):
            raise OSError(ctypes.get_errno(), "no timer of a thread's processor time")
        self._stop = partial(library.timer_delete, timer)
        self.begin()

    def stop(self) -> None:
        """Take no more samples."""
        self._stop()
        self._stop = lambda: None

    def begin(self) -> None:
        """Forget what was seen so far."""
        self._samples.clear()
        self._process_s, self._thread_s = time.process_time(), time.thread_time()

    def _sample(self, number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code not in self._parts:
            frame = frame.f_back
        self._samples[self._rest if frame is None else self._parts[frame.f_code]] += 1

    def seconds(self) -> dict[str, float]:
        """Seconds of each part since `begin`, other threads included."""
        thread_s, process_s = time.thread_time() - self._thread_s, time.process_time() - self._process_s
        samples = self._samples or Counter({self._rest: 1})
        each_s = thread_s / samples.total()
        return {part: each_s * n for part, n in samples.items()} | {OTHERS: process_s - thread_s}


def table(title: str, columns: Mapping[str, Mapping[str, float]], parts: Sequence[str]) -> list[str]:
    """Lines of a table: microseconds of each part, one column for each of several measurements, and their sums."""
    lines = [f"{title:38}" + "".join(f"{name:>9}" for name in columns)]
    named = [*parts, *sorted({part for column in columns.values() for part in column} - set(parts))]
    for part in named:
        spent = [column.get(part) for column in columns.values()]
        if any(spent):
            lines.append(f"  {part:36}" + "".join(" " * 9 if us is None else f"{1e6 * us:9.1f}" for us in spent))
    lines.append(f"  {'all':36}" + "".join(f"{1e6 * sum(column.values()):9.1f}" for column in columns.values()))
    return lines
