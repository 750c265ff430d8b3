/*===- module.c - The extension module attnc._attnc -----------------------===*/

#include "kernel.h"
#include "xla.h"

#include <stdlib.h>
#include <string.h>

/*---- Library ---------------------------------------------------------------*/

static PyObject *versions(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return Py_BuildValue("(siis)", attnc_version(), attnc_api_version(),
                       ATTNC_API_VERSION, attnc_compiler_fingerprint());
}

static PyObject *counters(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  attnc_counters counters;
  memset(&counters, 0, sizeof(counters));
  counters.struct_size = sizeof(counters);
  attnc_status status = attnc_get_counters(&counters);
  if (status)
    return raise_status(status), NULL;
  return Py_BuildValue("{sKsKsKsK}", "memory_hits",
                       (unsigned long long)counters.memory_hits, "disk_hits",
                       (unsigned long long)counters.disk_hits, "compiles",
                       (unsigned long long)counters.compiles, "waits",
                       (unsigned long long)counters.waits);
}

static PyObject *emit(PyObject *module, PyObject *arguments) {
  (void)module;
  const char *ir, *phase, *target, *schedule;
  Py_ssize_t length;
  if (!PyArg_ParseTuple(arguments, "s#sss", &ir, &length, &phase, &target,
                        &schedule))
    return NULL;
  attnc_options options;
  memset(&options, 0, sizeof(options));
  options.struct_size = sizeof(options);
  options.target = target;
  options.schedule = schedule;
  size_t size = 0, capacity = 1 << 16;
  char *text = NULL;
  attnc_status status;
  /* Compiled again if it was longer than thought. */
  do {
    capacity = size + 1 > capacity ? size + 1 : capacity;
    char *grown = realloc(text, capacity);
    if (!grown) {
      free(text);
      return PyErr_NoMemory();
    }
    text = grown;
    PyThreadState *thread = PyEval_SaveThread();
    status =
        attnc_emit(ir, (size_t)length, &options, phase, text, capacity, &size);
    PyEval_RestoreThread(thread);
  } while (!status && size >= capacity);
  PyObject *result = NULL;
  if (status)
    raise_status(status);
  else if (!strcmp(phase, "cubin"))
    result = PyBytes_FromStringAndSize(text, (Py_ssize_t)size);
  else
    result = PyUnicode_FromStringAndSize(text, (Py_ssize_t)size);
  free(text);
  return result;
}

/*---- Events ----------------------------------------------------------------*/

/* Never freed: a thread may be about to call it. */
static PyObject *listener;

/* Called without the interpreter's lock, by whichever thread compiles. */
static void on_event(const char *json, void *context) {
  (void)context;
  if (!Py_IsInitialized())
    return;
  PyGILState_STATE state = PyGILState_Ensure();
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject *result = PyObject_CallFunction(listener, "s", json);
  if (!result)
    PyErr_WriteUnraisable(listener);
  Py_XDECREF(result);
  PyErr_Restore(type, value, traceback);
  PyGILState_Release(state);
}

static PyObject *set_listener(PyObject *module, PyObject *callable) {
  (void)module;
  Py_INCREF(callable);
  listener = callable;
  attnc_set_event_callback(on_event, NULL);
  Py_RETURN_NONE;
}

/*---- The module ------------------------------------------------------------*/

static PyMethodDef methods[] = {
    {"versions", versions, METH_NOARGS,
     "(version, API version, API version built for, compiler fingerprint)"},
    {"counters", counters, METH_NOARGS, "What happened so far in the process."},
    {"emit", emit, METH_VARARGS,
     "emit(ir, phase, target, schedule): what a compile has made by then, "
     "bytes for cubin, else text."},
    {"set_listener", set_listener, METH_O,
     "Has each event passed to a callable, as a line of JSON."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        "_attnc",
                                        "attnc's C interface, for arrays.",
                                        -1,
                                        methods,
                                        NULL,
                                        NULL,
                                        NULL,
                                        NULL};

PyMODINIT_FUNC PyInit__attnc(void);
PyMODINIT_FUNC PyInit__attnc(void) {
  PyObject *module = PyModule_Create(&definition);
  if (module && (kernel_add_to(module) || xla_add_to(module)))
    Py_CLEAR(module);
  return module;
}
