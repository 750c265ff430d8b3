/*===- xla.c - Programs as XLA custom calls -------------------------------===*\
|*
|* One handler a platform runs every program. Attributes say which: "ir", the
|* text; "dims", for each argument of the program and in its order 's' for a
|* scalar or the dims of the XLA buffer, as digits, then ','; "scalars", the
|* numbers. It runs without Python.
|*
|* On a GPU the work is put on XLA's stream, and scratch memory is of XLA's
|* allocator: given back once the launch is queued, since whoever gets it next
|* is on the same stream. A command buffer would be replayed later than that,
|* so the handler does not say that it may be captured into one.
|*
\*===----------------------------------------------------------------------===*/

#include "xla.h"

#include "attnc/attnc.h"
#include "xla_abi.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BUFFERS = 32 };

static xla_error *fail(const xla_frame *frame, int code, const char *message) {
  xla_error_create_args args = {sizeof(args), NULL, message, code};
  return frame->api->create_error(&args);
}

static xla_error *fail_status(const xla_frame *frame, attnc_status status) {
  int code = XLA_ERROR_INTERNAL;
  if (status == ATTNC_INVALID_ARGUMENT)
    code = XLA_ERROR_INVALID_ARGUMENT;
  else if (status == ATTNC_UNSUPPORTED)
    code = XLA_ERROR_UNIMPLEMENTED;
  return fail(frame, code, attnc_last_error());
}

/*---- Where a call runs -----------------------------------------------------*/

typedef struct place {
  int on_gpu;
  int32_t device;
  void *stream;
} place;

static xla_error *find_place(const xla_frame *frame, place *found) {
  const xla_api *api = frame->api;
  xla_stream_get_args stream = {sizeof(stream), NULL, frame->context, NULL};
  xla_error *error = api->get_stream(&stream);
  if (error)
    return error;
  found->stream = stream.stream;
  xla_device_ordinal_get_args device = {sizeof(device), NULL, frame->context,
                                        0};
  /* The last function of the table came last: a stream says where it is. */
  if (api->struct_size >= sizeof(xla_api) && api->get_device_ordinal &&
      (error = api->get_device_ordinal(&device)))
    return error;
  found->device = device.ordinal;
  return NULL;
}

static xla_error *new_workspace(const xla_frame *frame, const place *place,
                                size_t bytes, void **memory) {
  *memory = NULL;
  if (!bytes)
    return NULL;
  if (!place->on_gpu) {
    *memory = aligned_alloc(ATTNC_WORKSPACE_ALIGNMENT, bytes);
    return *memory ? NULL
                   : fail(frame, XLA_ERROR_INTERNAL, "attnc: out of memory");
  }
  /* XLA refuses to be asked for more than 16, and gives 256. */
  xla_memory_allocate_args args = {sizeof(args), NULL, frame->context,
                                   bytes,        16,   NULL};
  xla_error *error = frame->api->allocate(&args);
  if (!error && (uintptr_t)args.data % ATTNC_WORKSPACE_ALIGNMENT)
    error = fail(frame, XLA_ERROR_INTERNAL,
                 "attnc: XLA's scratch memory is not aligned to 64 bytes");
  *memory = args.data;
  return error;
}

static xla_error *free_workspace(const xla_frame *frame, const place *place,
                                 size_t bytes, void *memory) {
  if (!place->on_gpu)
    free(memory);
  if (!place->on_gpu || !memory)
    return NULL;
  xla_memory_free_args args = {sizeof(args), NULL, frame->context, bytes,
                               memory};
  return frame->api->free(&args);
}

/*---- Programs by text ------------------------------------------------------*/

typedef struct entry {
  struct entry *next;
  attnc_program *program;
  int kind; /* which of the programs of one text: see kind_of */
  size_t size;
  char text[];
} entry;

/* -1 for the host, else the GPU and whether any layout is taken there. */
static int kind_of(const place *place, int any_layout) {
  return place->on_gpu ? 2 * place->device + any_layout : -1;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static entry *buckets[256];

static unsigned bucket_of(const xla_span *text) {
  uint32_t hash = 2166136261u;
  for (size_t k = 0; k < text->size; ++k)
    hash = (hash ^ (uint8_t)text->data[k]) * 16777619u;
  return hash % 256;
}

static attnc_program *find(unsigned bucket, const xla_span *text, int kind) {
  pthread_mutex_lock(&lock);
  entry *at = buckets[bucket];
  while (at && (at->kind != kind || at->size != text->size ||
                memcmp(at->text, text->data, text->size)))
    at = at->next;
  pthread_mutex_unlock(&lock);
  return at ? at->program : NULL;
}

/* Kept while the process lives, as the programs are. Two threads may both add
 * the same text: the handles share one program. */
static void remember(unsigned bucket, const xla_span *text, int kind,
                     attnc_program *program) {
  entry *added = malloc(sizeof(entry) + text->size);
  if (!added)
    return;
  added->program = program;
  added->kind = kind;
  added->size = text->size;
  memcpy(added->text, text->data, text->size);
  pthread_mutex_lock(&lock);
  added->next = buckets[bucket];
  buckets[bucket] = added;
  pthread_mutex_unlock(&lock);
}

static attnc_status get_program(const xla_span *text, const place *place,
                                int any_layout, attnc_program **program) {
  unsigned bucket = bucket_of(text);
  int kind = kind_of(place, any_layout);
  *program = find(bucket, text, kind);
  if (*program)
    return ATTNC_OK;
  attnc_options options;
  memset(&options, 0, sizeof(options));
  options.struct_size = sizeof(options);
  if (place->on_gpu) {
    options.target = "cuda";
    options.device = place->device;
    options.any_layout = any_layout;
  }
  attnc_status status =
      attnc_program_from_ir(text->data, text->size, &options, program);
  if (!status)
    remember(bucket, text, kind, *program);
  return status;
}

/* Whether a GPU's bulk copies can read q, k and v: at multiples of 16 bytes,
 * rows too. XLA's buffers are dense. */
static int any_layout_needed(const xla_frame *frame) {
  for (int64_t k = 0; k < frame->arguments.size && k < 3; ++k) {
    const xla_buffer *buffer = frame->arguments.buffers[k];
    int64_t bytes = buffer->dtype == XLA_F32 ? 4 : 2;
    if (!buffer->rank || (uintptr_t)buffer->data % 16 ||
        buffer->dims[buffer->rank - 1] * bytes % 16)
      return 1;
  }
  return 0;
}

/*---- Arguments -------------------------------------------------------------*/

typedef struct attributes {
  const xla_span *ir, *dims;
  const xla_array *scalars;
} attributes;

static attributes read_attributes(const xla_attributes *given) {
  attributes found = {NULL, NULL, NULL};
  for (int64_t k = 0; k < given->size; ++k) {
    const xla_span *name = given->names[k];
    if (given->types[k] == XLA_ATTRIBUTE_STRING && name->size == 2)
      found.ir = given->values[k];
    else if (given->types[k] == XLA_ATTRIBUTE_STRING && name->size == 4)
      found.dims = given->values[k];
    else if (given->types[k] == XLA_ATTRIBUTE_ARRAY && name->size == 7)
      found.scalars = given->values[k];
  }
  return found;
}

static attnc_dtype dtype_of(xla_dtype dtype) {
  switch (dtype) {
  case XLA_PRED:
    return ATTNC_DTYPE_BOOL;
  case XLA_S32:
    return ATTNC_DTYPE_I32;
  case XLA_F16:
    return ATTNC_DTYPE_F16;
  case XLA_F32:
    return ATTNC_DTYPE_F32;
  case XLA_BF16:
    return ATTNC_DTYPE_BF16;
  }
  return ATTNC_DTYPE_OTHER;
}

typedef struct arguments {
  size_t count;
  attnc_argument all[MAX_BUFFERS];
  int64_t shaped[MAX_BUFFERS][2 * ATTNC_MAX_RANK];
} arguments;

/* Adds a buffer, row-major, with the dims that `dims` picks; moves past them.
 */
static int add_buffer(arguments *out, const xla_buffer *buffer,
                      const char **dims, const char *end) {
  int64_t strides[ATTNC_MAX_RANK], dense = 1;
  if (buffer->rank > ATTNC_MAX_RANK || out->count >= MAX_BUFFERS)
    return 0;
  for (int64_t k = buffer->rank; k-- > 0; dense *= buffer->dims[k])
    strides[k] = dense;
  int64_t *shape = out->shaped[out->count];
  attnc_argument *argument = &out->all[out->count++];
  int rank = 0;
  for (; *dims < end && **dims != ','; ++*dims, ++rank) {
    int source = **dims - '0';
    if (rank >= ATTNC_MAX_RANK || source < 0 || source >= buffer->rank)
      return 0;
    shape[rank] = buffer->dims[source];
    shape[ATTNC_MAX_RANK + rank] = strides[source];
  }
  argument->kind = ATTNC_TENSOR;
  argument->as.tensor.data = buffer->data;
  argument->as.tensor.dtype = dtype_of(buffer->dtype);
  argument->as.tensor.rank = rank;
  argument->as.tensor.sizes = shape;
  argument->as.tensor.strides = shape + ATTNC_MAX_RANK;
  return 1;
}

static int add_scalar(arguments *out, const attnc_program *program,
                      const xla_array *scalars, size_t at) {
  attnc_argument_info info;
  if (at >= scalars->size || out->count >= MAX_BUFFERS ||
      scalars->dtype != XLA_F32 ||
      attnc_program_argument_info(program, out->count, &info))
    return 0;
  float value = ((const float *)scalars->data)[at];
  attnc_argument *argument = &out->all[out->count++];
  argument->kind = info.kind;
  if (info.kind == ATTNC_I32)
    argument->as.i32 = (int32_t)value;
  else
    argument->as.f32 = value;
  return 1;
}

static int read_arguments(const xla_frame *frame, const attributes *given,
                          const attnc_program *program, arguments *out) {
  const char *dims = given->dims->data, *end = dims + given->dims->size;
  int64_t tensor = 0, inputs = frame->arguments.size;
  size_t scalar = 0;
  for (out->count = 0; dims < end; ++dims) {
    if (*dims == 's') {
      if (!add_scalar(out, program, given->scalars, scalar++))
        return 0;
      ++dims;
      continue;
    }
    int64_t result = tensor - inputs;
    if (result >= frame->results.size)
      return 0;
    const xla_buffer *buffer = tensor < inputs
                                   ? frame->arguments.buffers[tensor]
                                   : frame->results.buffers[result];
    if (!add_buffer(out, buffer, &dims, end))
      return 0;
    ++tensor;
  }
  return 1;
}

/*---- The handler -----------------------------------------------------------*/

static xla_error *run(const xla_frame *frame, const attnc_program *program,
                      const arguments *arguments, const place *place) {
  size_t bytes = 0, unit = ATTNC_WORKSPACE_ALIGNMENT;
  attnc_status status = attnc_program_workspace_size(program, arguments->all,
                                                     arguments->count, &bytes);
  if (status)
    return fail_status(frame, status);
  bytes = (bytes + unit - 1) / unit * unit;
  void *workspace;
  xla_error *error = new_workspace(frame, place, bytes, &workspace);
  if (error)
    return error;
  status = attnc_program_run(program, arguments->all, arguments->count,
                             workspace, bytes, place->stream);
  if (status)
    error = fail_status(frame, status);
  xla_error *freed = free_workspace(frame, place, bytes, workspace);
  return error ? error : freed;
}

static xla_error *describe_handler(const xla_frame *frame,
                                   xla_metadata *metadata) {
  const xla_version *version = &frame->api->version;
  if (version->major != 0)
    return fail(frame, XLA_ERROR_INTERNAL,
                "attnc: this version of XLA has another FFI");
  metadata->version.major = version->major;
  metadata->version.minor = version->minor;
  metadata->traits = 0;
  return NULL;
}

static xla_error *handle(xla_frame *frame, int on_gpu) {
  for (xla_extension *at = frame->extensions; at; at = at->next)
    if (at->type == XLA_EXTENSION_METADATA)
      return describe_handler(frame, ((xla_metadata_extension *)at)->metadata);
  if (frame->stage != XLA_STAGE_EXECUTE)
    return NULL;
  attributes given = read_attributes(&frame->attributes);
  if (!given.ir || !given.dims || !given.scalars)
    return fail(frame, XLA_ERROR_INVALID_ARGUMENT,
                "attnc: expected attributes ir, dims, scalars");
  place place = {on_gpu, 0, NULL};
  xla_error *error = on_gpu ? find_place(frame, &place) : NULL;
  if (error)
    return error;
  attnc_program *program;
  attnc_status status = get_program(
      given.ir, &place, on_gpu && any_layout_needed(frame), &program);
  if (status)
    return fail_status(frame, status);
  arguments arguments;
  if (!read_arguments(frame, &given, program, &arguments))
    return fail(frame, XLA_ERROR_INVALID_ARGUMENT,
                "attnc: the buffers do not fit 'dims'");
  return run(frame, program, &arguments, &place);
}

static xla_error *handle_on_host(xla_frame *frame) { return handle(frame, 0); }

static xla_error *handle_on_gpu(xla_frame *frame) { return handle(frame, 1); }

static int add_handler(PyObject *module, const char *name,
                       xla_error *(*handler)(xla_frame *)) {
  PyObject *capsule = PyCapsule_New((void *)handler, NULL, NULL);
  if (!capsule)
    return -1;
  int failed = PyModule_AddObjectRef(module, name, capsule);
  Py_DECREF(capsule);
  return failed;
}

int xla_add_to(PyObject *module) {
  if (add_handler(module, "xla_handler", handle_on_host))
    return -1;
  return add_handler(module, "xla_gpu_handler", handle_on_gpu);
}
