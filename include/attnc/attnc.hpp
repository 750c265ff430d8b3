//===- attnc.hpp - The C++ interface of attnc, over attnc.h -----*- C++ -*-===//
//
// Header-only, C++17, no exceptions needed: what can fail returns a Status,
// whose message names the argument, what was expected, got, and what to try.
//
//   attnc::Program program;
//   if (attnc::Status status = attnc::Program::fromIr(ir, program); !status)
//     die(status.message());
//   program.run({attnc::Tensor::contiguous(q, {1, 8, 512, 64}), ..., bias});
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_ATTNC_HPP
#define ATTNC_ATTNC_HPP

#include "attnc.h"

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace attnc {
inline namespace api {

/// Success, or what went wrong. Converts to true on success.
class [[nodiscard]] Status {
public:
  Status() = default;
  /// Takes the message of the call that just failed in this thread.
  explicit Status(attnc_status code)
      : statusCode(code), text(code ? attnc_last_error() : "") {}

  explicit operator bool() const { return statusCode == ATTNC_OK; }
  attnc_status code() const { return statusCode; }
  const std::string &message() const { return text; }

private:
  attnc_status statusCode = ATTNC_OK;
  std::string text;
};

/// The dtype of a C++ type. Types for f16, bf16 differ between libraries:
/// specialise it for yours.
template <typename T> struct DtypeOf;
template <> struct DtypeOf<float> {
  static constexpr attnc_dtype value = ATTNC_DTYPE_F32;
};
template <> struct DtypeOf<int32_t> {
  static constexpr attnc_dtype value = ATTNC_DTYPE_I32;
};
template <> struct DtypeOf<bool> {
  static constexpr attnc_dtype value = ATTNC_DTYPE_BOOL;
};

/// A tensor in the caller's memory, dims in logical order, strides in
/// elements.
struct Tensor {
  void *data = nullptr;
  attnc_dtype dtype = ATTNC_DTYPE_F32;
  std::vector<int64_t> sizes, strides;

  /// Row-major memory.
  template <typename T>
  static Tensor
  contiguous(T *data, std::vector<int64_t> sizes,
             attnc_dtype dtype = DtypeOf<std::remove_const_t<T>>::value) {
    Tensor tensor;
    tensor.data = const_cast<std::remove_const_t<T> *>(data);
    tensor.dtype = dtype;
    tensor.strides.resize(sizes.size());
    int64_t stride = 1;
    for (size_t k = sizes.size(); k-- > 0; stride *= sizes[k])
      tensor.strides[k] = stride;
    tensor.sizes = std::move(sizes);
    return tensor;
  }
};

/// One argument of a run: a tensor, a float or an int32_t.
class Argument {
public:
  Argument(Tensor given) : tensor(std::move(given)) { raw.kind = ATTNC_TENSOR; }
  Argument(float value) {
    raw.kind = ATTNC_F32;
    raw.as.f32 = value;
  }
  Argument(int32_t value) {
    raw.kind = ATTNC_I32;
    raw.as.i32 = value;
  }

  /// Points into this object.
  attnc_argument get() const {
    attnc_argument result = raw;
    if (raw.kind == ATTNC_TENSOR)
      result.as.tensor = {tensor.data, tensor.dtype,
                          int32_t(tensor.sizes.size()), tensor.sizes.data(),
                          tensor.strides.data()};
    return result;
  }

private:
  attnc_argument raw{};
  Tensor tensor;
};

struct Options {
  std::string target = "cpu", schedule, cpu, features;
  /// The GPU that the null stream is of.
  int device = 0;
  bool anyLayout = false;
  std::string policy;

  /// Points into this object.
  attnc_options get() const {
    attnc_options raw{};
    raw.struct_size = sizeof(raw);
    raw.target = target.c_str();
    raw.schedule = schedule.c_str();
    raw.cpu = cpu.c_str();
    raw.features = features.c_str();
    raw.device = device;
    raw.any_layout = anyLayout;
    raw.policy = policy.c_str();
    return raw;
  }
};

/// A description with nothing asked for yet.
inline attnc_attention attention(const char *score = nullptr) {
  attnc_attention raw{};
  raw.struct_size = sizeof(raw);
  raw.score = score;
  return raw;
}

/// A compiled program. Moves, does not copy.
class Program {
public:
  static Status fromIr(std::string_view ir, Program &program,
                       const Options &options = {}) {
    attnc_options raw = options.get();
    attnc_program *handle = nullptr;
    attnc_status code =
        attnc_program_from_ir(ir.data(), ir.size(), &raw, &handle);
    program.handle.reset(handle);
    return Status(code);
  }

  static Status fromAttention(const attnc_attention &attention,
                              Program &program, const Options &options = {}) {
    attnc_options raw = options.get();
    attnc_program *handle = nullptr;
    attnc_status code = attnc_program_from_attention(&attention, &raw, &handle);
    program.handle.reset(handle);
    return Status(code);
  }

  explicit operator bool() const { return bool(handle); }
  attnc_program *get() const { return handle.get(); }
  std::string key() const { return attnc_program_key(get()); }

  /// The parameters, in the order that run takes them.
  std::vector<attnc_argument_info> parameters() const {
    std::vector<attnc_argument_info> infos(attnc_program_argument_count(get()));
    for (size_t k = 0; k < infos.size(); ++k)
      if (attnc_program_argument_info(get(), k, &infos[k]))
        return {};
    return infos;
  }

  Status workspaceSize(const std::vector<Argument> &arguments,
                       size_t &bytes) const {
    auto raw = convert(arguments);
    return Status(
        attnc_program_workspace_size(get(), raw.data(), raw.size(), &bytes));
  }

  std::string target() const { return attnc_program_target(get()); }

  /// Makes the next run cheap and fit for capture into a CUDA graph.
  Status warmUp() const { return Status(attnc_program_warm_up(get())); }

  /// With memory of the caller's, which nothing else uses meanwhile; on a GPU
  /// put on a stream.
  Status run(const std::vector<Argument> &arguments, void *workspace,
             size_t bytes, void *stream = nullptr) const {
    auto raw = convert(arguments);
    return Status(attnc_program_run(get(), raw.data(), raw.size(), workspace,
                                    bytes, stream));
  }

  /// On the CPU: allocates the workspace for this one run.
  Status run(const std::vector<Argument> &arguments) const {
    size_t bytes = 0;
    if (Status status = workspaceSize(arguments, bytes); !status)
      return status;
    struct Free {
      void operator()(void *memory) const { std::free(memory); }
    };
    constexpr size_t alignment = ATTNC_WORKSPACE_ALIGNMENT;
    std::unique_ptr<void, Free> workspace;
    if (bytes)
      workspace.reset(std::aligned_alloc(alignment, (bytes + alignment - 1) /
                                                        alignment * alignment));
    return run(arguments, workspace.get(), workspace ? bytes : 0);
  }

private:
  static std::vector<attnc_argument>
  convert(const std::vector<Argument> &arguments) {
    std::vector<attnc_argument> raw;
    raw.reserve(arguments.size());
    for (const Argument &argument : arguments)
      raw.push_back(argument.get());
    return raw;
  }

  struct Release {
    void operator()(attnc_program *program) const {
      attnc_program_release(program);
    }
  };
  std::unique_ptr<attnc_program, Release> handle;
};

} // namespace api
} // namespace attnc

#endif // ATTNC_ATTNC_HPP
