/*===- dlpack_abi.h - The part of DLPack's ABI that we use --------*- C -*-===*\
|*
|* Declarations of binary layouts that array libraries agree on (DLPack 1.x),
|* so that no header of another project is needed to build.
|*
\*===----------------------------------------------------------------------===*/

#ifndef ATTNC_PYTHON_DLPACK_ABI_H
#define ATTNC_PYTHON_DLPACK_ABI_H

#include <stdint.h>

enum { DL_CPU = 1, DL_CUDA = 2, DL_CUDA_HOST = 3, DL_CUDA_MANAGED = 13 };
enum { DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_BOOL = 6 };

typedef struct dl_device {
  int32_t type, id;
} dl_device;

typedef struct dl_dtype {
  uint8_t code, bits;
  uint16_t lanes;
} dl_dtype;

typedef struct dl_tensor {
  void *data;
  dl_device device;
  int32_t ndim;
  dl_dtype dtype;
  int64_t *shape, *strides; /* strides in elements; null: row-major */
  uint64_t byte_offset;
} dl_tensor;

/* What a capsule "dltensor" holds. */
typedef struct dl_managed {
  dl_tensor tensor;
  void *context;
  void (*deleter)(struct dl_managed *self);
} dl_managed;

typedef struct dl_version {
  uint32_t major, minor;
} dl_version;

typedef struct dl_managed_versioned {
  dl_version version;
  void *context;
  void (*deleter)(struct dl_managed_versioned *self);
  uint64_t flags;
  dl_tensor tensor;
} dl_managed_versioned;

/* Behind the capsule "dlpack_exchange_api" of a tensor type: conversions
 * without a Python object in between. */
typedef struct dl_exchange {
  dl_version version;
  struct dl_exchange *previous;
  int (*allocate)(dl_tensor *prototype, dl_managed_versioned **out,
                  void *context,
                  void (*set_error)(void *context, const char *kind,
                                    const char *message));
  int (*export_owned)(void *object, dl_managed_versioned **out);
  int (*import_owned)(dl_managed_versioned *tensor, void **object);
  int (*view)(void *object, dl_tensor *out);
  int (*current_stream)(int32_t device_type, int32_t device_id, void **stream);
} dl_exchange;

#endif /* ATTNC_PYTHON_DLPACK_ABI_H */
