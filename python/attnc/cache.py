"""Where compiled programs are kept (docs/runtime.md)."""

import os

from . import _attnc, _spec


def path() -> str:
    """The cache directory as the environment has it now."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(
        os.path.expanduser("~"), ".cache")
    return os.environ.get("ATTNC_CACHE_DIR") or os.path.join(home, "attnc")


def info() -> dict[str, int]:
    """Counts of this process: memory_hits, disk_hits, compiles, waits."""
    return _attnc.counters()


def forget() -> None:
    """Drops this package's own tables: the next call of each kind asks the
    library again. The library keeps what is loaded."""
    _spec.forget()
    from . import _frontend
    _frontend._texts.clear()
