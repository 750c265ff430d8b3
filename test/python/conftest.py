import os
import tempfile

# Nothing of this run is left behind, and nothing of an earlier one is used.
_cache = tempfile.TemporaryDirectory(prefix="attnc-test-")
os.environ["ATTNC_CACHE_DIR"] = os.path.join(_cache.name, "cache")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
