#!/usr/bin/env python3
"""pack_wheel.py BUILD FOLDER: a wheel of what a build would install.

The same files as `pip wheel .`, which compiles everything again: the CMake
component `python` and the package's sources.
"""

import base64
import hashlib
import pathlib
import subprocess
import sys
import tomllib
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def files(stage):
    """(name in the wheel, path) of each."""
    package = ROOT / "python/attnc"
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".pyi") or path.name == "py.typed":
            yield f"attnc/{path.relative_to(package)}", path
    for path in sorted((stage / "attnc").iterdir()):
        yield f"attnc/{path.name}", path


def metadata(project):
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}",
             f"Version: {project['version']}",
             f"Requires-Python: {project['requires-python']}"]
    lines += [f"Classifier: {one}" for one in project["classifiers"]]
    lines += [f"Requires-Dist: {need}" for need in project["dependencies"]]
    for extra, needs in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {need}; extra == "{extra}"'
                  for need in needs]
    return "\n".join(lines) + "\n"


def main():
    build, folder = map(pathlib.Path, sys.argv[1:])
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = config["project"]
    tag = f"{config['tool']['scikit-build']['wheel']['py-api']}-abi3-linux_x86_64"
    stage = folder / "stage"
    subprocess.run(["cmake", "--install", build, "--component", "python",
                    "--prefix", stage], check=True, stdout=subprocess.DEVNULL)
    stem = f"{project['name']}-{project['version']}"
    for old in folder.glob("attnc-*.whl"):
        old.unlink()
    record = []
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w",
                         zipfile.ZIP_DEFLATED) as wheel:
        def add(name, data, mode=0o644):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
            record.append(f"{name},sha256={digest.decode().rstrip('=')},"
                          f"{len(data)}")

        for name, path in files(stage):
            add(name, path.read_bytes(), path.stat().st_mode & 0o777)
        info = f"{stem}.dist-info"
        add(f"{info}/METADATA", metadata(project).encode())
        add(f"{info}/WHEEL", (f"Wheel-Version: 1.0\nGenerator: attnc\n"
                              f"Root-Is-Purelib: false\nTag: {tag}\n").encode())
        scripts = "".join(f"{name} = {where}\n"
                          for name, where in project["scripts"].items())
        add(f"{info}/entry_points.txt",
            f"[console_scripts]\n{scripts}".encode())
        record.append(f"{info}/RECORD,,")
        wheel.writestr(f"{info}/RECORD", "\n".join(record) + "\n")


if __name__ == "__main__":
    main()
