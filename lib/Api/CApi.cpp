//===- CApi.cpp - The C interface -----------------------------------------===//

#include "include/attnc/attnc.h"

#include "lib/Api/Session.h"
#include "lib/Program/Program.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringSwitch.h"

#include <cstring>

using namespace attnc;

/// A handle: the program itself belongs to the cache.
struct attnc_program {
  const RunnableProgram *program;
  RequestKey key;
};

static_assert(int(Status::Internal) == ATTNC_INTERNAL &&
              int(Status::JitForbidden) == ATTNC_JIT_FORBIDDEN);
static_assert(ATTNC_WORKSPACE_ALIGNMENT == kWorkspaceAlignment);

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

static std::string &lastError() {
  thread_local std::string message;
  return message;
}

static attnc_status fail(attnc_status status, std::string message) {
  lastError() = std::move(message);
  return status;
}

static attnc_status fail(const Failure &failure) {
  return fail(attnc_status(failure.status), failure.message);
}

static attnc_status failNull(const char *function, const char *argument) {
  return fail(ATTNC_INVALID_ARGUMENT,
              std::string(function) + ": argument '" + argument + "' is null");
}

const char *attnc_last_error(void) { return lastError().c_str(); }

const char *attnc_status_name(attnc_status status) {
  switch (status) {
  case ATTNC_OK:
    return "ok";
  case ATTNC_INVALID_ARGUMENT:
    return "invalid argument";
  case ATTNC_UNSUPPORTED:
    return "unsupported";
  case ATTNC_COMPILE_FAILED:
    return "compile failed";
  case ATTNC_JIT_FORBIDDEN:
    return "jit forbidden";
  case ATTNC_LOAD_FAILED:
    return "load failed";
  case ATTNC_RUN_FAILED:
    return "run failed";
  case ATTNC_INTERNAL:
    return "internal error";
  }
  return "unknown status";
}

int attnc_api_version(void) { return ATTNC_API_VERSION; }
const char *attnc_version(void) { return ATTNC_VERSION; }
const char *attnc_compiler_fingerprint(void) { return compilerFingerprint(); }

//===----------------------------------------------------------------------===//
// Programs
//===----------------------------------------------------------------------===//

static std::string textOr(const char *text, const char *otherwise) {
  return text && *text ? text : otherwise;
}

attnc_status attnc_program_from_ir(const char *ir, size_t length,
                                   const attnc_options *options,
                                   attnc_program **program) {
  if (!program)
    return failNull(__func__, "program");
  *program = nullptr;
  if (!ir)
    return failNull(__func__, "ir");
  ProgramRequest request;
  request.ir.assign(ir, length);
  if (options) {
    if (options->struct_size != sizeof(attnc_options))
      return fail(ATTNC_INVALID_ARGUMENT,
                  "attnc_options.struct_size is " +
                      std::to_string(options->struct_size) + ", expected " +
                      std::to_string(sizeof(attnc_options)) +
                      "; set it to sizeof(attnc_options), and compile against "
                      "the header of this library");
    request.target = textOr(options->target, "cpu");
    request.schedule = textOr(options->schedule, "");
    request.cpu = textOr(options->cpu, "");
    request.features = textOr(options->features, "");
  }
  auto handle = std::make_unique<attnc_program>();
  auto found = Session::instance().get(request, handle->key);
  if (!found)
    return fail(found.failure());
  handle->program = *found;
  *program = handle.release();
  return ATTNC_OK;
}

void attnc_program_release(attnc_program *program) { delete program; }

const char *attnc_program_key(const attnc_program *program) {
  return program ? program->key.text().c_str() : "";
}

static attnc_dtype dtypeOf(const ParameterInfo &info) {
  if (info.kind != ParameterInfo::Kind::Tensor)
    return ATTNC_DTYPE_NONE;
  return llvm::StringSwitch<attnc_dtype>(info.elementType)
      .Case("f32", ATTNC_DTYPE_F32)
      .Case("f16", ATTNC_DTYPE_F16)
      .Case("bf16", ATTNC_DTYPE_BF16)
      .Case("i32", ATTNC_DTYPE_I32)
      .Case("i1", ATTNC_DTYPE_BOOL)
      .Default(ATTNC_DTYPE_OTHER);
}

static const char *nameOf(attnc_dtype dtype) {
  static const char *const names[] = {"none", "f32",  "f16",  "bf16",
                                      "i32",  "bool", "other"};
  return dtype >= ATTNC_DTYPE_NONE && dtype <= ATTNC_DTYPE_OTHER ? names[dtype]
                                                                 : "unknown";
}

size_t attnc_program_argument_count(const attnc_program *program) {
  return program ? program->program->parameters().size() : 0;
}

attnc_status attnc_program_argument_info(const attnc_program *program,
                                         size_t index,
                                         attnc_argument_info *info) {
  if (!program)
    return failNull(__func__, "program");
  if (!info)
    return failNull(__func__, "info");
  auto &parameters = program->program->parameters();
  if (index >= parameters.size())
    return fail(ATTNC_INVALID_ARGUMENT,
                "argument index is " + std::to_string(index) +
                    "; the program takes " + std::to_string(parameters.size()) +
                    " arguments");
  const ParameterInfo &parameter = parameters[index];
  if (parameter.sizes.size() > ATTNC_MAX_RANK)
    return fail(ATTNC_UNSUPPORTED,
                "argument '" + parameter.name + "' has more than 8 dims");
  *info = {};
  info->name = parameter.name.c_str();
  info->kind = attnc_kind(parameter.kind);
  info->dtype = dtypeOf(parameter);
  info->rank = int32_t(parameter.sizes.size());
  info->is_result = parameter.isResult;
  llvm::copy(parameter.sizes, info->sizes);
  return ATTNC_OK;
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

/// What planProgram cannot see: element types and null arrays.
static attnc_status convertTensor(const ParameterInfo &parameter,
                                  const attnc_tensor &tensor, Argument &out) {
  auto reject = [&](const std::string &what) {
    return fail(ATTNC_INVALID_ARGUMENT,
                "argument '" + parameter.name + "': " + what);
  };
  attnc_dtype expected = dtypeOf(parameter);
  if (tensor.dtype != expected)
    return reject(std::string("expected elements of ") + nameOf(expected) +
                  ", got " + nameOf(tensor.dtype));
  if (tensor.rank < 0 || tensor.rank > ATTNC_MAX_RANK)
    return reject("expected a tensor of rank " +
                  std::to_string(parameter.sizes.size()) + ", got rank " +
                  std::to_string(tensor.rank));
  if (tensor.rank && (!tensor.sizes || !tensor.strides))
    return reject(std::string(tensor.sizes ? "strides" : "sizes") +
                  " is null; expected " + std::to_string(tensor.rank) +
                  " numbers");
  ViewArgument view;
  view.data = tensor.data;
  view.sizes.assign(tensor.sizes, tensor.sizes + tensor.rank);
  view.strides.assign(tensor.strides, tensor.strides + tensor.rank);
  out = std::move(view);
  return ATTNC_OK;
}

static attnc_status convert(const attnc_program &program,
                            const attnc_argument *arguments, size_t count,
                            llvm::SmallVectorImpl<Argument> &out) {
  auto &parameters = program.program->parameters();
  if (count != parameters.size() || (count && !arguments)) {
    std::string names;
    for (const ParameterInfo &parameter : parameters)
      names += (names.empty() ? "" : ", ") + parameter.name;
    return fail(ATTNC_INVALID_ARGUMENT,
                "the program takes " + std::to_string(parameters.size()) +
                    " arguments (" + names + "), got " +
                    (arguments ? std::to_string(count) : "null"));
  }
  for (size_t k = 0; k < count; ++k) {
    Argument &added = out.emplace_back();
    const attnc_argument &given = arguments[k];
    if (given.kind != attnc_kind(parameters[k].kind)) {
      static const char *const names[] = {"a tensor", "an f32", "an i32"};
      bool known = given.kind >= ATTNC_TENSOR && given.kind <= ATTNC_I32;
      return fail(ATTNC_INVALID_ARGUMENT,
                  "argument '" + parameters[k].name + "': expected " +
                      names[int(parameters[k].kind)] + ", got " +
                      (known ? names[given.kind] : "an unknown kind"));
    }
    if (given.kind == ATTNC_F32)
      added = given.as.f32;
    else if (given.kind == ATTNC_I32)
      added = given.as.i32;
    else if (auto status = convertTensor(parameters[k], given.as.tensor, added))
      return status;
  }
  return ATTNC_OK;
}

attnc_status attnc_program_workspace_size(const attnc_program *program,
                                          const attnc_argument *arguments,
                                          size_t count, size_t *bytes) {
  if (!program)
    return failNull(__func__, "program");
  if (!bytes)
    return failNull(__func__, "bytes");
  llvm::SmallVector<Argument, 8> converted;
  if (auto status = convert(*program, arguments, count, converted))
    return status;
  auto size = program->program->cpuProgram().workspaceBytes(converted);
  if (!size)
    return fail(ATTNC_INVALID_ARGUMENT, llvm::toString(size.takeError()));
  *bytes = size_t(*size);
  return ATTNC_OK;
}

attnc_status attnc_program_run(const attnc_program *program,
                               const attnc_argument *arguments, size_t count,
                               void *workspace, size_t workspace_bytes,
                               void *stream) {
  if (!program)
    return failNull(__func__, "program");
  if (stream)
    return fail(ATTNC_INVALID_ARGUMENT,
                "argument 'stream': expected null for target 'cpu', got a "
                "stream");
  llvm::SmallVector<Argument, 8> converted;
  if (auto status = convert(*program, arguments, count, converted))
    return status;
  if (llvm::Error error = program->program->cpuProgram().run(
          converted, workspace, int64_t(workspace_bytes)))
    return fail(ATTNC_INVALID_ARGUMENT, llvm::toString(std::move(error)));
  return ATTNC_OK;
}

//===----------------------------------------------------------------------===//
// What happened
//===----------------------------------------------------------------------===//

attnc_status attnc_get_counters(attnc_counters *counters) {
  if (!counters)
    return failNull(__func__, "counters");
  if (counters->struct_size != sizeof(attnc_counters))
    return fail(ATTNC_INVALID_ARGUMENT,
                "attnc_counters.struct_size is " +
                    std::to_string(counters->struct_size) + ", expected " +
                    std::to_string(sizeof(attnc_counters)));
  auto current = Session::instance().kernelCache().counters();
  counters->memory_hits = current.memoryHits;
  counters->disk_hits = current.diskHits;
  counters->compiles = current.compiles;
  counters->waits = current.waits;
  return ATTNC_OK;
}

namespace {
/// A registered callback. Never freed: another thread may be calling it.
struct Listener {
  attnc_event_callback callback;
  void *context;
};
} // namespace

void attnc_set_event_callback(attnc_event_callback callback, void *context) {
  EventSink &events = Session::instance().kernelCache().eventSink();
  if (!callback)
    return events.setCallback(nullptr, nullptr);
  events.setCallback(
      [](const Event &event, void *listener) {
        auto *found = static_cast<Listener *>(listener);
        found->callback(toJson(event).c_str(), found->context);
      },
      new Listener{callback, context});
}
