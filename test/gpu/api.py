#!/usr/bin/env python3
"""The C interface on this machine's GPU, through ctypes on torch's tensors.

    api.py --library build/lib/libattnc.so [--launch build/bin/bench-launch]

Descriptions are compiled and compared with float64 as check.py does; then
streams, capture into a CUDA graph, and threads; then what a launch costs.
"""

import argparse
import ctypes
import subprocess
import sys
import threading

import torch

import check
import reference

NAMES = {"f32": 1, "f16": 2, "bf16": 3}
DTYPES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3,
          torch.int32: 4, torch.bool: 5}
COLD = 8
TEXTS = ("score", "bias", "causal", "masks", "layout")
SIZES = ("head_dim", "value_head_dim", "batch", "heads", "kv_heads", "seq",
         "kv_seq")
FLAGS = ("window", "scale", "alibi", "gate", "q_len", "kv_len", "lse")


class Attention(ctypes.Structure):
    _fields_ = ([("struct_size", ctypes.c_size_t)] +
                [(name, ctypes.c_char_p) for name in TEXTS] +
                [("dtype", ctypes.c_int), ("out_dtype", ctypes.c_int)] +
                [(name, ctypes.c_int64) for name in SIZES] +
                [(name, ctypes.c_int32) for name in FLAGS])


class Options(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t),
                ("target", ctypes.c_char_p), ("schedule", ctypes.c_char_p),
                ("cpu", ctypes.c_char_p), ("features", ctypes.c_char_p),
                ("device", ctypes.c_int32), ("any_layout", ctypes.c_int32),
                ("policy", ctypes.c_char_p)]


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int),
                ("rank", ctypes.c_int32),
                ("sizes", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64))]


class Value(ctypes.Union):
    _fields_ = [("tensor", Tensor), ("f32", ctypes.c_float),
                ("i32", ctypes.c_int32)]


class Argument(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("value", Value)]


class Info(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("kind", ctypes.c_int),
                ("dtype", ctypes.c_int), ("rank", ctypes.c_int32),
                ("is_result", ctypes.c_int32), ("sizes", ctypes.c_int64 * 8)]


class ApiError(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Program:
    def __init__(self, library, attention, target=b"cuda", device=0):
        self.library = library
        options = Options(struct_size=ctypes.sizeof(Options), target=target,
                          device=device)
        self.handle = ctypes.c_void_p()
        self.must(library.attnc_program_from_attention(
            ctypes.byref(attention), ctypes.byref(options),
            ctypes.byref(self.handle)))
        count = library.attnc_program_argument_count(self.handle)
        self.infos = [Info() for _ in range(count)]
        for k, info in enumerate(self.infos):
            self.must(library.attnc_program_argument_info(
                self.handle, ctypes.c_size_t(k), ctypes.byref(info)))

    def must(self, status):
        if status:
            raise ApiError(status, self.library.attnc_last_error().decode())

    def warm_up(self):
        self.must(self.library.attnc_program_warm_up(self.handle))

    def bind(self, **values):
        """launch(stream=None), on torch's current stream by default."""
        block = (Argument * len(self.infos))()
        keep = [values]
        for argument, info in zip(block, self.infos):
            value = values[info.name.decode()]
            argument.kind = info.kind
            if info.kind == 1:
                argument.value.f32 = value
            elif info.kind == 2:
                argument.value.i32 = value
            else:
                sizes = (ctypes.c_int64 * 8)(*value.shape)
                strides = (ctypes.c_int64 * 8)(*value.stride())
                keep += [sizes, strides]
                argument.value.tensor = Tensor(
                    value.data_ptr(), DTYPES[value.dtype], value.dim(), sizes,
                    strides)
        count = ctypes.c_size_t(len(block))
        size = ctypes.c_size_t()
        self.must(self.library.attnc_program_workspace_size(
            self.handle, block, count, ctypes.byref(size)))
        workspace = torch.empty(max(size.value, 1), dtype=torch.int8,
                                device="cuda")

        def launch(stream=None):
            if stream is None:
                stream = torch.cuda.current_stream().cuda_stream
            self.must(self.library.attnc_program_run(
                self.handle, block, count,
                ctypes.c_void_p(workspace.data_ptr()), size,
                ctypes.c_void_p(stream)))

        launch.keep = keep + [workspace]
        return launch


def load(path):
    library = ctypes.CDLL(path)
    library.attnc_last_error.restype = ctypes.c_char_p
    library.attnc_program_argument_count.restype = ctypes.c_size_t
    library.attnc_program_key.restype = ctypes.c_char_p
    return library


def describe(case):
    """The attnc_attention of a case of check.py."""
    bias = case.bias if isinstance(case.bias, str) else None
    return Attention(
        struct_size=ctypes.sizeof(Attention), score=case.score.encode(),
        bias=bias.encode() if bias and bias != "-ln n" else None,
        causal=b"bottom_right" if case.causal else None,
        masks=b"tensor" if case.mask else None, layout=case.layout.encode(),
        dtype=NAMES[case.dtype], out_dtype=NAMES[case.out_dtype],
        head_dim=case.d, value_head_dim=case.dv,
        window=case.window is not None, alibi=case.alibi, gate=case.gate,
        kv_len=case.k_len is not None, lse="--lse" in case.flags)


def problem_of(case):
    torch.manual_seed(1)
    problem = check.make_problem(case)
    shape = (case.batch, case.heads, case.rows, case.dv)
    output = torch.full(shape, float("nan"), device="cuda",
                        dtype=check.DTYPES[case.out_dtype])
    lse = torch.full(shape[:3], float("nan"), device="cuda")
    window = problem.window or (None, None)
    values = {"query": problem.query, "key": problem.key,
              "value": problem.value, "output": output, "lse": lse,
              "bias": problem.bias, "slopes": problem.slopes,
              "k_len": problem.k_len, "mask": problem.mask,
              "gate": problem.gate, "weight_scale": problem.weight_scale,
              "cap": problem.cap, "window_left": window[0],
              "window_right": window[1]}
    return problem, output, values


def error_of(problem, output):
    batch, heads = output.shape[:2]
    exact, model, _ = reference.compute(
        problem, [(b, h) for b in range(batch) for h in range(heads)])
    bound = 1.10 * reference.relative_error(model.to(output.dtype), exact)
    error = reference.relative_error(output.flatten(0, 1), exact)
    return error, bound + 2 ** -20


def bound(library, name, device=0):
    case = {c.name: c for c in check.cases()}[name]
    problem, output, values = problem_of(case)
    program = Program(library, describe(case), device=device)
    launch = program.bind(**{i.name.decode(): values[i.name.decode()]
                             for i in program.infos})
    return program, problem, output, launch


def check_case(library, name):
    _, problem, output, launch = bound(library, name)
    launch()
    torch.cuda.synchronize()
    error, limit = error_of(problem, output)
    return error <= limit, f"error {error:.2e} bound {limit:.2e}"


def check_streams(library):
    """Null is the legacy default stream; a side stream orders what it has."""
    _, problem, output, launch = bound(library, "sigmoid-d128")
    launch(0)
    torch.cuda.synchronize()
    first = error_of(problem, output)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        output.fill_(float("nan"))
        launch()
        copy = output.clone()
    side.synchronize()
    second = error_of(problem, copy)
    return all(e <= b for e, b in (first, second)), f"{first[0]:.2e}"


def check_graph(library):
    program, problem, output, launch = bound(library, "softmax-d224")
    graph = torch.cuda.CUDAGraph()
    status = 0
    try:
        with torch.cuda.graph(graph):
            launch()
    except ApiError as error:
        status = error.status
    if status != COLD:
        return False, f"a cold capture gave status {status}, expected {COLD}"
    program.warm_up()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    for _ in range(2):
        problem.query.normal_()
        output.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        error, limit = error_of(problem, output)
        if not error <= limit:
            return False, f"replay: error {error:.2e} bound {limit:.2e}"
    return True, f"error {error:.2e} bound {limit:.2e}"


def check_devices(library):
    """The second GPU works while the first is current, and it stays so."""
    if torch.cuda.device_count() < 2:
        return True, "one GPU: nothing to check"
    with torch.cuda.device(1):
        _, problem, output, launch = bound(library, "sigmoid-d128", device=1)
        side = torch.cuda.Stream()
    _, first, first_output, first_launch = bound(library, "sigmoid-d128")
    results = []
    for stream in (0, side.cuda_stream):  # by the options, by the stream
        output.fill_(float("nan"))
        torch.cuda.synchronize(1)
        launch(stream)
        if torch.cuda.current_device() != 0:
            return False, "another device is current after the call"
        torch.cuda.synchronize(1)
        with torch.cuda.device(1):
            results.append(error_of(problem, output))
            # And the first GPU while the second is current.
            first_output.fill_(float("nan"))
            torch.cuda.synchronize(0)
            first_launch(0)
            if torch.cuda.current_device() != 1:
                return False, "another device is current after the call"
        torch.cuda.synchronize(0)
        results.append(error_of(first, first_output))
    return (all(error <= limit for error, limit in results),
            " ".join(f"{error:.2e}" for error, _ in results))


def check_threads(library):
    results = [None, None]

    def work(k):
        torch.cuda.set_device(0)
        with torch.cuda.stream(torch.cuda.Stream()):
            _, problem, output, launch = bound(
                library, ("sigmoid-d96", "softmax-d96")[k])
            for _ in range(50):
                output.fill_(float("nan"))
                launch()
            torch.cuda.current_stream().synchronize()
            results[k] = error_of(problem, output)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (all(r and r[0] <= r[1] for r in results),
            " ".join(f"{r[0]:.2e}" if r else "none" for r in results))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--launch")
    args = parser.parse_args()
    torch.cuda.init()
    library = load(args.library)
    names = ["sigmoid-d128", "sigmoid-d64-causal", "softmax-d64-causal",
             "sigmoid-d128-gqa-bshd", "softmax-lse", "sigmoid-alibi",
             "sigmoid-bias-full", "sigmoid-d128-window", "sigmoid-d128-k_len",
             "sigmoid-gate", "sigmoid-mask", "sigmoid-d128-half-out"]
    checks = [(n, lambda n=n: check_case(library, n)) for n in names]
    checks += [("streams", lambda: check_streams(library)),
               ("graph", lambda: check_graph(library)),
               ("threads", lambda: check_threads(library)),
               ("devices", lambda: check_devices(library))]
    failed = 0
    for name, function in checks:
        try:
            ok, message = function()
        except Exception as error:
            ok, message = False, f"{type(error).__name__}: {error}"[:300]
        failed += not ok
        print("{:4} api {:28} {}".format("ok" if ok else "FAIL", name,
                                         message), flush=True)
    if args.launch:
        failed += subprocess.run([args.launch]).returncode != 0
    print(f"API checks: {len(checks) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
