"""Other libraries: attnc.integrations.transformers."""

import importlib as _importlib


def __getattr__(name):
    if name == "transformers":
        return _importlib.import_module(".transformers", __name__)
    raise AttributeError(f"module 'attnc.integrations' has no '{name}'")
