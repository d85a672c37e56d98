"""SIGINT and SIGTERM: the first asks for a stop after the running step, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal asked for a stop.

    Attributes:
      signal: its number, 0 without one.
    """

    def __init__(self) -> None:
        self.signal = 0

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells count: 130 for SIGINT, 143 for SIGTERM; SIGTERM's without a signal."""
        return 128 + (self.signal or signal.SIGTERM)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Within the block, the first signal is kept in the yielded request, and the second ends the process.

    Python runs its handlers between two bytecodes, which may be a whole training step apart; so a thread reads the
    signals from the pipe into which the interpreter writes them when they come.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # there, signals are not ours
        yield request
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    pipe_before = signal.set_wakeup_fd(writing)
    watcher = threading.Thread(target=_watch, args=(reading, request), daemon=True)
    watcher.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)  # ends the watcher
        watcher.join()
        os.close(reading)


def _watch(pipe: int, request: StopRequest) -> None:
    while received := os.read(pipe, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        if request.signal:
            os._exit(128 + number)
        request.signal = number
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)
