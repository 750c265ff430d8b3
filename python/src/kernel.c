/*===- kernel.c - Programs that run on arrays -----------------------------===*\
|*
|* A Kernel is a program plus, for each of its tensors, which dim of the
|* caller's array is which logical dim. `call` is the way that a warm call
|* takes: it looks at the arrays, finds the kernel by what code depends on
|* (types, ranks, head dims, dims of size 1), checks the sizes, allocates the
|* results and runs. Whatever is not as the kernel expects gives NotImplemented,
|* and Python says what is wrong, or compiles.
|*
\*===----------------------------------------------------------------------===*/

#include "kernel.h"

#include <stdlib.h>
#include <string.h>

static PyObject *compile_error, *jit_forbidden_error;

void raise_status(attnc_status status) {
  PyObject *type = PyExc_RuntimeError;
  if (status == ATTNC_INVALID_ARGUMENT)
    type = PyExc_ValueError;
  else if (status == ATTNC_UNSUPPORTED)
    type = PyExc_NotImplementedError;
  else if (status == ATTNC_COMPILE_FAILED)
    type = compile_error;
  else if (status == ATTNC_JIT_FORBIDDEN)
    type = jit_forbidden_error;
  PyErr_SetString(type, attnc_last_error());
}

/*---- The type --------------------------------------------------------------*/

/* How an argument is read: `rank` dims, dim k of the program being dim
 * `source[k]` of the array, of the size that the letter `size[k]` names. The
 * first use of a letter says what it is. A capital lets the array be larger:
 * the program sees as much of it as it needs. */
typedef struct slot {
  int rank;
  uint8_t source[ATTNC_MAX_RANK];
  char size[ATTNC_MAX_RANK];
} slot;

enum { LETTERS = 128 };

typedef struct kernel {
  PyObject_HEAD attnc_program *program;
  size_t count;
  attnc_argument_info infos[MAX_ARGUMENTS];
  slot slots[MAX_ARGUMENTS];
  int ordered; /* needs at most as many queries (i) as keys (j) */
  int lengths; /* the argument with key lengths to check, or -1 */
  /* The last workspace asked for; it depends on sizes only. Guarded by the
   * interpreter's lock. */
  int64_t sizes[LETTERS];
  size_t workspace;
} kernel;

static PyTypeObject *kernel_type;

static int read_slot(PyObject *dims, const char *name, slot *out) {
  Py_ssize_t rank = PyTuple_Size(dims);
  if (rank < 0 || rank > ATTNC_MAX_RANK)
    return PyErr_Format(PyExc_ValueError, "dims of '%s'", name), -1;
  out->rank = (int)rank;
  for (Py_ssize_t k = 0; k < rank; ++k) {
    int source;
    const char *size;
    if (!PyArg_ParseTuple(PyTuple_GetItem(dims, k), "is", &source, &size))
      return -1;
    out->source[k] = (uint8_t)source;
    out->size[k] = size[0];
  }
  return 0;
}

static int describe_arguments(kernel *self, PyObject *slots) {
  self->count = attnc_program_argument_count(self->program);
  if (self->count > MAX_ARGUMENTS ||
      (Py_ssize_t)self->count != PyTuple_Size(slots)) {
    PyErr_Format(PyExc_ValueError,
                 "the program takes %zu arguments; dims are given for %zd",
                 self->count, PyTuple_Size(slots));
    return -1;
  }
  for (size_t k = 0; k < self->count; ++k) {
    attnc_argument_info *info = &self->infos[k];
    attnc_status status = attnc_program_argument_info(self->program, k, info);
    if (status)
      return raise_status(status), -1;
    PyObject *dims = PyTuple_GetItem(slots, (Py_ssize_t)k);
    if (info->kind != ATTNC_TENSOR)
      continue;
    if (dims == Py_None || read_slot(dims, info->name, &self->slots[k]))
      return -1;
    if (self->slots[k].rank != info->rank) {
      PyErr_Format(PyExc_ValueError, "'%s' has %d dims, not %d", info->name,
                   (int)info->rank, self->slots[k].rank);
      return -1;
    }
  }
  return 0;
}

static PyObject *kernel_new(PyTypeObject *type, PyObject *arguments,
                            PyObject *keywords) {
  static char *names[] = {"ir",       "slots",      "target",
                          "schedule", "ordered",    "lengths",
                          "device",   "any_layout", NULL};
  const char *ir, *target = NULL, *schedule = NULL;
  Py_ssize_t length;
  PyObject *slots;
  int ordered = 0, lengths = -1, device = 0, any_layout = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "s#O!|zzpiip", names,
                                   &ir, &length, &PyTuple_Type, &slots, &target,
                                   &schedule, &ordered, &lengths, &device,
                                   &any_layout))
    return NULL;
  attnc_options options;
  memset(&options, 0, sizeof(options));
  options.struct_size = sizeof(options);
  options.target = target;
  options.schedule = schedule;
  options.device = device;
  options.any_layout = any_layout;
  attnc_program *program;
  attnc_status status;
  PyThreadState *thread = PyEval_SaveThread();
  status = attnc_program_from_ir(ir, (size_t)length, &options, &program);
  PyEval_RestoreThread(thread);
  if (status)
    return raise_status(status), NULL;
  allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  kernel *self = (kernel *)allocate(type, 0);
  if (!self) {
    attnc_program_release(program);
    return NULL;
  }
  self->program = program;
  self->ordered = ordered;
  self->lengths = lengths;
  if (describe_arguments(self, slots)) {
    Py_DECREF(self);
    return NULL;
  }
  return (PyObject *)self;
}

static void kernel_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  attnc_program_release(((kernel *)object)->program);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF((PyObject *)type);
}

static PyObject *kernel_key(PyObject *self, void *closure) {
  (void)closure;
  return PyUnicode_FromString(attnc_program_key(((kernel *)self)->program));
}

/*---- One call --------------------------------------------------------------*/

typedef struct call_state {
  kernel *kernel;
  size_t operands;
  int scalars; /* a bit for each operand that is a number */
  double numbers[MAX_ARGUMENTS];
  array_view views[MAX_ARGUMENTS];
  PyObject *results[MAX_ARGUMENTS];
  int64_t sizes[LETTERS]; /* -1: not met yet */
  int64_t shaped[MAX_ARGUMENTS][2 * ATTNC_MAX_RANK];
  attnc_argument arguments[MAX_ARGUMENTS];
} call_state;

/* 1, 0 if an operand is neither an array nor a number, -1 with an exception.
 * What was opened must be closed in each case. */
static int open_operands(call_state *state, PyObject *operands) {
  Py_ssize_t count = PyTuple_Size(operands);
  if (count < 3 || count > MAX_ARGUMENTS - 2)
    return 0;
  for (Py_ssize_t k = 0; k < count; ++k) {
    PyObject *object = PyTuple_GetItem(operands, k);
    state->operands = (size_t)k + 1;
    state->views[k].close = NULL;
    if (PyFloat_Check(object) || PyLong_Check(object)) {
      state->scalars |= 1 << k;
      state->numbers[k] = PyFloat_AsDouble(object);
      if (state->numbers[k] == -1 && PyErr_Occurred())
        return -1;
      continue;
    }
    int found = array_open(object, &state->views[k]);
    if (found <= 0)
      return found;
  }
  return 1;
}

static void close_operands(call_state *state) {
  for (size_t k = 0; k < state->operands; ++k)
    if (!(state->scalars >> k & 1))
      array_close(&state->views[k]);
}

/* Whether a GPU's bulk copies can read it: rows of consecutive elements, each
 * at a multiple of 16 bytes. */
static int is_aligned(const array_view *view) {
  int64_t bytes = view->dtype == ATTNC_DTYPE_F32 ? 4 : 2;
  int last = view->rank - 1;
  if ((uintptr_t)view->data % 16 || last < 0 || view->strides[last] != 1 ||
      view->sizes[last] * bytes % 16)
    return 0;
  for (int d = 0; d < last; ++d)
    if (view->sizes[d] > 1 && view->strides[d] * bytes % 16)
      return 0;
  return 1;
}

/* What code depends on; sizes and scalars are not in it. The first byte says
 * that a GPU's program must take any layout, the second which GPU's it is. */
static size_t write_key(const call_state *state, uint8_t *key) {
  size_t at = 2;
  key[0] = key[1] = 0;
  for (size_t k = 0; k < state->operands; ++k) {
    if (state->scalars >> k & 1) {
      key[at++] = 0xff;
      continue;
    }
    const array_view *view = &state->views[k];
    uint8_t ones = 0;
    for (int d = 0; d < view->rank; ++d)
      if (view->sizes[d] == 1)
        ones |= (uint8_t)(1 << d);
    key[at++] = (uint8_t)view->dtype;
    key[at++] = (uint8_t)view->device.type;
    key[at++] = (uint8_t)view->rank;
    key[at++] = k < 3 ? 0 : ones;
    if (k < 3 && view->rank) {
      int32_t last = (int32_t)view->sizes[view->rank - 1];
      memcpy(key + at, &last, sizeof(last));
      at += sizeof(last);
    }
    if (view->device.type != DL_CPU) {
      key[0] |= k < 3 && !is_aligned(view);
      key[1] = (uint8_t)view->device.id;
    }
  }
  return at;
}

enum { MAX_KEY = 2 + 8 * MAX_ARGUMENTS };

/* The sizes of an operand, checked, and its strides, in logical order. */
static int shape_operand(call_state *state, size_t k) {
  const slot *slot = &state->kernel->slots[k];
  const array_view *view = &state->views[k];
  int64_t *sizes = state->shaped[k], *strides = sizes + ATTNC_MAX_RANK;
  for (int d = 0; d < slot->rank; ++d) {
    int source = slot->source[d];
    if (source >= view->rank)
      return 0;
    sizes[d] = view->sizes[source];
    strides[d] = view->strides[source];
    char letter = slot->size[d] & 127;
    int64_t *size = &state->sizes[letter | 0x20];
    if (letter >= 'A' && letter <= 'Z') {
      if (*size < 0 || sizes[d] < *size)
        return 0;
      sizes[d] = *size;
      continue;
    }
    if (*size < 0)
      *size = sizes[d];
    if (*size != sizes[d])
      return 0;
  }
  return 1;
}

static void pass_tensor(call_state *state, size_t k) {
  attnc_argument *argument = &state->arguments[k];
  argument->kind = ATTNC_TENSOR;
  argument->as.tensor.data = state->views[k].data;
  argument->as.tensor.dtype = state->views[k].dtype;
  argument->as.tensor.rank = state->kernel->slots[k].rank;
  argument->as.tensor.sizes = state->shaped[k];
  argument->as.tensor.strides = state->shaped[k] + ATTNC_MAX_RANK;
}

static int lengths_are_in_range(const call_state *state) {
  int k = state->kernel->lengths;
  if (k < 0 || state->views[k].device.type != DL_CPU)
    return 1;
  const int32_t *lengths = state->views[k].data;
  for (int64_t b = 0; b < state->shaped[k][0]; ++b) {
    int32_t length = lengths[b * state->shaped[k][ATTNC_MAX_RANK]];
    if (length < 0 || length > state->sizes['j'])
      return 0;
  }
  return 1;
}

/* 1 if the kernel takes the operands. */
static int bind_operands(call_state *state) {
  const kernel *kernel = state->kernel;
  memset(state->sizes, 0xff, sizeof(state->sizes));
  for (size_t k = 0; k < state->operands; ++k) {
    attnc_argument *argument = &state->arguments[k];
    int is_scalar = state->scalars >> k & 1;
    if (k >= kernel->count || kernel->infos[k].is_result ||
        is_scalar != (kernel->infos[k].kind != ATTNC_TENSOR))
      return 0;
    if (is_scalar) {
      argument->kind = kernel->infos[k].kind;
      if (argument->kind == ATTNC_F32)
        argument->as.f32 = (float)state->numbers[k];
      else
        argument->as.i32 = (int32_t)state->numbers[k];
      continue;
    }
    if (state->views[k].device.type != state->views[0].device.type ||
        state->views[k].device.id != state->views[0].device.id ||
        state->views[k].exchange != state->views[0].exchange ||
        !shape_operand(state, k))
      return 0;
    pass_tensor(state, k);
  }
  int64_t heads = state->sizes['h'], kv_heads = state->sizes['g'];
  if (kernel->ordered && state->sizes['i'] > state->sizes['j'])
    return 0;
  return (kv_heads > 0 ? heads % kv_heads == 0 : heads == kv_heads) &&
         lengths_are_in_range(state);
}

/* Allocates with `allocate(shape, dtype)` where the library offers no table. */
static PyObject *new_array(call_state *state, size_t k, PyObject *allocate,
                           const int64_t *shape) {
  int rank = state->kernel->slots[k].rank;
  attnc_dtype dtype = state->kernel->infos[k].dtype;
  if (state->views[0].exchange)
    return array_new(state->views[0].exchange, state->views[0].device, dtype,
                     rank, shape, &state->views[k]);
  PyObject *sizes = PyTuple_New(rank);
  for (int d = 0; sizes && d < rank; ++d)
    PyTuple_SetItem(sizes, d, PyLong_FromLongLong(shape[d]));
  PyObject *array =
      sizes ? PyObject_CallFunction(allocate, "Oi", sizes, (int)dtype) : NULL;
  Py_XDECREF(sizes);
  if (array && array_open(array, &state->views[k]) <= 0) {
    Py_DECREF(array);
    return NULL;
  }
  return array;
}

static int make_results(call_state *state, PyObject *allocate) {
  for (size_t k = state->operands; k < state->kernel->count; ++k) {
    const slot *slot = &state->kernel->slots[k];
    int64_t shape[ATTNC_MAX_RANK];
    for (int d = 0; d < slot->rank; ++d)
      shape[slot->source[d]] = state->sizes[(slot->size[d] & 127) | 0x20];
    state->results[k] = new_array(state, k, allocate, shape);
    if (!state->results[k])
      return -1;
    shape_operand(state, k);
    pass_tensor(state, k);
  }
  return 0;
}

/* Scratch memory of the library's own allocator, so that it is freed in the
 * order of the stream. */
static int device_workspace(call_state *state, size_t bytes, void **memory,
                            PyObject **owner) {
  const array_view *query = &state->views[0];
  int64_t size = (int64_t)((bytes + 3) / 4);
  array_view view;
  *owner = array_new(query->exchange, query->device, ATTNC_DTYPE_F32, 1, &size,
                     &view);
  if (!*owner)
    return -1;
  *memory = view.data;
  return 0;
}

/* Bytes that the call needs; evaluated again only for other sizes. */
static attnc_status workspace_size(call_state *state, size_t *bytes) {
  kernel *kernel = state->kernel;
  attnc_status status = ATTNC_OK;
  if (memcmp(kernel->sizes, state->sizes, sizeof(kernel->sizes))) {
    status = attnc_program_workspace_size(kernel->program, state->arguments,
                                          kernel->count, &kernel->workspace);
    if (!status)
      memcpy(kernel->sizes, state->sizes, sizeof(kernel->sizes));
  }
  *bytes = kernel->workspace;
  return status;
}

static int run(call_state *state) {
  const kernel *kernel = state->kernel;
  const array_view *query = &state->views[0];
  int on_host = query->device.type == DL_CPU;
  size_t bytes = 0;
  void *workspace = NULL, *stream = NULL;
  PyObject *owner = NULL;
  attnc_status status = workspace_size(state, &bytes);
  if (status)
    return raise_status(status), -1;
  if (!on_host) {
    if (query->exchange->current_stream(query->device.type, query->device.id,
                                        &stream) ||
        (bytes && device_workspace(state, bytes, &workspace, &owner)))
      return -1;
  } else if (bytes) {
    bytes = (bytes + ATTNC_WORKSPACE_ALIGNMENT - 1) /
            ATTNC_WORKSPACE_ALIGNMENT * ATTNC_WORKSPACE_ALIGNMENT;
    workspace = aligned_alloc(ATTNC_WORKSPACE_ALIGNMENT, bytes);
    if (!workspace)
      return PyErr_NoMemory(), -1;
  }
  if (on_host) {
    PyThreadState *thread = PyEval_SaveThread();
    status = attnc_program_run(kernel->program, state->arguments, kernel->count,
                               workspace, bytes, NULL);
    PyEval_RestoreThread(thread);
    free(workspace);
  } else {
    status = attnc_program_run(kernel->program, state->arguments, kernel->count,
                               workspace, bytes, stream);
  }
  Py_XDECREF(owner);
  if (status)
    return raise_status(status), -1;
  return 0;
}

static PyObject *take_results(call_state *state) {
  size_t first = state->operands, count = state->kernel->count - first;
  if (count == 1) {
    PyObject *only = state->results[first];
    state->results[first] = NULL;
    return only;
  }
  PyObject *tuple = PyTuple_New((Py_ssize_t)count);
  for (size_t k = 0; tuple && k < count; ++k) {
    PyTuple_SetItem(tuple, (Py_ssize_t)k, state->results[first + k]);
    state->results[first + k] = NULL;
  }
  return tuple;
}

static PyObject *run_kernel(call_state *state, PyObject *allocate) {
  PyObject *found = NULL;
  memset(state->results, 0, sizeof(state->results));
  if (state->views[0].device.type != DL_CPU && !state->views[0].exchange) {
    PyErr_SetString(PyExc_NotImplementedError,
                    "argument 'q': arrays on a GPU need a library that shares "
                    "its stream and allocator: torch 2.10 or newer");
    return NULL;
  }
  if (!make_results(state, allocate) && !run(state))
    found = take_results(state);
  for (size_t k = state->operands; k < state->kernel->count; ++k)
    Py_XDECREF(state->results[k]);
  return found;
}

static PyObject *not_implemented(void) {
  Py_INCREF(Py_NotImplemented);
  return Py_NotImplemented;
}

static PyObject *find_kernel(call_state *state, PyObject *table) {
  uint8_t bytes[MAX_KEY];
  size_t size = write_key(state, bytes);
  PyObject *key = PyBytes_FromStringAndSize((char *)bytes, (Py_ssize_t)size);
  PyObject *found = key ? PyDict_GetItemWithError(table, key) : NULL;
  Py_XDECREF(key);
  return found;
}

/* The result of the kernel that `table` has for the operands. */
static PyObject *call_in(PyObject *table, PyObject *operands,
                         PyObject *allocate) {
  call_state state;
  state.operands = 0;
  state.scalars = 0;
  PyObject *result = NULL;
  int opened = open_operands(&state, operands);
  if (opened > 0) {
    PyObject *kernel = find_kernel(&state, table);
    state.kernel = (struct kernel *)kernel;
    if (!kernel && PyErr_Occurred()) {
      result = NULL;
    } else if (!kernel || Py_TYPE(kernel) != kernel_type ||
               !bind_operands(&state)) {
      result = not_implemented();
    } else {
      /* Another thread may replace the table's entry meanwhile. */
      Py_INCREF(kernel);
      result = run_kernel(&state, allocate);
      Py_DECREF(kernel);
    }
  } else {
    /* Python finds better words, or makes of it what can be read. */
    PyErr_Clear();
    result = not_implemented();
  }
  close_operands(&state);
  return result;
}

PyDoc_STRVAR(call_doc,
             "call(table, operands, allocate)\n\n"
             "Runs the kernel that `table` has for operands like these. "
             "NotImplemented: there is none, or it does not take them.");
static PyObject *call(PyObject *module, PyObject *const *arguments,
                      Py_ssize_t count) {
  (void)module;
  if (count != 3 || !PyDict_Check(arguments[0]) ||
      !PyTuple_Check(arguments[1])) {
    PyErr_SetString(PyExc_TypeError, "call(table, operands, allocate)");
    return NULL;
  }
  return call_in(arguments[0], arguments[1], arguments[2]);
}

PyDoc_STRVAR(key_doc, "key(operands)\n\nWhere `call` looks in its table.");
static PyObject *key(PyObject *module, PyObject *operands) {
  (void)module;
  call_state state;
  state.operands = 0;
  state.scalars = 0;
  if (!PyTuple_Check(operands)) {
    PyErr_SetString(PyExc_TypeError, "expected a tuple");
    return NULL;
  }
  PyObject *result = NULL;
  int opened = open_operands(&state, operands);
  if (opened > 0) {
    uint8_t bytes[MAX_KEY];
    size_t size = write_key(&state, bytes);
    result = PyBytes_FromStringAndSize((char *)bytes, (Py_ssize_t)size);
  } else if (!opened) {
    PyErr_SetString(PyExc_TypeError, "an operand is no array and no number");
  }
  close_operands(&state);
  return result;
}

/*---- Plain calls of torch --------------------------------------------------*/

/* What torch says of itself, from `set_torch`. Never freed. */
static struct {
  PyObject *type, *subtype; /* Tensor, Parameter */
  PyObject *grad_enabled;   /* whether gradients are recorded */
  PyObject *special;        /* callables: whether more than memory matters */
  PyObject *forward_mode;   /* the dict with "_current_level", -1 outside */
  PyObject *level, *requires_grad; /* names */
  PyObject *plan, *to_save, *non_differentiable;
} torch;

PyDoc_STRVAR(set_torch_doc,
             "set_torch(type, subtype, grad_enabled, special, forward_mode)");
static PyObject *set_torch(PyObject *module, PyObject *arguments) {
  (void)module;
  if (!PyArg_ParseTuple(arguments, "OOOO!O!", &torch.type, &torch.subtype,
                        &torch.grad_enabled, &PyTuple_Type, &torch.special,
                        &PyDict_Type, &torch.forward_mode))
    return NULL;
  Py_INCREF(arguments); /* and so what is in it */
  torch.level = PyUnicode_InternFromString("_current_level");
  torch.requires_grad = PyUnicode_InternFromString("requires_grad");
  torch.plan = PyUnicode_InternFromString("plan");
  torch.to_save = PyUnicode_InternFromString("to_save");
  torch.non_differentiable = PyUnicode_InternFromString("non_differentiable");
  if (!torch.level || !torch.requires_grad || !torch.plan || !torch.to_save ||
      !torch.non_differentiable)
    return NULL;
  Py_RETURN_NONE;
}

/* Whether autocast, a mode, a transform or forward-mode differentiation is on.
 * -1: an exception. */
static int is_special(void) {
  Py_ssize_t count = PyTuple_Size(torch.special);
  for (Py_ssize_t k = 0; k < count; ++k) {
    PyObject *found = PyObject_CallNoArgs(PyTuple_GetItem(torch.special, k));
    if (!found)
      return -1;
    int on = found != Py_None && found != Py_False && PyObject_IsTrue(found);
    Py_DECREF(found);
    if (on)
      return on;
  }
  PyObject *level = PyDict_GetItemWithError(torch.forward_mode, torch.level);
  return level ? PyLong_AsLong(level) >= 0 : PyErr_Occurred() ? -1 : 0;
}

/* A bit for each operand that requires a gradient; -1: an operand is neither
 * a number nor exactly a tensor; -2: an exception. */
static int64_t graded_operands(PyObject *operands) {
  int64_t graded = 0;
  Py_ssize_t count = PyTuple_Size(operands);
  for (Py_ssize_t k = 0; k < count; ++k) {
    PyObject *operand = PyTuple_GetItem(operands, k);
    PyObject *type = (PyObject *)Py_TYPE(operand);
    if (type == torch.type || type == torch.subtype) {
      PyObject *flag = PyObject_GetAttr(operand, torch.requires_grad);
      if (!flag)
        return -2;
      if (flag == Py_True)
        graded |= (int64_t)1 << (k & 63);
      Py_DECREF(flag);
    } else if (!PyFloat_Check(operand) && !PyLong_Check(operand)) {
      return -1;
    }
  }
  return graded;
}

/* How a call is recorded for gradients: an entry of its table under the bits of
 * the operands that have one, made by Python. */
enum {
  PLAN_RECORD,    /* record(plan, operands, q, k, v): the results, with history */
  PLAN_TABLE,     /* where the program that is run lies */
  PLAN_COLD,      /* cold(operands): the results, if there is none yet */
  PLAN_WANTS_LSE, /* whether the caller gets more than the output */
  PLAN_FIELDS
};

PyDoc_STRVAR(forward_doc,
             "forward(ctx, plan, operands, q, k, v)\n\n"
             "The forward of a torch.autograd.Function.");
static PyObject *forward(PyObject *module, PyObject *const *arguments,
                         Py_ssize_t count) {
  (void)module;
  if (count != 6 || !PyTuple_Check(arguments[1]) ||
      PyTuple_Size(arguments[1]) < PLAN_FIELDS ||
      !PyTuple_Check(arguments[2])) {
    PyErr_SetString(PyExc_TypeError, "forward(ctx, plan, operands, q, k, v)");
    return NULL;
  }
  PyObject *ctx = arguments[0], *plan = arguments[1], *operands = arguments[2];
  PyObject *results =
      call_in(PyTuple_GetItem(plan, PLAN_TABLE), operands, Py_None);
  if (results == Py_NotImplemented) {
    Py_DECREF(results);
    results = PyObject_CallFunctionObjArgs(PyTuple_GetItem(plan, PLAN_COLD),
                                           operands, NULL);
  }
  if (!results)
    return NULL;
  /* As ctx's methods do, of which each costs a call. Of a softmax's output and
   * LSE, which the backward needs, only the output has a gradient if the caller
   * gets nothing else. */
  PyObject *numbers = PyTuple_GetSlice(operands, 3, MAX_ARGUMENTS);
  PyObject *kept = numbers ? PyTuple_Pack(2, plan, numbers) : NULL;
  PyObject *saved = PyTuple_Pack(3, arguments[3], arguments[4], arguments[5]);
  int failed = !kept || !saved || PyObject_SetAttr(ctx, torch.plan, kept);
  if (!failed && PyTuple_Check(results)) {
    PyObject *others = PyTuple_GetSlice(results, 1, MAX_ARGUMENTS);
    PyObject *all = PySequence_Concat(saved, results);
    Py_DECREF(saved);
    saved = all;
    failed = !others || !all ||
             (PyTuple_GetItem(plan, PLAN_WANTS_LSE) != Py_True &&
              PyObject_SetAttr(ctx, torch.non_differentiable, others));
    Py_XDECREF(others);
  }
  failed = failed || PyObject_SetAttr(ctx, torch.to_save, saved);
  Py_XDECREF(numbers);
  Py_XDECREF(kept);
  Py_XDECREF(saved);
  if (failed)
    Py_CLEAR(results);
  return results;
}

/* The result of a call of which torch records the gradients of some operands;
 * an int, these operands, if Python must see to it. */
static PyObject *record(PyObject *table, int64_t graded, PyObject *operands) {
  PyObject *where = PyLong_FromLongLong(graded);
  PyObject *plan = where ? PyDict_GetItemWithError(table, where) : NULL;
  if (!plan || !PyTuple_Check(plan) || PyTuple_Size(plan) < PLAN_FIELDS ||
      PyTuple_Size(operands) < 3) {
    if (PyErr_Occurred())
      Py_CLEAR(where);
    return where;
  }
  Py_DECREF(where);
  /* The table may lose the plan meanwhile; the arguments keep it. */
  PyObject *arguments = PyTuple_Pack(
      5, plan, operands, PyTuple_GetItem(operands, 0),
      PyTuple_GetItem(operands, 1), PyTuple_GetItem(operands, 2));
  if (!arguments)
    return NULL;
  PyObject *results =
      PyObject_CallObject(PyTuple_GetItem(plan, PLAN_RECORD), arguments);
  if (results && PyTuple_Check(results) &&
      PyTuple_GetItem(plan, PLAN_WANTS_LSE) != Py_True) {
    PyObject *output = PyTuple_GetItem(results, 0);
    Py_XINCREF(output);
    Py_DECREF(results);
    results = output;
  }
  Py_DECREF(arguments);
  return results;
}

PyDoc_STRVAR(call_torch_doc,
             "call_torch(table, operands)\n\n"
             "`call`, if nothing but the memory of the operands matters and "
             "how gradients are recorded, for which `table` may have a plan. "
             "An int: a bit for each operand whose gradient is to be recorded, "
             "and no plan. NotImplemented: something else matters.");
static PyObject *call_torch(PyObject *module, PyObject *const *arguments,
                            Py_ssize_t count) {
  (void)module;
  if (count != 2 || !PyDict_Check(arguments[0]) ||
      !PyTuple_Check(arguments[1]) || !torch.type) {
    PyErr_SetString(PyExc_TypeError, "call_torch(table, operands)");
    return NULL;
  }
  int64_t graded = graded_operands(arguments[1]);
  int special = graded >= 0 ? is_special() : 0;
  if (graded == -2 || special < 0)
    return NULL;
  if (graded < 0 || special)
    return not_implemented();
  if (graded) {
    PyObject *enabled = PyObject_CallNoArgs(torch.grad_enabled);
    if (!enabled)
      return NULL;
    int recorded = enabled == Py_True;
    Py_DECREF(enabled);
    if (recorded)
      return record(arguments[0], graded, arguments[1]);
  }
  return call_in(arguments[0], arguments[1], Py_None);
}

/*---- The module's part -----------------------------------------------------*/

static PyMethodDef functions[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, call_doc},
    {"call_torch", (PyCFunction)(void (*)(void))call_torch, METH_FASTCALL,
     call_torch_doc},
    {"forward", (PyCFunction)(void (*)(void))forward, METH_FASTCALL,
     forward_doc},
    {"set_torch", set_torch, METH_VARARGS, set_torch_doc},
    {"key", key, METH_O, key_doc},
    {NULL, NULL, 0, NULL}};

static PyObject *kernel_warm_up(PyObject *self, PyObject *unused) {
  (void)unused;
  attnc_status status;
  PyThreadState *thread = PyEval_SaveThread();
  status = attnc_program_warm_up(((kernel *)self)->program);
  PyEval_RestoreThread(thread);
  if (status)
    return raise_status(status), NULL;
  Py_RETURN_NONE;
}

static PyMethodDef kernel_methods[] = {{"warm_up", kernel_warm_up, METH_NOARGS,
                                        "Loads the program on its device."},
                                       {NULL, NULL, 0, NULL}};

static PyGetSetDef kernel_getset[] = {
    {"key", kernel_key, NULL, "What the program is filed under.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot kernel_slots[] = {
    {Py_tp_new, kernel_new},
    {Py_tp_dealloc, kernel_dealloc},
    {Py_tp_getset, kernel_getset},
    {Py_tp_methods, kernel_methods},
    {Py_tp_doc, "A compiled program and how it reads the caller's arrays."},
    {0, NULL}};

static PyType_Spec kernel_spec = {"attnc._attnc.Kernel", sizeof(kernel), 0,
                                  Py_TPFLAGS_DEFAULT, kernel_slots};

static PyObject *add_error(PyObject *module, const char *name,
                           const char *doc) {
  char full[64];
  PyOS_snprintf(full, sizeof(full), "attnc.%s", name);
  PyObject *type =
      PyErr_NewExceptionWithDoc(full, doc, PyExc_RuntimeError, NULL);
  if (type && PyModule_AddObjectRef(module, name, type))
    Py_CLEAR(type);
  return type;
}

int kernel_add_to(PyObject *module) {
  kernel_type =
      (PyTypeObject *)PyType_FromModuleAndSpec(module, &kernel_spec, NULL);
  if (!kernel_type ||
      PyModule_AddObjectRef(module, "Kernel", (PyObject *)kernel_type))
    return -1;
  compile_error = add_error(module, "CompileError",
                            "The compiler refuses what was asked for.");
  jit_forbidden_error =
      add_error(module, "JitForbiddenError",
                "ATTNC_JIT=forbid, and the program is not in the cache.");
  if (!compile_error || !jit_forbidden_error)
    return -1;
  return PyModule_AddFunctions(module, functions);
}
