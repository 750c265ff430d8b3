/*===- array.c - Arrays of every library as views -------------------------===*/

#include "array.h"

#include <string.h>

static attnc_dtype dtype_of(dl_dtype type) {
  if (type.lanes != 1)
    return ATTNC_DTYPE_OTHER;
  switch (type.code << 8 | type.bits) {
  case DL_FLOAT << 8 | 32:
    return ATTNC_DTYPE_F32;
  case DL_FLOAT << 8 | 16:
    return ATTNC_DTYPE_F16;
  case DL_BFLOAT << 8 | 16:
    return ATTNC_DTYPE_BF16;
  case DL_INT << 8 | 32:
    return ATTNC_DTYPE_I32;
  case DL_BOOL << 8 | 8:
    return ATTNC_DTYPE_BOOL;
  }
  return ATTNC_DTYPE_OTHER;
}

static dl_dtype dl_dtype_of(attnc_dtype dtype) {
  dl_dtype type = {DL_FLOAT, 32, 1};
  if (dtype == ATTNC_DTYPE_F16 || dtype == ATTNC_DTYPE_BF16)
    type.bits = 16;
  if (dtype == ATTNC_DTYPE_BF16)
    type.code = DL_BFLOAT;
  if (dtype == ATTNC_DTYPE_I32)
    type.code = DL_INT;
  if (dtype == ATTNC_DTYPE_BOOL)
    type.code = DL_BOOL, type.bits = 8;
  return type;
}

static int too_many_dims(int rank) {
  PyErr_Format(PyExc_ValueError,
               "expected an array of at most %d dims, got %d dims",
               ATTNC_MAX_RANK, rank);
  return -1;
}

static int from_dl(const dl_tensor *tensor, array_view *view) {
  if (tensor->ndim > ATTNC_MAX_RANK)
    return too_many_dims(tensor->ndim);
  view->data = (char *)tensor->data + tensor->byte_offset;
  view->dtype = dtype_of(tensor->dtype);
  view->device = tensor->device;
  view->rank = tensor->ndim;
  int64_t dense = 1;
  for (int k = tensor->ndim; k-- > 0;) {
    view->sizes[k] = tensor->shape[k];
    view->strides[k] = tensor->strides ? tensor->strides[k] : dense;
    dense *= tensor->shape[k];
  }
  return 1;
}

/*---- Types with an exchange table ------------------------------------------*/

/* Types live as long as their libraries; the few that occur are kept alive. */
enum { KNOWN_TYPES = 16 };
static struct {
  PyTypeObject *type;
  const dl_exchange *exchange;
} known[KNOWN_TYPES];
static int known_count;

static const dl_exchange *find_exchange(PyTypeObject *type) {
  PyObject *capsule =
      PyObject_GetAttrString((PyObject *)type, "__dlpack_c_exchange_api__");
  if (!capsule) {
    PyErr_Clear();
    return NULL;
  }
  const dl_exchange *found =
      PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  PyErr_Clear();
  while (found && found->version.major != 1)
    found = found->previous;
  /* The table lives as long as the process; the capsule may go. */
  Py_DECREF(capsule);
  return found && found->view ? found : NULL;
}

const dl_exchange *array_exchange(PyTypeObject *type) {
  for (int k = 0; k < known_count; ++k)
    if (known[k].type == type)
      return known[k].exchange;
  const dl_exchange *found = find_exchange(type);
  if (known_count < KNOWN_TYPES) {
    Py_INCREF((PyObject *)type);
    known[known_count].type = type;
    known[known_count++].exchange = found;
  }
  return found;
}

/*---- __array_interface__ ---------------------------------------------------*/

/* The element type behind `typestr`; ml_dtypes' bfloat16 is an opaque "V2". */
static attnc_dtype typestr_dtype(PyObject *object, const char *typestr) {
  if (!strcmp(typestr, "<f4"))
    return ATTNC_DTYPE_F32;
  if (!strcmp(typestr, "<f2"))
    return ATTNC_DTYPE_F16;
  if (!strcmp(typestr, "<i4"))
    return ATTNC_DTYPE_I32;
  if (!strcmp(typestr, "|b1"))
    return ATTNC_DTYPE_BOOL;
  if (strcmp(typestr + 1, "V2"))
    return ATTNC_DTYPE_OTHER;
  attnc_dtype found = ATTNC_DTYPE_OTHER;
  PyObject *dtype = PyObject_GetAttrString(object, "dtype");
  PyObject *name = dtype ? PyObject_GetAttrString(dtype, "name") : NULL;
  if (name && PyUnicode_Check(name) &&
      !PyUnicode_CompareWithASCIIString(name, "bfloat16"))
    found = ATTNC_DTYPE_BF16;
  Py_XDECREF(name);
  Py_XDECREF(dtype);
  PyErr_Clear();
  return found;
}

/* Reads a tuple of integers, divided by `unit`. */
static int read_integers(PyObject *tuple, int64_t unit, int64_t *out) {
  Py_ssize_t count = PyTuple_Size(tuple);
  if (count < 0)
    return -1;
  if (count > ATTNC_MAX_RANK)
    return too_many_dims((int)count);
  for (Py_ssize_t k = 0; k < count; ++k) {
    int64_t value = PyLong_AsLongLong(PyTuple_GetItem(tuple, k));
    if (value == -1 && PyErr_Occurred())
      return -1;
    if (value % unit) {
      PyErr_SetString(PyExc_ValueError,
                      "expected strides that are whole elements; pass a copy");
      return -1;
    }
    out[k] = value / unit;
  }
  return (int)count;
}

static int item_size(const char *typestr) {
  int size = 0;
  for (const char *at = typestr + 2; *at >= '0' && *at <= '9'; ++at)
    size = size * 10 + (*at - '0');
  return size ? size : 1;
}

static int read_interface(PyObject *object, PyObject *interface,
                          array_view *view) {
  PyObject *typestr = PyDict_GetItemString(interface, "typestr");
  PyObject *shape = PyDict_GetItemString(interface, "shape");
  PyObject *strides = PyDict_GetItemString(interface, "strides");
  PyObject *data = PyDict_GetItemString(interface, "data");
  const char *type = typestr ? PyUnicode_AsUTF8AndSize(typestr, NULL) : NULL;
  if (!type || strlen(type) < 3 || !shape || !data || !PyTuple_Check(data)) {
    PyErr_Clear();
    return 0;
  }
  view->data = PyLong_AsVoidPtr(PyTuple_GetItem(data, 0));
  view->dtype = typestr_dtype(object, type);
  view->device.type = DL_CPU;
  if ((view->rank = read_integers(shape, 1, view->sizes)) < 0)
    return -1;
  if (strides && strides != Py_None)
    return read_integers(strides, item_size(type), view->strides) < 0 ? -1 : 1;
  int64_t dense = 1;
  for (int k = view->rank; k-- > 0; dense *= view->sizes[k])
    view->strides[k] = dense;
  return PyErr_Occurred() ? -1 : 1;
}

static int from_interface(PyObject *object, array_view *view) {
  PyObject *interface = PyObject_GetAttrString(object, "__array_interface__");
  if (!interface || !PyDict_Check(interface)) {
    Py_XDECREF(interface);
    PyErr_Clear();
    return 0;
  }
  int result = read_interface(object, interface, view);
  Py_DECREF(interface);
  return result;
}

/*---- __dlpack__ ------------------------------------------------------------*/

static void close_capsule(void *capsule) { Py_DECREF((PyObject *)capsule); }

static int from_dlpack(PyObject *object, array_view *view) {
  PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
  if (!method) {
    PyErr_Clear();
    return 0;
  }
  PyObject *capsule = PyObject_CallNoArgs(method);
  Py_DECREF(method);
  if (!capsule)
    return -1;
  /* Not renamed to "used": the capsule itself frees the tensor, when closed. */
  dl_managed *managed = PyCapsule_GetPointer(capsule, "dltensor");
  if (!managed || from_dl(&managed->tensor, view) < 0) {
    Py_DECREF(capsule);
    return -1;
  }
  view->owner = capsule;
  view->close = close_capsule;
  return 1;
}

/*---- Interface -------------------------------------------------------------*/

/* torch's imaginary parts of conjugates are negated when they are read, which
 * no table tells. They are never dense. 1: so; -1: an exception. */
static int is_negated(PyObject *object, const array_view *view) {
  if (!view->rank || view->strides[view->rank - 1] == 1)
    return 0;
  PyObject *found = PyObject_CallMethod(object, "is_neg", NULL);
  if (!found) {
    PyErr_Clear();
    return 0;
  }
  int negated = PyObject_IsTrue(found);
  Py_DECREF(found);
  return negated;
}

int array_open(PyObject *object, array_view *view) {
  view->close = NULL;
  view->device.id = 0;
  view->exchange = array_exchange(Py_TYPE(object));
  if (view->exchange) {
    dl_tensor tensor;
    if (view->exchange->view(object, &tensor) || from_dl(&tensor, view) < 0)
      return -1;
    int negated = is_negated(object, view);
    return negated > 0 ? 0 : negated < 0 ? -1 : 1;
  }
  int found = from_interface(object, view);
  return found ? found : from_dlpack(object, view);
}

void array_close(array_view *view) {
  if (view->close)
    view->close(view->owner);
  view->close = NULL;
}

static void set_error(void *context, const char *kind, const char *message) {
  (void)context;
  PyGILState_STATE state = PyGILState_Ensure();
  PyErr_Format(PyExc_RuntimeError, "%s: %s", kind, message);
  PyGILState_Release(state);
}

PyObject *array_new(const dl_exchange *exchange, dl_device device,
                    attnc_dtype dtype, int rank, const int64_t *sizes,
                    array_view *view) {
  dl_tensor prototype = {
      NULL, device, rank, dl_dtype_of(dtype), (int64_t *)sizes, NULL, 0};
  dl_managed_versioned *managed = NULL;
  if (exchange->allocate(&prototype, &managed, NULL, set_error)) {
    if (!PyErr_Occurred())
      PyErr_NoMemory();
    return NULL;
  }
  view->close = NULL;
  if (from_dl(&managed->tensor, view) < 0)
    return NULL;
  void *object = NULL;
  if (exchange->import_owned(managed, &object))
    return NULL;
  return object;
}
