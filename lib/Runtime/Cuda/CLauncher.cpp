//===- CLauncher.cpp - A program as one C file ----------------------------===//

#include "lib/Runtime/Cuda/CLauncher.h"

#include "lib/Program/PlanCode.h"
#include "lib/Runtime/Cuda/CudaProgram.h"
#include "lib/Runtime/Cuda/Parameters.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/raw_ostream.h"

#include <set>

using namespace mlir;
using llvm::Error;

namespace attnc {
namespace {

/// What does not depend on the program. @ stands for its name.
constexpr llvm::StringLiteral prologue = R"(
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The part of <cuda.h> that is used; link with -lcuda. */
typedef struct CUmod_st *@_module;
typedef struct CUfunc_st *@_function;
typedef struct CUstream_st *@_stream;
typedef struct {
  _Alignas(128) uint64_t words[16];
} @_map;
typedef struct {
  int id, padding;
  union {
    char bytes[64];
    unsigned cluster[3];
    int allowed;
  } value;
} @_attribute;
typedef struct {
  unsigned grid[3], block[3], shared_bytes;
  @_stream stream;
  @_attribute *attributes;
  unsigned attribute_count;
} @_config;
int cuModuleLoadData(@_module *, const void *);
int cuModuleGetFunction(@_function *, @_module, const char *);
int cuFuncSetAttribute(@_function, int, int);
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *, @_function, int,
                                                size_t);
int cuLaunchKernelEx(const @_config *, @_function, void **, void **);
int cuTensorMapEncodeTiled(@_map *, int, unsigned, void *, const uint64_t *,
                           const uint64_t *, const unsigned *,
                           const unsigned *, int, int, int, int);
int cuMemAlloc_v2(unsigned long long *, size_t);
int cuCtxGetDevice(int *);
int cuDeviceGetAttribute(int *, int, int);

/* Device memory; sizes and strides (in elements) in logical order: batch,
 * head, position, feature. */
typedef struct {
  void *data;
  int64_t sizes[5], strides[5];
} @_tensor;

static char @_message[512];

/* What the last call that returned another value than 0 complains of. */
const char *@_error(void) { return @_message; }

static int @_fail(const char *text) {
  snprintf(@_message, sizeof(@_message), "%s", text);
  return -1;
}

static int @_driver(int status, const char *doing) {
  if (status)
    snprintf(@_message, sizeof(@_message), "CUDA error %d %s", status, doing);
  return status;
}

static int64_t @_divide(int64_t a, int64_t b, int up, int *bad) {
  int64_t q;
  if (b == 0 || (a == INT64_MIN && b == -1)) {
    *bad = 1;
    return 0;
  }
  q = a / b;
  if (a % b != 0 && up != 0 && (up > 0) == ((a < 0) == (b < 0)))
    q += up;
  return q;
}

static int64_t @_remainder(int64_t a, int64_t b, int *bad) {
  if (b == 0 || b == -1) {
    *bad |= b == 0;
    return 0;
  }
  return a % b;
}

typedef struct {
  @_function function;
  int blocks;
} @_kernel;
)";

/// Where a kernel has a tensor map.
constexpr llvm::StringLiteral tensorMaps = R"(
/* Describes a tensor to the copy engine. */
static int @_encode(@_map *map, int type, int64_t bytes, const @_tensor *tensor,
                    int rank, const unsigned *order, const unsigned *box,
                    int swizzle, void *placeholder) {
  uint64_t sizes[5], strides[5];
  unsigned steps[5] = {1, 1, 1, 1, 1};
  void *data = tensor->data;
  int k;
  for (k = 0; k < rank; ++k) {
    int64_t size = tensor->sizes[order[k]];
    int64_t stride = tensor->strides[order[k]] * bytes;
    if (size == 0)
      data = placeholder;
    if (size <= 1)
      stride = k == 0 ? bytes : 16;
    sizes[k] = size > 1 ? (uint64_t)size : 1;
    strides[k] = (uint64_t)stride;
    if (k == 0 ? stride != bytes : stride % 16 != 0)
      return @_fail("the copy engine needs neighbouring elements in the last "
                    "dim, and strides that are multiples of 16 bytes");
  }
  if ((uintptr_t)data % 16 != 0)
    return @_fail("the copy engine needs addresses that are multiples of 16");
  return @_driver(cuTensorMapEncodeTiled(map, type, (unsigned)rank, data, sizes,
                                         strides + 1, box, steps, 0, swizzle, 3,
                                         0),
                  "describing a tensor");
}
)";

struct Kernel {
  KernelRecipe recipe;
  std::string name;
};

class Writer {
public:
  Writer(tile::ProgramOp program, llvm::StringRef cubin)
      : program(program), cubin(cubin), name(program.getSymName().str()),
        os(text) {}

  Error readKernels(ModuleOp module);
  llvm::Expected<std::string> write();

private:
  void writeCubin();
  void writeLoad();
  std::string signature(bool launching);
  Error writeBody(bool launching);
  Error writeOp(Operation &op, bool launching);
  Error writeArithmetic(Operation &op);
  void writeCheck(tile::CheckOp op);
  void writeWorkspace(tile::WorkspaceOp op);
  void writeAttribute(const KernelRecipe &recipe);
  Error writeLaunch(tile::LaunchOp op);
  bool hasTensorMaps();
  Error writeMap(const KernelParameter &parameter, tile::LaunchOp op,
                 unsigned number);
  std::string expression(Operation &op);
  std::string integer(Value value) const { return values.lookup(value); }
  void put(llvm::StringRef lines) {
    for (char c : lines)
      c == '@' ? os << name : os << c;
  }
  Error unsupported(Operation &op) const {
    return llvm::createStringError("the C launcher has no C for '" +
                                   op.getName().getStringRef() + "'");
  }

  tile::ProgramOp program;
  llvm::StringRef cubin;
  std::string name, text;
  llvm::raw_string_ostream os;
  std::vector<Kernel> kernels;
  llvm::DenseMap<Value, std::string> values;
  unsigned next = 0;
  /// Which of the variables are numbers.
  std::set<unsigned> numbers;
};

Error Writer::readKernels(ModuleOp module) {
  for (auto kernel : module.getOps<LLVM::LLVMFuncOp>()) {
    if (!kernel->hasAttr(kKernelAttr))
      continue;
    auto recipe = readKernelRecipe(kernel);
    if (!recipe)
      return recipe.takeError();
    kernels.push_back({*recipe, recipe->name});
  }
  return Error::success();
}

void Writer::writeCubin() {
  put("\nstatic const _Alignas(16) unsigned char @_code[] = {");
  for (size_t k = 0; k < cubin.size(); ++k)
    os << (k % 20 ? "" : "\n") << unsigned(uint8_t(cubin[k])) << ',';
  os << "};\n";
}

void Writer::writeLoad() {
  put("\n/* Of one context; load once in each, with it current. */\n"
      "typedef struct {\n  @_module module;\n  @_kernel kernels[");
  os << kernels.size();
  put("];\n  int multiprocessors;\n  unsigned long long placeholder;\n"
      "} @_program;\n\n"
      "int @_load(@_program *program) {\n"
      "  int status, device = 0;\n"
      "  if ((status = @_driver(cuModuleLoadData(&program->module, @_code),\n"
      "                         \"loading machine code\")) ||\n"
      "      (status = @_driver(cuMemAlloc_v2(&program->placeholder, 256),\n"
      "                         \"allocating memory\")) ||\n"
      "      (status = @_driver(cuCtxGetDevice(&device), \"asking for the "
      "device\")) ||\n"
      "      (status = @_driver(\n"
      "           cuDeviceGetAttribute(&program->multiprocessors, 16, "
      "device),\n"
      "           \"asking for the multiprocessors\")))\n"
      "    return status;\n");
  for (auto [index, kernel] : llvm::enumerate(kernels)) {
    os << "  {\n    ";
    put("@_kernel *kernel = &program->kernels[");
    os << index << "];\n    kernel->blocks = 1;\n";
    put("    if ((status = @_driver(\n"
        "             cuModuleGetFunction(&kernel->function, "
        "program->module,\n                                 \"");
    os << kernel.name;
    put("\"),\n             \"finding a kernel\")) ||\n"
        "        (status = @_driver(cuFuncSetAttribute(kernel->function, 8, ");
    os << kernel.recipe.sharedBytes
       << "),\n                           \"reserving shared memory\")))\n"
          "      return status;\n";
    if (kernel.recipe.cluster > 8)
      put("    if ((status = @_driver(cuFuncSetAttribute(kernel->function, 14, "
          "1),\n                           \"allowing large clusters\")))\n"
          "      return status;\n");
    if (kernel.recipe.persistent) {
      put("    if ((status = @_driver(\n"
          "             cuOccupancyMaxActiveBlocksPerMultiprocessor(\n"
          "                 &kernel->blocks, kernel->function, ");
      os << kernel.recipe.threads << ", " << kernel.recipe.sharedBytes
         << "),\n             \"asking for the occupancy\")))\n"
            "      return status;\n"
            "    if (kernel->blocks < 1)\n      kernel->blocks = 1;\n";
    }
    os << "  }\n";
  }
  os << "  return 0;\n}\n";
}

std::string Writer::signature(bool launching) {
  std::string result;
  for (unsigned k = 0; k < program.getArgumentTypes().size(); ++k) {
    Type type = program.getArgumentTypes()[k];
    std::string argument = getArgumentName(program, k);
    result += isa<tile::ViewType>(type) ? "const " + name + "_tensor *"
              : type.isF32()            ? std::string("float ")
                                        : std::string("int32_t ");
    result += argument + ",\n    ";
  }
  return result + (launching
                       ? "void *workspace, int64_t workspace_bytes,\n    " +
                             name + "_stream stream"
                       : std::string("int64_t *workspace_bytes"));
}

std::string Writer::expression(Operation &op) {
  auto operand = [&](unsigned k) { return integer(op.getOperand(k)); };
  bool narrow = op.getNumOperands() && op.getOperand(0).getType().isInteger(32);
  std::string u = narrow ? "(uint32_t)" : "(uint64_t)";
  auto binary = [&](const char *sign) {
    return operand(0) + " " + sign + " " + operand(1);
  };
  auto wide = [&](const char *sign) {
    return "(int64_t)((uint64_t)" + operand(0) + " " + sign + " (uint64_t)" +
           operand(1) + ")";
  };
  auto pick = [&](const char *sign, const std::string &as) {
    return as + operand(0) + " " + sign + " " + as + operand(1) + " ? " +
           operand(0) + " : " + operand(1);
  };
  auto call = [&](const char *function, const char *rest) {
    return name + function + operand(0) + ", " + operand(1) + rest + ", &bad)";
  };
  return llvm::TypeSwitch<Operation *, std::string>(&op)
      .Case([&](arith::AddIOp) { return wide("+"); })
      .Case([&](arith::SubIOp) { return wide("-"); })
      .Case([&](arith::MulIOp) { return wide("*"); })
      // Sizes: no unsigned number here has its highest bit set.
      .Case<arith::DivSIOp, arith::DivUIOp>(
          [&](Operation *) { return call("_divide(", ", 0"); })
      .Case<arith::CeilDivSIOp, arith::CeilDivUIOp>(
          [&](Operation *) { return call("_divide(", ", 1"); })
      .Case([&](arith::FloorDivSIOp) { return call("_divide(", ", -1"); })
      .Case<arith::RemSIOp, arith::RemUIOp>(
          [&](Operation *) { return call("_remainder(", ""); })
      .Case([&](arith::MinSIOp) { return pick("<", ""); })
      .Case([&](arith::MaxSIOp) { return pick(">", ""); })
      .Case([&](arith::MinUIOp) { return pick("<", u); })
      .Case([&](arith::MaxUIOp) { return pick(">", u); })
      .Case([&](arith::AndIOp) { return binary("&"); })
      .Case([&](arith::OrIOp) { return binary("|"); })
      .Case([&](arith::XOrIOp) { return binary("^"); })
      .Case([&](arith::CmpIOp compare) {
        static const char *const signs[] = {"==", "!=", "<", "<=", ">", ">="};
        auto predicate = unsigned(compare.getPredicate());
        if (predicate < 6)
          return binary(signs[predicate]);
        return u + operand(0) + " " + signs[predicate - 4] + " " + u +
               operand(1);
      })
      .Case<arith::IndexCastOp, arith::ExtSIOp, arith::TruncIOp>(
          [&](Operation *) { return operand(0); })
      .Case<arith::IndexCastUIOp, arith::ExtUIOp>(
          [&](Operation *) { return u + operand(0); })
      .Case([&](arith::SelectOp) {
        return operand(0) + " ? " + operand(1) + " : " + operand(2);
      })
      .Default([](Operation *) { return std::string(); });
}

Error Writer::writeArithmetic(Operation &op) {
  std::string value;
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    if (auto number = dyn_cast<IntegerAttr>(constant.getValue()))
      value = "INT64_C(" +
              std::to_string(number.getType().isInteger(1)
                                 ? number.getValue().getZExtValue()
                                 : number.getValue().getSExtValue()) +
              ")";
  } else if (op.getNumResults() == 1 &&
             op.getResult(0).getType().isIntOrIndex()) {
    value = expression(op);
  }
  if (value.empty())
    return unsupported(op);
  numbers.insert(next);
  std::string variable = "v" + std::to_string(next++);
  Type type = op.getResult(0).getType();
  os << "  const int64_t " << variable << " = "
     << (type.isInteger(32)  ? "(int32_t)("
         : type.isInteger(1) ? "1 & ("
                             : "(")
     << value << ");\n";
  values[op.getResult(0)] = variable;
  return Error::success();
}

void Writer::writeCheck(tile::CheckOp op) {
  std::string message = op.getMessage().str(), arguments;
  for (auto [index, value] : llvm::enumerate(op.getValues())) {
    std::string hole = "{" + std::to_string(index) + "}";
    size_t at = message.find(hole);
    if (at == std::string::npos)
      continue;
    message.replace(at, hole.size(), "%lld");
    arguments += ", (long long)" + integer(value);
  }
  os << "  if (!" << integer(op.getCondition()) << ") {\n    snprintf(" << name
     << "_message, sizeof(" << name << "_message), \"";
  os.write_escaped(message);
  os << "\"" << arguments << ");\n    return -1;\n  }\n";
}

void Writer::writeWorkspace(tile::WorkspaceOp op) {
  tile::ViewType type = op.getView().getType();
  std::string variable = "w" + std::to_string(next++);
  put("  @_tensor ");
  os << variable << ";\n  " << variable << ".data = base ? base + bytes : 0;\n";
  int64_t dynamic = 0;
  for (auto [dim, size] : llvm::enumerate(type.getShape()))
    os << "  " << variable << ".sizes[" << dim << "] = "
       << (ShapedType::isDynamic(size) ? integer(op.getSizes()[dynamic++])
                                       : std::to_string(size))
       << ";\n";
  int64_t rank = type.getRank();
  if (rank)
    os << "  " << variable << ".strides[" << rank - 1 << "] = 1;\n";
  for (int64_t dim = rank - 1; dim > 0; --dim)
    os << "  " << variable << ".strides[" << dim - 1 << "] = " << variable
       << ".strides[" << dim << "] * " << variable << ".sizes[" << dim
       << "];\n";
  os << "  bytes += ((";
  if (rank)
    os << variable << ".strides[0] * " << variable << ".sizes[0] * ";
  os << (type.getElementType().getIntOrFloatBitWidth() + 7) / 8 << ") + "
     << kWorkspaceAlignment - 1 << ") / " << kWorkspaceAlignment << " * "
     << kWorkspaceAlignment << ";\n";
  values[op.getView()] = "&" + variable;
}

Error Writer::writeMap(const KernelParameter &parameter, tile::LaunchOp op,
                       unsigned number) {
  Value view = op.getArgs()[parameter.argument];
  auto type = dyn_cast<tile::ViewType>(view.getType());
  auto code = type ? tensorMapType(type.getElementType()) : std::nullopt;
  if (!code)
    return llvm::createStringError("kernel '" + op.getKernel() +
                                   "' has a tensor map of what is no tensor");
  auto list = [&](auto numbers) {
    std::string result;
    for (auto number : numbers)
      result += (result.empty() ? "" : ", ") + std::to_string(number);
    return "{" + result + "}";
  };
  os << "    static const unsigned order" << number
     << "[] = " << list(parameter.order) << ", box" << number
     << "[] = " << list(parameter.box) << ";\n";
  put("    @_map map");
  os << number << ";\n";
  put("    if ((status = @_encode(&map");
  os << number << ", " << *code << ", "
     << (type.getElementType().getIntOrFloatBitWidth() + 7) / 8 << ", "
     << integer(view) << ", " << parameter.order.size() << ",\n"
     << "        order" << number << ", box" << number << ", "
     << swizzleCode(parameter.swizzleBytes)
     << ", (void *)(uintptr_t)program->placeholder)))\n"
     << "      return status;\n";
  return Error::success();
}

/// A kernel has one at most.
void Writer::writeAttribute(const KernelRecipe &recipe) {
  if (recipe.cluster > 1)
    os << "    attribute.id = " << cu::launchClusterDimension
       << ";\n    attribute.value.cluster[0] = " << recipe.cluster
       << ";\n    attribute.value.cluster[1] = attribute.value.cluster[2] = "
          "1;\n"
          "    config.attribute_count = 1;\n";
  // Not beside what others put on the stream.
  else if (recipe.follows)
    os << "    attribute.id = " << cu::launchProgrammaticSerialization
       << ";\n    attribute.value.allowed = 1;\n"
          "    config.attribute_count = launched;\n";
}

Error Writer::writeLaunch(tile::LaunchOp op) {
  auto kernel = llvm::find_if(kernels, [&](const Kernel &kernel) {
    return kernel.name == op.getKernel();
  });
  if (kernel == kernels.end() || !op.getItems())
    return llvm::createStringError("the launch of '" + op.getKernel() +
                                   "' is not planned");
  const KernelRecipe &recipe = kernel->recipe;
  std::string items = integer(op.getItems()), pointers, scalars;
  using Kind = KernelParameter::Kind;
  os << "  if (" << items << " > 0) {\n";
  for (auto [index, parameter] : llvm::enumerate(recipe.parameters))
    if (parameter.kind == Kind::TensorMap)
      if (Error error = writeMap(parameter, op, index))
        return error;
  for (auto [index, parameter] : llvm::enumerate(recipe.parameters)) {
    std::string value, argument;
    if (parameter.kind != Kind::Items)
      argument = integer(op.getArgs()[parameter.argument]);
    std::string dim = "[" + std::to_string(parameter.dim) + "]";
    switch (parameter.kind) {
    case Kind::TensorMap:
      pointers += "        &map" + std::to_string(index) + ",\n";
      continue;
    case Kind::Items:
      value = "(uint64_t)" + items;
      break;
    case Kind::Pointer:
      value = "(uint64_t)(uintptr_t)(" + argument + ")->data";
      break;
    case Kind::Size:
      value = "(uint64_t)(" + argument + ")->sizes" + dim;
      break;
    case Kind::Stride:
      value = "(uint64_t)(" + argument + ")->strides" + dim;
      break;
    case Kind::Scalar:
      if (op.getArgs()[parameter.argument].getType().isF32()) {
        // A copy keeps its bits.
        pointers += "        (void *)&" + argument + ",\n";
        continue;
      }
      value = "(uint64_t)" + argument;
      break;
    }
    os << "    uint64_t p" << index << " = " << value << ";\n";
    pointers += "        &p" + std::to_string(index) + ",\n";
  }
  put("    const @_kernel *kernel = &program->kernels[");
  os << kernel - kernels.begin() << "];\n";
  os << "    void *parameters[] = {\n" << pointers << "        0};\n";
  put("    @_attribute attribute;\n    @_config config;\n");
  os << "    int64_t blocks = " << items << ";\n";
  if (recipe.persistent)
    os << "    if (blocks > (int64_t)program->multiprocessors * "
          "kernel->blocks)\n"
          "      blocks = (int64_t)program->multiprocessors * "
          "kernel->blocks;\n";
  os << "    blocks = (blocks + " << recipe.cluster - 1 << ") / "
     << recipe.cluster << " * " << recipe.cluster << ";\n";
  put("    if (blocks > INT32_MAX)\n"
      "      return @_fail(\"more work items than one launch can hold\");\n");
  os << "    memset(&attribute, 0, sizeof(attribute));\n"
        "    memset(&config, 0, sizeof(config));\n";
  writeAttribute(recipe);
  os << "    config.grid[0] = (unsigned)blocks;\n"
     << "    config.block[0] = " << recipe.threads << ";\n"
     << "    config.grid[1] = config.grid[2] = config.block[1] =\n"
        "        config.block[2] = 1;\n"
     << "    config.shared_bytes = " << recipe.sharedBytes << ";\n"
     << "    config.stream = stream;\n    config.attributes = &attribute;\n";
  put("    if ((status = @_driver(cuLaunchKernelEx(&config, kernel->function,\n"
      "                                            parameters, 0),\n"
      "                           \"launching a kernel\")))\n"
      "      return status;\n");
  os << "    launched = 1;\n  }\n";
  return Error::success();
}

Error Writer::writeOp(Operation &op, bool launching) {
  if (auto dim = dyn_cast<tile::DimOp>(op)) {
    numbers.insert(next);
    std::string variable = "v" + std::to_string(next++);
    os << "  const int64_t " << variable << " = (" << integer(dim.getView())
       << ")->sizes[" << dim.getDim() << "];\n";
    values[dim.getSize()] = variable;
    return Error::success();
  }
  if (auto check = dyn_cast<tile::CheckOp>(op))
    return writeCheck(check), Error::success();
  // There is no other program.
  if (isa<tile::PreferOp>(op))
    return Error::success();
  if (auto space = dyn_cast<tile::WorkspaceOp>(op))
    return writeWorkspace(space), Error::success();
  if (auto launch = dyn_cast<tile::LaunchOp>(op))
    return launching ? writeLaunch(launch) : Error::success();
  return writeArithmetic(op);
}

/// Launches come last, so that no check fails between two of them.
Error Writer::writeBody(bool launching) {
  values.clear();
  numbers.clear();
  next = 0;
  for (auto [index, value] : llvm::enumerate(program.getBody().getArguments()))
    values[value] = getArgumentName(program, index);
  os << "  int status = 0, bad = 0;\n  int64_t bytes = 0;\n  char *base = "
     << (launching ? "(char *)workspace" : "0") << ";\n";
  for (Operation &op : program.getBody().front())
    if (!isa<tile::LaunchOp>(op))
      if (Error error = writeOp(op, launching))
        return error;
  for (unsigned k = 0; k < next; ++k)
    if (numbers.count(k))
      os << "  (void)v" << k << ";\n";
  for (unsigned k = 0; k < program.getArgumentTypes().size(); ++k)
    os << "  (void)" << getArgumentName(program, k) << ";\n";
  put("  (void)base, (void)@_divide, (void)@_remainder;\n");
  put("  if (bad)\n    return @_fail(\"the sizes divide by zero\");\n");
  if (!launching) {
    os << "  *workspace_bytes = bytes;\n  return status;\n}\n";
    return Error::success();
  }
  put("  if (workspace_bytes < bytes)\n"
      "    return @_fail(\"the workspace is too small\");\n"
      "  int launched = 0;\n");
  for (Operation &op : program.getBody().front())
    if (isa<tile::LaunchOp>(op))
      if (Error error = writeOp(op, launching))
        return error;
  os << "  (void)launched;\n  return status;\n}\n";
  return Error::success();
}

bool Writer::hasTensorMaps() {
  return llvm::any_of(kernels, [](const Kernel &kernel) {
    return llvm::any_of(
        kernel.recipe.parameters, [](const KernelParameter &parameter) {
          return parameter.kind == KernelParameter::Kind::TensorMap;
        });
  });
}

llvm::Expected<std::string> Writer::write() {
  os << "/* " << name << ": made by attnc for sm_90a (H100, H200, GH200).\n"
     << " *\n"
        " *   load once in each context:   "
     << name << "_load(&program)\n"
     << " *   bytes of device memory:      " << name << "_workspace(...)\n"
     << " *   put it on a stream:          " << name << "_launch(...)\n"
     << " *\n * C11; link with -lcuda. */\n";
  put(prologue);
  if (hasTensorMaps())
    put(tensorMaps);
  writeCubin();
  writeLoad();
  put("\nint @_workspace(\n    ");
  os << signature(false) << ") {\n";
  if (Error error = writeBody(false))
    return std::move(error);
  put("\nint @_launch(\n    const @_program *program,\n    ");
  os << signature(true) << ") {\n";
  if (Error error = writeBody(true))
    return std::move(error);
  return text;
}

} // namespace

llvm::Expected<std::string> writeCLauncher(ModuleOp module,
                                           llvm::StringRef cubin) {
  auto programs = llvm::to_vector(module.getOps<tile::ProgramOp>());
  if (programs.size() != 1)
    return llvm::createStringError("expected a module with one tile.program");
  Writer writer(programs.front(), cubin);
  if (Error error = writer.readKernels(module))
    return std::move(error);
  return writer.write();
}

} // namespace attnc
