"""Settings of the package, for a while.

    with attnc.config.using(schedule="block_m=64,block_n=64"):
        attnc.softmax_attention(q, k, v)

What concerns the library itself is in environment variables
(docs/environment.md): ATTNC_CACHE_DIR, ATTNC_JIT, ATTNC_NUM_THREADS, ...
"""

import contextlib
from collections.abc import Iterator

from . import _frontend


def schedule() -> str:
    """The schedule asked for, or "" for the cost model's choice."""
    return _frontend.settings.schedule


@contextlib.contextmanager
def using(*, schedule: str = "") -> Iterator[None]:
    """Calls meanwhile, in all threads, run programs of this schedule."""
    before = _frontend.settings.schedule
    _frontend.settings.schedule = schedule
    try:
        yield
    finally:
        _frontend.settings.schedule = before
