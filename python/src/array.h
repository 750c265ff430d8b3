/*===- array.h - Arrays of every library as views -----------------*- C -*-===*\
|*
|* A view borrows: it is valid while the object it was made of is alive and
|* unchanged, and, for objects that speak DLPack only, until it is closed.
|*
\*===----------------------------------------------------------------------===*/

#ifndef ATTNC_PYTHON_ARRAY_H
#define ATTNC_PYTHON_ARRAY_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "attnc/attnc.h"
#include "dlpack_abi.h"

typedef struct array_view {
  void *data;
  attnc_dtype dtype; /* ATTNC_DTYPE_OTHER: none of attnc's */
  dl_device device;
  int32_t rank;
  int64_t sizes[ATTNC_MAX_RANK], strides[ATTNC_MAX_RANK];
  const dl_exchange *exchange; /* of its type, or null */
  void (*close)(void *owner);  /* may be null */
  void *owner;
} array_view;

/* Gives 1, 0 if the object is no array, -1 with an exception. */
int array_open(PyObject *object, array_view *view);
void array_close(array_view *view);

/* The exchange table that the type offers, or null; no exception. */
const dl_exchange *array_exchange(PyTypeObject *type);

/* A new row-major array of the library behind `exchange`, with its view. */
PyObject *array_new(const dl_exchange *exchange, dl_device device,
                    attnc_dtype dtype, int rank, const int64_t *sizes,
                    array_view *view);

#endif /* ATTNC_PYTHON_ARRAY_H */
