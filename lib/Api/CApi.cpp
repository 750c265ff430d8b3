//===- CApi.cpp - The C interface -----------------------------------------===//

#include "include/attnc/attnc.h"

#include "lib/Api/Policy.h"
#include "lib/Environment/Environment.h"
#include "lib/Frontend/Attention.h"
#include "lib/Program/PlanCode.h"
#include "lib/Support/StatusError.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringSwitch.h"

#include <cstring>

using namespace attnc;

/// A handle: the program itself belongs to the cache.
struct attnc_program {
  const RunnableProgram *program;
  RequestKey key;
  int device;
  /// For the sizes that were described, if that is faster; calls with other
  /// sizes go to `program`.
  std::atomic<const RunnableProgram *> exact{nullptr};
  /// Of policy auto: what a warm-up decides on.
  std::unique_ptr<std::pair<ProgramRequest, AttentionDescription>> described;
};

static_assert(int(Status::Internal) == ATTNC_INTERNAL &&
              int(Status::Cold) == ATTNC_COLD &&
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
  case ATTNC_COLD:
    return "cold";
  }
  return "unknown status";
}

int attnc_api_version(void) { return ATTNC_API_VERSION; }
const char *attnc_version(void) { return ATTNC_VERSION; }
const char *attnc_compiler_fingerprint(void) { return compilerFingerprint(); }

//===----------------------------------------------------------------------===//
// Programs
//===----------------------------------------------------------------------===//

static const char *nameOf(attnc_dtype dtype) {
  static const char *const names[] = {"none", "f32",  "f16",  "bf16",
                                      "i32",  "bool", "other"};
  return dtype >= ATTNC_DTYPE_NONE && dtype <= ATTNC_DTYPE_OTHER ? names[dtype]
                                                                 : "unknown";
}

static std::string textOr(const char *text, const char *otherwise) {
  return text && *text ? text : otherwise;
}

/// Copies a caller's structure, which may be shorter than ours: what it does
/// not have is zero.
template <typename T>
static attnc_status readStruct(const char *name, const T *given, T &out) {
  out = T{};
  if (!given)
    return ATTNC_OK;
  size_t size = given->struct_size;
  if (size < 2 * sizeof(size_t) || size > sizeof(T))
    return fail(ATTNC_INVALID_ARGUMENT,
                std::string(name) + ".struct_size is " + std::to_string(size) +
                    ", expected " + std::to_string(sizeof(T)) +
                    "; set it to sizeof(" + name +
                    "), and compile against the header of this library");
  std::memcpy(&out, given, size);
  return ATTNC_OK;
}

namespace {
/// attnc_options in our types.
struct Options {
  ProgramRequest request;
  int device = 0;
  Policy policy = Policy::Dynamic;
};
} // namespace

static attnc_status readOptions(const attnc_options *given, Options &out) {
  attnc_options options;
  if (auto status = readStruct("attnc_options", given, options))
    return status;
  out.device = options.device;
  auto target = resolveTarget(textOr(options.target, "cpu"), options.device);
  if (!target)
    return fail(target.failure());
  out.request.target = *target;
  out.request.schedule = textOr(options.schedule, "");
  out.request.cpu = textOr(options.cpu, "");
  out.request.features = textOr(options.features, "");
  out.request.anyLayout = options.any_layout != 0;
  std::string policy = textOr(options.policy, "dynamic");
  if (policy == "exact")
    out.policy = Policy::Exact;
  else if (policy == "auto" &&
           environment(Variable::Deterministic).value_or("0") != "0")
    return fail(ATTNC_UNSUPPORTED,
                "attnc_options.policy is 'auto', which chooses by measuring; "
                "ATTNC_DETERMINISTIC is set: use dynamic or exact");
  else if (policy == "auto")
    out.policy = Policy::Auto;
  else if (policy != "dynamic")
    return fail(ATTNC_INVALID_ARGUMENT,
                "attnc_options.policy is '" + policy +
                    "'; expected dynamic, exact or auto");
  return ATTNC_OK;
}

/// The words of a request that options add to what is asked for. Scalars and
/// lengths are not among them.
static std::string wordsOf(const Options &options) {
  const ProgramRequest &request = options.request;
  std::string words = request.target;
  for (const std::string *part :
       {&request.schedule, &request.cpu, &request.features})
    words += '\n' + *part;
  words += '\n';
  words += char('0' + request.anyLayout);
  words += '\n';
  return words;
}

/// Hands out a handle for what was asked in these words; `complete` fills in
/// the rest of the request when they are new.
template <typename Complete>
static attnc_status getProgram(const std::string &words, Options &options,
                               Complete complete,
                               std::unique_ptr<attnc_program> &handle) {
  Session &session = Session::instance();
  RequestKey wordsKey(words);
  handle = std::make_unique<attnc_program>();
  handle->device = options.device;
  handle->program = session.recall(wordsKey, handle->key);
  if (!handle->program) {
    if (auto status = complete(options.request))
      return status;
    auto found = session.get(options.request, handle->key);
    if (!found)
      return fail(found.failure());
    handle->program = *found;
    session.remember(wordsKey, handle->key);
  }
  return ATTNC_OK;
}

attnc_status attnc_program_from_ir(const char *ir, size_t length,
                                   const attnc_options *options,
                                   attnc_program **program) {
  if (!program)
    return failNull(__func__, "program");
  *program = nullptr;
  if (!ir)
    return failNull(__func__, "ir");
  Options read;
  if (auto status = readOptions(options, read))
    return status;
  std::string words = wordsOf(read);
  words.append(ir, length);
  std::unique_ptr<attnc_program> handle;
  auto status = getProgram(
      words, read,
      [&](ProgramRequest &request) {
        request.ir.assign(ir, length);
        return ATTNC_OK;
      },
      handle);
  if (!status)
    *program = handle.release();
  return status;
}

//===----------------------------------------------------------------------===//
// Descriptions
//===----------------------------------------------------------------------===//

static attnc_status readDtype(const char *name, attnc_dtype dtype,
                              std::string &out) {
  if (dtype == ATTNC_DTYPE_NONE)
    return ATTNC_OK;
  if (dtype < ATTNC_DTYPE_F32 || dtype > ATTNC_DTYPE_BF16)
    return fail(ATTNC_INVALID_ARGUMENT,
                std::string("attnc_attention.") + name + " is " +
                    std::to_string(int(dtype)) +
                    "; expected ATTNC_DTYPE_F32, F16 or BF16");
  out = nameOf(dtype);
  return ATTNC_OK;
}

static attnc_status readAttention(const attnc_attention &read,
                                  AttentionDescription &out) {
  out.score = textOr(read.score, out.score.c_str());
  out.bias = textOr(read.bias, "");
  out.causal = textOr(read.causal, "");
  out.backward = textOr(read.backward, "");
  out.layout = textOr(read.layout, out.layout.c_str());
  llvm::SmallVector<llvm::StringRef> masks;
  llvm::StringRef(read.masks ? read.masks : "").split(masks, ',', -1, false);
  for (llvm::StringRef mask : masks)
    out.masks.push_back(mask.trim().str());
  if (auto status = readDtype("dtype", read.dtype, out.dtype))
    return status;
  if (auto status = readDtype("out_dtype", read.out_dtype, out.outDtype))
    return status;
  auto size = [](int64_t given, std::optional<int64_t> &size) {
    if (given)
      size = given;
  };
  size(read.head_dim, out.headDim);
  size(read.value_head_dim, out.valueHeadDim);
  size(read.batch, out.batch);
  size(read.heads, out.heads);
  size(read.kv_heads, out.kvHeads);
  size(read.seq, out.seq);
  size(read.kv_seq, out.kvSeq);
  if (read.window)
    out.window = "-1,-1";
  out.scale = read.scale;
  out.alibi = read.alibi;
  out.gate = read.gate;
  out.qLen = read.q_len;
  out.kvLen = read.kv_len;
  out.lse = read.lse;
  return ATTNC_OK;
}

/// The words of a description. Lengths are none: a growing length asks for
/// nothing new.
static std::string wordsOf(const attnc_attention &given) {
  std::string words = "attention";
  for (const char *text : {given.score, given.bias, given.causal, given.masks,
                           given.layout, given.backward}) {
    words += '\n';
    words += text ? text : "";
  }
  const int64_t numbers[] = {
      given.dtype, given.out_dtype, given.head_dim, given.value_head_dim,
      given.heads, given.kv_heads,  given.window,   given.scale,
      given.alibi, given.gate,      given.q_len,    given.kv_len,
      given.lse};
  words += '\n';
  words.append(reinterpret_cast<const char *>(numbers), sizeof(numbers));
  return words;
}

static attnc_status writeIr(const AttentionDescription &description,
                            std::string &ir) {
  auto text =
      writeAttention(description, flagsOf(description), "attnc_attention.");
  if (!text)
    return fail(ATTNC_INVALID_ARGUMENT, llvm::toString(text.takeError()));
  ir = std::move(*text);
  return ATTNC_OK;
}

/// The request of the program for any sizes.
static attnc_status describeRequest(const attnc_attention &given,
                                    ProgramRequest &request,
                                    AttentionDescription &description) {
  if (auto status = readAttention(given, description))
    return status;
  AttentionDescription general = withoutSizes(description);
  request.genFlags = flagsOf(general);
  return writeIr(general, request.ir);
}

/// Looks for a program of the described sizes: now, or when warmed up.
static attnc_status applyPolicy(const attnc_attention &given, Options &read,
                                attnc_program &handle) {
  AttentionDescription description;
  if (auto status = describeRequest(given, read.request, description))
    return status;
  if (read.policy == Policy::Auto) {
    handle.described =
        std::make_unique<std::pair<ProgramRequest, AttentionDescription>>(
            read.request, description);
    return ATTNC_OK;
  }
  auto chosen =
      chooseExact(Session::instance(), read.request, description, read.device);
  if (!chosen)
    return fail(chosen.failure());
  handle.exact = *chosen;
  return ATTNC_OK;
}

attnc_status attnc_program_from_attention(const attnc_attention *attention,
                                          const attnc_options *options,
                                          attnc_program **program) {
  if (!program)
    return failNull(__func__, "program");
  *program = nullptr;
  if (!attention)
    return failNull(__func__, "attention");
  attnc_attention given;
  if (auto status = readStruct("attnc_attention", attention, given))
    return status;
  Options read;
  if (auto status = readOptions(options, read))
    return status;
  AttentionDescription description;
  std::unique_ptr<attnc_program> handle;
  auto status = getProgram(
      wordsOf(read) + wordsOf(given), read,
      [&](ProgramRequest &request) {
        return describeRequest(given, request, description);
      },
      handle);
  if (!status && read.policy != Policy::Dynamic)
    status = applyPolicy(given, read, *handle);
  if (status)
    return status;
  *program = handle.release();
  return ATTNC_OK;
}

static void copyText(const std::string &text, char *buffer, size_t capacity,
                     size_t *length) {
  *length = text.size();
  if (!capacity)
    return;
  size_t copied = std::min(text.size(), capacity - 1);
  std::memcpy(buffer, text.data(), copied);
  buffer[copied] = 0;
}

attnc_status attnc_attention_ir(const attnc_attention *attention, char *buffer,
                                size_t capacity, size_t *length) {
  if (!attention)
    return failNull(__func__, "attention");
  if (!length)
    return failNull(__func__, "length");
  if (capacity && !buffer)
    return failNull(__func__, "buffer");
  attnc_attention given;
  if (auto status = readStruct("attnc_attention", attention, given))
    return status;
  AttentionDescription description;
  if (auto status = readAttention(given, description))
    return status;
  std::string ir;
  if (auto status = writeIr(description, ir))
    return status;
  copyText(ir, buffer, capacity, length);
  return ATTNC_OK;
}

attnc_status attnc_emit(const char *ir, size_t ir_length,
                        const attnc_options *options, const char *phase,
                        char *buffer, size_t capacity, size_t *length) {
  if (!ir)
    return failNull(__func__, "ir");
  if (!phase)
    return failNull(__func__, "phase");
  if (!length)
    return failNull(__func__, "length");
  if (capacity && !buffer)
    return failNull(__func__, "buffer");
  Options given;
  if (options)
    if (auto status = readOptions(options, given))
      return status;
  given.request.ir.assign(ir, ir_length);
  Result<std::string> text = emitRequest(given.request, phase);
  if (!text)
    return fail(text.failure());
  copyText(*text, buffer, capacity, length);
  return ATTNC_OK;
}

//===----------------------------------------------------------------------===//
// Handles
//===----------------------------------------------------------------------===//

void attnc_program_release(attnc_program *program) { delete program; }

const char *attnc_program_key(const attnc_program *program) {
  return program ? program->key.text().c_str() : "";
}

const char *attnc_program_target(const attnc_program *program) {
  return program ? program->program->target() : "";
}

attnc_status attnc_program_warm_up(attnc_program *program) {
  if (!program)
    return failNull(__func__, "program");
  if (llvm::Error error = program->program->warmUp(program->device))
    return fail(toFailure(Status::LoadFailed, std::move(error)));
  if (program->described) {
    auto &[request, description] = *program->described;
    auto chosen =
        chooseExact(Session::instance(), request, description, program->device);
    if (!chosen)
      return fail(chosen.failure());
    program->exact = *chosen;
  }
  if (const RunnableProgram *exact = program->exact)
    if (llvm::Error error = exact->warmUp(program->device))
      return fail(toFailure(Status::LoadFailed, std::move(error)));
  return ATTNC_OK;
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

/// What PlanCode cannot see: element types and null arrays.
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

static attnc_status convert(const RunnableProgram &program,
                            const attnc_argument *arguments, size_t count,
                            llvm::SmallVectorImpl<Argument> &out) {
  auto &parameters = program.parameters();
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

/// The program that a call goes to. Arguments that make no sense go to the
/// general one, which says so.
static const RunnableProgram &programFor(const attnc_program &program,
                                         const attnc_argument *arguments,
                                         size_t count) {
  const RunnableProgram *exact = program.exact.load(std::memory_order_acquire);
  if (!exact || !arguments || count != exact->parameters().size())
    return *program.program;
  bool suits = fits(*exact, [&](size_t k) -> llvm::ArrayRef<int64_t> {
    const attnc_tensor &tensor = arguments[k].as.tensor;
    if (arguments[k].kind != ATTNC_TENSOR || !tensor.sizes || tensor.rank < 0)
      return {};
    return {tensor.sizes, size_t(tensor.rank)};
  });
  return suits ? *exact : *program.program;
}

attnc_status attnc_program_workspace_size(const attnc_program *program,
                                          const attnc_argument *arguments,
                                          size_t count, size_t *bytes) {
  if (!program)
    return failNull(__func__, "program");
  if (!bytes)
    return failNull(__func__, "bytes");
  llvm::SmallVector<Argument, 8> converted;
  const RunnableProgram &chosen = programFor(*program, arguments, count);
  if (auto status = convert(chosen, arguments, count, converted))
    return status;
  auto size = chosen.workspaceBytes(converted);
  if (!size)
    return fail(ATTNC_INVALID_ARGUMENT, llvm::toString(size.takeError()));
  *bytes = size_t(*size);
  return ATTNC_OK;
}

/// Everything about a call that may differ from the next.
static void addNumbers(const attnc_argument &argument, CallNumbers &numbers) {
  const attnc_tensor &tensor = argument.as.tensor;
  if (argument.kind != ATTNC_TENSOR) {
    uint32_t bits = 0;
    std::memcpy(&bits, &argument.as, sizeof(bits));
    numbers.push_back(uint64_t(argument.kind) << 32 | bits);
    return;
  }
  numbers.push_back(uint64_t(tensor.dtype) << 32 | uint32_t(tensor.rank));
  numbers.push_back(reinterpret_cast<uintptr_t>(tensor.data));
  if (tensor.rank < 0 || tensor.rank > ATTNC_MAX_RANK || !tensor.sizes ||
      !tensor.strides)
    return; // refused when it is converted
  numbers.append(tensor.sizes, tensor.sizes + tensor.rank);
  numbers.append(tensor.strides, tensor.strides + tensor.rank);
}

attnc_status attnc_program_run(const attnc_program *program,
                               const attnc_argument *arguments, size_t count,
                               void *workspace, size_t workspace_bytes,
                               void *stream) {
  if (!program)
    return failNull(__func__, "program");
  const RunnableProgram &chosen = programFor(*program, arguments, count);
  CallNumbers numbers;
  for (uint64_t number : {uint64_t(reinterpret_cast<uintptr_t>(&chosen)),
                          uint64_t(reinterpret_cast<uintptr_t>(workspace)),
                          uint64_t(workspace_bytes), uint64_t(count)})
    numbers.push_back(number);
  if (arguments)
    for (size_t k = 0; k < count; ++k)
      addNumbers(arguments[k], numbers);
  llvm::SmallVector<Argument, 8> converted;
  auto convertAll = [&]() -> llvm::Expected<llvm::ArrayRef<Argument>> {
    if (auto status = convert(chosen, arguments, count, converted))
      return makeStatusError(Status(status), lastError());
    return llvm::ArrayRef<Argument>(converted);
  };
  RunRequest request{numbers,   convertAll,
                     workspace, int64_t(workspace_bytes),
                     stream,    program->device};
  if (llvm::Error error = chosen.run(request))
    return fail(toFailure(Status::InvalidArgument, std::move(error)));
  return ATTNC_OK;
}

attnc_status attnc_load_package(const char *path) {
  if (!path)
    return failNull(__func__, "path");
  if (auto failure = Session::instance().kernelCache().addPackage(path))
    return fail(*failure);
  return ATTNC_OK;
}

//===----------------------------------------------------------------------===//
// What happened
//===----------------------------------------------------------------------===//

attnc_status attnc_get_counters(attnc_counters *counters) {
  if (!counters)
    return failNull(__func__, "counters");
  attnc_counters read;
  if (auto status = readStruct("attnc_counters", counters, read))
    return status;
  auto current = Session::instance().kernelCache().counters();
  read.memory_hits = current.memoryHits;
  read.disk_hits = current.diskHits;
  read.compiles = current.compiles;
  read.waits = current.waits;
  read.package_hits = current.packageHits;
  std::memcpy(counters, &read, read.struct_size);
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
