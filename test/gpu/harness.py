"""Compile IR for this machine's GPU and launch it on torch tensors.

    program = Program(library, ir_text, schedule="")
    launch = program.bind(query=q, key=k, value=v, bias=-9.7, output=o)
    launch()

Tensors are named as in the IR and have the dims of the IR, any strides.
"""

import collections
import concurrent.futures
import ctypes
import json
import os

import torch

MESSAGE_BYTES = 1 << 16


class PlainArgument(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("real", ctypes.c_float),
                ("integer", ctypes.c_int32), ("rank", ctypes.c_int32),
                ("data", ctypes.c_void_p), ("sizes", ctypes.c_int64 * 8),
                ("strides", ctypes.c_int64 * 8)]


def load_library(path):
    library = ctypes.CDLL(path)
    library.attnc_compile.restype = ctypes.c_void_p
    library.attnc_compile.argtypes = [ctypes.c_char_p, ctypes.c_char_p,
                                      ctypes.c_int, ctypes.c_int,
                                      ctypes.c_char_p, ctypes.c_int64]
    library.attnc_describe.restype = ctypes.c_char_p
    library.attnc_describe.argtypes = [ctypes.c_void_p]
    library.attnc_workspace.restype = ctypes.c_int64
    library.attnc_workspace.argtypes = [ctypes.c_void_p, ctypes.c_void_p,
                                        ctypes.c_int, ctypes.c_char_p,
                                        ctypes.c_int64]
    library.attnc_launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p,
                                     ctypes.c_int, ctypes.c_void_p,
                                     ctypes.c_void_p, ctypes.c_int64,
                                     ctypes.c_char_p, ctypes.c_int64]
    library.attnc_destroy.argtypes = [ctypes.c_void_p]
    return library


class CompileError(Exception):
    pass


def plain(value, argument):
    """One argument as the library takes it."""
    if hasattr(value, "data_ptr"):
        result = PlainArgument(kind=0, rank=value.dim(), data=value.data_ptr())
        for k, dim in enumerate(argument.get("dims", range(value.dim()))):
            result.sizes[k] = value.shape[dim]
            result.strides[k] = value.stride(dim)
        return result
    if argument["type"] == "f32":
        return PlainArgument(kind=1, real=value)
    return PlainArgument(kind=2, integer=value)


class Program:
    def __init__(self, library, text, schedule="", device=0, any_layout=False):
        torch.cuda.init()
        self.library = library
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        self.handle = library.attnc_compile(
            text.encode(), schedule.encode(), any_layout, device, message,
            MESSAGE_BYTES)
        if not self.handle:
            raise CompileError(message.value.decode())
        self.description = json.loads(library.attnc_describe(self.handle))

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.attnc_destroy(self.handle)

    @property
    def arguments(self):
        return self.description["arguments"]

    def bind_of(self, **values):
        """`bind` to those of these values that the program takes."""
        return self.bind(**{a["name"]: values[a["name"]]
                            for a in self.arguments})

    def bind(self, **values):
        """A closure that launches on the current stream."""
        names = [a["name"] for a in self.arguments]
        missing = [n for n in names if n not in values]
        if missing or len(values) != len(names):
            raise TypeError(f"the program takes {names}, got {list(values)}")
        block = (PlainArgument * len(names))(
            *(plain(values[a["name"]], a) for a in self.arguments))
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        size = self.library.attnc_workspace(self.handle, block, len(names),
                                            message, MESSAGE_BYTES)
        if size < 0:
            raise RuntimeError(message.value.decode())
        workspace = torch.empty(max(size, 1), dtype=torch.int8, device="cuda")

        def launch():
            stream = torch.cuda.current_stream().cuda_stream
            if not self.library.attnc_launch(
                    self.handle, block, len(names), stream,
                    workspace.data_ptr(), size, message, MESSAGE_BYTES):
                raise RuntimeError(message.value.decode())

        launch.keep = (values, workspace)  # alive as long as the closure
        return launch


def built_ahead(cases, build):
    """(case, future of build(case)) of all cases, in order; some compile while
    one runs."""
    workers = max(1, min(8, (os.cpu_count() or 2) // 2))
    queue = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for case in cases:
            queue.append((case, pool.submit(build, case)))
            if len(queue) > 2 * workers:
                yield queue.popleft()
        while queue:
            yield queue.popleft()
