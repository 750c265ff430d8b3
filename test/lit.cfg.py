"""How lit runs the tests: every *.mlir and *.test below this folder.

With `--param roundtrip=1` attnc-opt means test/roundtrip/attnc-opt, which
also prints and reads back what goes in and what comes out.
"""

import os
import shutil

import lit.formats

config.name = "attnc"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["Inputs", "unit", "gpu", "roundtrip", "fuzz",
                   "ptxas"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.attnc_binary_dir, "test", "out")

bin_dir = os.path.join(config.attnc_binary_dir, "bin")
path = [bin_dir, config.llvm_tools_dir, os.environ.get("PATH", "")]
if lit_config.params.get("roundtrip", "0") not in ("", "0"):
    config.name = "attnc-roundtrip"
    config.test_exec_root += "-roundtrip"
    config.environment["ATTNC_OPT"] = os.path.join(bin_dir, "attnc-opt")
    path.insert(0, os.path.join(config.test_source_root, "roundtrip"))
    config.available_features.add("roundtrip")
config.environment["PATH"] = os.pathsep.join(path)

# What a test may ask for with `REQUIRES:`.
for tool in ("attnc", "attnc-verify-codegen", "ptxas"):
    if shutil.which(tool, path=config.environment["PATH"]):
        config.available_features.add(tool)

if config.self_contained:
    config.available_features.add("self-contained")

config.substitutions.append(("%build", config.attnc_binary_dir))
python = os.path.join(config.attnc_source_dir, ".venv", "bin", "python")
if not os.path.exists(python):
    python = shutil.which("python3")
config.substitutions.append(("%python", python))
config.substitutions.append(("%source", config.attnc_source_dir))

# Nothing of the caller's that changes what the tools do may leak in, and a
# test must not depend on how many cores the machine has.
for name in [n for n in os.environ if n.startswith("ATTNC_")]:
    if name != "ATTNC_PTXAS":
        config.environment.pop(name, None)
for name in ("ATTNC_PTXAS", "ATTNC_NUM_THREADS", "ASAN_OPTIONS",
             "UBSAN_OPTIONS", "TMPDIR"):
    if name in os.environ:
        config.environment[name] = os.environ[name]
