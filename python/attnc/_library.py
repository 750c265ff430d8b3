"""The extension module, with its library: loaded once, versions checked."""

from . import _attnc

VERSION, _api, _built_for, FINGERPRINT = _attnc.versions()
if _api != _built_for:
    raise ImportError(
        f"attnc: the library libattnc.so.0 has API version {_api}, but this "
        f"package was built for {_built_for}; reinstall attnc, and look for "
        "another libattnc in LD_LIBRARY_PATH")

Kernel = _attnc.Kernel
CompileError = _attnc.CompileError
JitForbiddenError = _attnc.JitForbiddenError
call = _attnc.call
key = _attnc.key
call_torch = _attnc.call_torch
