/*===- xla.h - Programs as XLA custom calls -----------------------*- C -*-===*/

#ifndef ATTNC_PYTHON_XLA_H
#define ATTNC_PYTHON_XLA_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

/* Adds `xla_handler` and `xla_gpu_handler`, capsules for
 * jax.ffi.register_ffi_target. */
int xla_add_to(PyObject *module);

#endif /* ATTNC_PYTHON_XLA_H */
