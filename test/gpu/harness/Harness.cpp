//===- Harness.cpp - Compile and launch from a GPU test's process ---------===//
//
// A shared library for the scripts beside it, which hold the tensors and the
// references: compile IR for this machine's GPU, describe what came out,
// launch it on the caller's stream. Not a public interface.
//
//===----------------------------------------------------------------------===//

#include "lib/Compiler/Compiler.h"
#include "lib/Runtime/Cuda/CudaProgram.h"
#include "lib/Target/NVPTX/CubinStats.h"
#include "lib/Target/NVPTX/Ptx.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/Support/JSON.h"

#include <cstring>
#include <map>

using namespace attnc;

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

/// As harness.py lays it out.
struct PlainArgument {
  int32_t kind; // 0 a view, 1 an f32, 2 an i32
  float real;
  int32_t integer;
  int32_t rank;
  void *data;
  int64_t sizes[8], strides[8];
};

struct Program {
  std::unique_ptr<mlir::MLIRContext> context = makeContext();
  std::unique_ptr<CudaProgram> cuda;
  std::string description;
  /// What it was compiled from, for calls that another schedule is better for.
  std::string text;
  bool anyLayout = false;
  int device = 0;
  std::map<std::string, std::unique_ptr<Program>> others;
};

/// What a compile gave and how long its parts took, in milliseconds.
struct Compiled {
  std::string ptx, image;
  PtxasLog log;
  double toLlvm = 0, toPtx = 0, toCubin = 0;
};

void describeArguments(llvm::json::OStream &json, tile::ProgramOp program) {
  for (auto [index, type] : llvm::enumerate(program.getArgumentTypes()))
    json.object([&, index = index, type = type] {
      json.attribute("name", getArgumentName(program, index));
      json.attribute("result",
                     bool(program.getArgAttr(index, tile::kResultAttr)));
      std::string text;
      llvm::raw_string_ostream(text) << type;
      json.attribute("type", text);
      auto dims =
          program.getArgAttrOfType<mlir::ArrayAttr>(index, tile::kDimsAttr);
      if (!dims)
        return;
      json.attributeArray("dims", [&] {
        for (auto dim : dims.getAsRange<mlir::IntegerAttr>())
          json.value(dim.getInt());
      });
    });
}

/// IR that holds kernels of the LLVM dialect already is taken as it is.
bool isLowered(mlir::ModuleOp module) {
  return llvm::any_of(
      module.getOps<mlir::LLVM::LLVMFuncOp>(),
      [](auto function) { return function->hasAttr(kKernelAttr); });
}

/// All the way, with plainer schedules where the assembler asks for them.
llvm::Error compileAll(Artifact &artifact, const CompileOptions &options,
                       Compiled &out) {
  auto observe = [&](const PhaseStep &step, const Artifact &at,
                     double seconds) -> llvm::Error {
    if (step.phase == Phase::PTX)
      out.ptx = at.text;
    double &sum = step.phase == Phase::PTX     ? out.toPtx
                  : step.phase == Phase::Cubin ? out.toCubin
                                               : out.toLlvm;
    sum += seconds * 1e3;
    return llvm::Error::success();
  };
  if (llvm::Error error = compile(artifact, options, Phase::Cubin, observe))
    return error;
  out.image = artifact.text;
  out.log = parsePtxasLog(artifact.assemblerLog);
  return llvm::Error::success();
}

llvm::Error compileLowered(Artifact &artifact, Compiled &out) {
  auto ptx = compileToPtx(*artifact.module);
  if (!ptx)
    return ptx.takeError();
  auto cubin = assemble(*ptx);
  if (!cubin)
    return cubin.takeError();
  out = {std::move(*ptx), std::move(cubin->image), std::move(cubin->log)};
  return llvm::Error::success();
}

llvm::Error build(Program &result, llvm::StringRef text,
                  llvm::StringRef schedule, bool anyLayout, int device) {
  result.text = text.str();
  result.anyLayout = anyLayout;
  result.device = device;
  CompileOptions options;
  options.target = Target::SM90a;
  options.schedule = schedule.str();
  options.anyLayout = anyLayout;
  auto artifact = parseArtifact(text, "input", *result.context, options);
  if (!artifact)
    return artifact.takeError();
  if (!artifact->module)
    return llvm::createStringError("the harness takes MLIR only");
  Compiled compiled;
  if (llvm::Error error = isLowered(*artifact->module)
                              ? compileLowered(*artifact, compiled)
                              : compileAll(*artifact, options, compiled))
    return error;
  auto driver = CudaDriver::get();
  if (!driver)
    return driver.takeError();
  auto loaded =
      CudaProgram::load(**driver, *artifact->module, compiled.image, device);
  if (!loaded)
    return loaded.takeError();
  result.cuda = std::move(*loaded);
  auto code = readCubin(compiled.image);
  if (!code)
    return code.takeError();

  llvm::raw_string_ostream stream(result.description);
  llvm::json::OStream json(stream);
  json.object([&] {
    json.attributeArray("arguments", [&] {
      for (auto program : artifact->module->getOps<tile::ProgramOp>())
        describeArguments(json, program);
    });
    json.attributeObject("milliseconds", [&] {
      json.attribute("llvm", compiled.toLlvm);
      json.attribute("ptx", compiled.toPtx);
      json.attribute("cubin", compiled.toCubin);
    });
    json.attribute("ptx", compiled.ptx);
    llvm::Error unclean = checkClean(compiled.log);
    json.attribute("clean", !unclean);
    llvm::consumeError(std::move(unclean));
    json.attribute("warnings", artifact->warnings);
    json.attributeBegin("stats");
    std::string stats;
    llvm::raw_string_ostream statsStream(stats);
    printStatsJson(statsStream, compiled.log, *code);
    json.rawValue(stats);
    json.attributeEnd();
  });
  return llvm::Error::success();
}

/// The program that a call with these arguments goes to.
llvm::Expected<CudaProgram *> programFor(Program &program,
                                         llvm::ArrayRef<Argument> arguments) {
  auto schedule = program.cuda->preferredSchedule(arguments);
  if (!schedule)
    return schedule.takeError();
  if (schedule->empty())
    return program.cuda.get();
  std::unique_ptr<Program> &other = program.others[*schedule];
  if (!other) {
    auto made = std::make_unique<Program>();
    if (llvm::Error error = build(*made, program.text, *schedule,
                                  program.anyLayout, program.device))
      return std::move(error);
    other = std::move(made);
  }
  return other->cuda.get();
}

std::vector<Argument> toArguments(const PlainArgument *plain, int count) {
  std::vector<Argument> arguments;
  for (int i = 0; i < count; ++i) {
    const PlainArgument &from = plain[i];
    if (from.kind == 1)
      arguments.push_back(from.real);
    else if (from.kind == 2)
      arguments.push_back(from.integer);
    else
      arguments.push_back(
          ViewArgument{from.data,
                       {from.sizes, from.sizes + from.rank},
                       {from.strides, from.strides + from.rank}});
  }
  return arguments;
}

/// Hands an error to the caller as text; true if there was none.
bool report(llvm::Error error, char *message, int64_t size) {
  if (!error)
    return true;
  std::string text = llvm::toString(std::move(error));
  strncpy(message, text.c_str(), size - 1);
  message[size - 1] = 0;
  return false;
}

} // namespace

EXPORT void *attnc_compile(const char *text, const char *schedule,
                           int anyLayout, int device, char *message,
                           int64_t size) {
  registerAllPasses();
  auto program = std::make_unique<Program>();
  if (!report(build(*program, text, schedule, anyLayout != 0, device), message,
              size))
    return nullptr;
  return program.release();
}

EXPORT const char *attnc_describe(void *program) {
  return static_cast<Program *>(program)->description.c_str();
}

/// Bytes of workspace, or -1.
EXPORT int64_t attnc_workspace(void *program, const PlainArgument *arguments,
                               int count, char *message, int64_t size) {
  std::vector<Argument> converted = toArguments(arguments, count);
  auto chosen = programFor(*static_cast<Program *>(program), converted);
  auto bytes = chosen ? (*chosen)->workspaceBytes(converted)
                      : llvm::Expected<int64_t>(chosen.takeError());
  if (bytes)
    return *bytes;
  report(bytes.takeError(), message, size);
  return -1;
}

EXPORT int attnc_launch(void *program, const PlainArgument *arguments,
                        int count, void *stream, void *workspace,
                        int64_t workspaceBytes, char *message, int64_t size) {
  std::vector<Argument> converted = toArguments(arguments, count);
  auto chosen = programFor(*static_cast<Program *>(program), converted);
  return report(chosen ? (*chosen)->launch(converted,
                                           static_cast<CuStream>(stream),
                                           workspace, workspaceBytes)
                       : chosen.takeError(),
                message, size);
}

EXPORT void attnc_destroy(void *program) {
  delete static_cast<Program *>(program);
}
