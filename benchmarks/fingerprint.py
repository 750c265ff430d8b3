"""What names a kernel: a hash of its PTX without what says nothing about it."""

import hashlib
import re


def fingerprint(ptx):
    """Of PTX text: comments, debug directives and white space do not count."""
    lines = []
    for line in re.sub(r"//.*", "", ptx).splitlines():
        line = " ".join(line.split())
        if line and not line.startswith((".loc", ".file", ".section")):
            lines.append(line)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
