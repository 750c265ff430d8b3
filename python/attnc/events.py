"""What the compiler and its cache do: hits, misses and why, times a phase.

    with attnc.events.record() as seen:
        attnc.softmax_attention(q, k, v)
    print([event["event"] for event in seen])
"""

import contextlib
import json
import threading

from . import _attnc

_listeners = []
_lock = threading.Lock()
_installed = False


def _dispatch(line):
    event = json.loads(line)
    for listener in list(_listeners):
        listener(event)


def subscribe(listener):
    """Has `listener(event)` called with a dict for each event, in the thread
    that caused it. Gives a function that ends this."""
    global _installed
    with _lock:
        if not _installed:
            _attnc.set_listener(_dispatch)
            _installed = True
        _listeners.append(listener)

    def end():
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)

    return end


@contextlib.contextmanager
def record():
    """The list of the events meanwhile, of all threads."""
    events = []
    end = subscribe(events.append)
    try:
        yield events
    finally:
        end()


def counters():
    """Since the process began: memory_hits, disk_hits, compiles, waits."""
    return _attnc.counters()
