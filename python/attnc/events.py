"""What the compiler and its cache do: hits, misses and why, times a phase.

    with attnc.events.record() as seen:
        attnc.softmax_attention(q, k, v)
    print([event["event"] for event in seen])
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import _attnc

_listeners: list = []
_lock = threading.Lock()
_installed = False


def _dispatch(line):
    event = json.loads(line)
    for listener in list(_listeners):
        listener(event)


def subscribe(listener: Callable[[dict[str, Any]], Any]
              ) -> Callable[[], None]:
    """Has `listener(event)` called with a dict for each event, in the thread
    that caused it. Gives a function that ends this."""
    global _installed
    with _lock:
        if not _installed:
            _attnc.set_listener(_dispatch)
            _installed = True
        _listeners.append(listener)

    def end() -> None:
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)

    return end


@contextlib.contextmanager
def record() -> Iterator[list[dict[str, Any]]]:
    """The list of the events meanwhile, of all threads."""
    events: list[dict[str, Any]] = []
    end = subscribe(events.append)
    try:
        yield events
    finally:
        end()


def counters() -> dict[str, int]:
    """Since the process began: memory_hits, disk_hits, compiles, waits."""
    return _attnc.counters()
