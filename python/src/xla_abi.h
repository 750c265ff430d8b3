/*===- xla_abi.h - The part of XLA's FFI ABI that we use ----------*- C -*-===*\
|*
|* Declarations of the binary layouts that XLA passes to a custom call's
|* handler (its FFI, version 0.x), so that JAX is not needed to build.
Structures
|* may grow at their end in later minor versions.
|*
\*===----------------------------------------------------------------------===*/

#ifndef ATTNC_PYTHON_XLA_ABI_H
#define ATTNC_PYTHON_XLA_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { XLA_EXTENSION_METADATA = 1, XLA_STAGE_EXECUTE = 3 };
enum { XLA_ATTRIBUTE_ARRAY = 1, XLA_ATTRIBUTE_STRING = 4 };
enum {
  XLA_ERROR_INVALID_ARGUMENT = 3,
  XLA_ERROR_UNIMPLEMENTED = 12,
  XLA_ERROR_INTERNAL = 13
};

typedef enum xla_dtype {
  XLA_PRED = 1,
  XLA_S32 = 4,
  XLA_F16 = 10,
  XLA_F32 = 11,
  XLA_BF16 = 16
} xla_dtype;

typedef struct xla_extension {
  size_t struct_size;
  int type;
  struct xla_extension *next;
} xla_extension;

typedef struct xla_version {
  size_t struct_size;
  xla_extension *extensions;
  int major, minor;
} xla_version;

typedef struct xla_metadata {
  size_t struct_size;
  xla_version version;
  uint32_t traits;
} xla_metadata;

typedef struct xla_metadata_extension {
  xla_extension base;
  xla_metadata *metadata;
} xla_metadata_extension;

typedef struct xla_error xla_error;

typedef struct xla_error_create_args {
  size_t struct_size;
  xla_extension *extensions;
  const char *message;
  int code;
} xla_error_create_args;

typedef struct xla_stream_get_args {
  size_t struct_size;
  xla_extension *extensions;
  void *context;
  void *stream; /* out: a CUstream */
} xla_stream_get_args;

typedef struct xla_memory_allocate_args {
  size_t struct_size;
  xla_extension *extensions;
  void *context;
  size_t size, alignment;
  void *data; /* out */
} xla_memory_allocate_args;

typedef struct xla_memory_free_args {
  size_t struct_size;
  xla_extension *extensions;
  void *context;
  size_t size;
  void *data;
} xla_memory_free_args;

typedef struct xla_device_ordinal_get_args {
  size_t struct_size;
  xla_extension *extensions;
  void *context;
  int32_t ordinal; /* out */
} xla_device_ordinal_get_args;

typedef struct xla_api {
  size_t struct_size;
  xla_extension *extensions;
  xla_version version;
  const void *internal;
  xla_error *(*create_error)(xla_error_create_args *);
  void *error_get_message, *error_destroy, *handler_register;
  xla_error *(*get_stream)(xla_stream_get_args *);
  void *type_register, *context_get, *state_set, *state_get;
  xla_error *(*allocate)(xla_memory_allocate_args *);
  xla_error *(*free)(xla_memory_free_args *);
  void *schedule, *thread_count, *future_create, *future_set_available,
      *future_set_error, *run_id_get;
  xla_error *(*get_device_ordinal)(xla_device_ordinal_get_args *);
} xla_api;

typedef struct xla_buffer {
  size_t struct_size;
  xla_extension *extensions;
  xla_dtype dtype;
  void *data;
  int64_t rank;
  int64_t *dims;
} xla_buffer;

typedef struct xla_span {
  const char *data;
  size_t size;
} xla_span;

typedef struct xla_array {
  xla_dtype dtype;
  size_t size;
  void *data;
} xla_array;

typedef struct xla_buffers {
  size_t struct_size;
  xla_extension *extensions;
  int64_t size;
  int *types;
  void **buffers;
} xla_buffers;

typedef struct xla_attributes {
  size_t struct_size;
  xla_extension *extensions;
  int64_t size;
  int *types;
  xla_span **names;
  void **values;
} xla_attributes;

typedef struct xla_frame {
  size_t struct_size;
  xla_extension *extensions;
  const xla_api *api;
  void *context;
  int stage;
  xla_buffers arguments, results;
  xla_attributes attributes;
} xla_frame;

#endif /* ATTNC_PYTHON_XLA_ABI_H */
