"""Writes and prints .npy files without NumPy.

npy.py write FILE TYPE SIZE,SIZE,... VALUE   every element is VALUE
npy.py print FILE                            type, shape, first two elements
"""

import ast
import math
import struct
import sys

CODES = {"f4": "f", "f8": "d", "i4": "i", "u2": "H", "i1": "b"}


def write(path, kind, sizes, value):
    shape = tuple(int(size) for size in sizes.split(","))
    header = repr({"descr": "<" + kind, "fortran_order": False, "shape": shape})
    header = header.encode() + b"\n"
    number = float(value) if kind[0] == "f" else int(value)
    element = struct.pack("<" + CODES[kind], number)
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)))
        file.write(header + element * math.prod(shape))


def show(path):
    with open(path, "rb") as file:
        contents = file.read()
    assert contents[:8] == b"\x93NUMPY\x01\x00"
    end = 10 + struct.unpack("<H", contents[8:10])[0]
    header = ast.literal_eval(contents[10:end].decode())
    code = "<2" + CODES[header["descr"].strip("<|")]
    first = struct.unpack_from(code, contents, end)
    print(header["descr"], header["shape"], *(round(x, 6) for x in first))


if sys.argv[1] == "write":
    write(*sys.argv[2:])
else:
    show(sys.argv[2])
