/*===- kernel.h - Programs that run on arrays ---------------------*- C -*-===*/

#ifndef ATTNC_PYTHON_KERNEL_H
#define ATTNC_PYTHON_KERNEL_H

#include "array.h"

enum { MAX_ARGUMENTS = 32 };

/* Adds the type Kernel and the functions key and call. */
int kernel_add_to(PyObject *module);

/* Sets the exception that a status of the C interface stands for. */
void raise_status(attnc_status status);

#endif /* ATTNC_PYTHON_KERNEL_H */
