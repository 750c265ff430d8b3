//===- CubinStats.cpp - What machine code consists of ---------------------===//

#include "lib/Target/NVPTX/CubinStats.h"

#include "llvm/ADT/BitVector.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Object/ELF.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/JSON.h"

#include <optional>

namespace attnc {
namespace {

using llvm::StringRef;

/// An instruction has 128 bits. The low 9 name the operation, the next 3 the
/// form of its operands (register, immediate, constant). The names were read
/// off nvdisasm's listing of sm_90a code.
StringRef instructionName(unsigned operation) {
  switch (operation) {
  case 0x002:
    return "MOV";
  case 0x005:
    return "CS2R";
  case 0x006:
    return "VOTE";
  case 0x007:
    return "SEL";
  case 0x008:
    return "FSEL";
  case 0x009:
    return "FMNMX";
  case 0x00b:
    return "FSETP";
  case 0x00c:
    return "ISETP";
  case 0x00f:
    return "VIMNMX3";
  case 0x010:
    return "IADD3";
  case 0x011:
    return "LEA";
  case 0x012:
    return "LOP3";
  case 0x016:
    return "PRMT";
  case 0x019:
    return "SHF";
  case 0x01c:
    return "PLOP3";
  case 0x020:
    return "FMUL";
  case 0x021:
    return "FADD";
  case 0x023:
    return "FFMA";
  case 0x024:
    return "IMAD";
  case 0x025:
    return "IMAD";
  case 0x030:
    return "HADD2";
  case 0x031:
    return "HFMA2";
  case 0x036:
    return "VIADD";
  case 0x03b:
    return "LDSM";
  case 0x03e:
    return "F2FP";
  case 0x044:
    return "STSM";
  case 0x048:
    return "VIMNMX";
  case 0x082:
    return "UMOV";
  case 0x0b9:
    return "ULDC";
  case 0x0ca:
    return "R2UR";
  case 0x102:
    return "FCHK";
  case 0x108:
    return "MUFU";
  case 0x118:
    return "NOP";
  case 0x11d:
    return "BAR";
  case 0x141:
    return "BSYNC";
  case 0x144:
    return "CALL";
  case 0x145:
    return "BSSY";
  case 0x147:
    return "BRA";
  case 0x14d:
    return "EXIT";
  case 0x181:
    return "LDG";
  case 0x182:
    return "LDC";
  case 0x183:
    return "LDL";
  case 0x184:
    return "LDS";
  case 0x186:
    return "STG";
  case 0x187:
    return "STL";
  case 0x188:
    return "STS";
  case 0x189:
    return "SHFL";
  case 0x1a7:
    return "SYNCS";
  case 0x1a8:
    return "ATOMG";
  case 0x1b2:
    return "SYNCS";
  case 0x1b4:
    return "UTMALDG";
  case 0x1c5:
    return "WARPGROUP";
  case 0x1c6:
    return "FENCE";
  case 0x1c8:
    return "USETMAXREG";
  case 0x1f0:
    return "HGMMA";
  default:
    return "other";
  }
}

constexpr size_t instructionBytes = 16;

class Code {
public:
  explicit Code(StringRef bytes) : bytes(bytes) {}
  int64_t size() const { return bytes.size() / instructionBytes; }
  StringRef name(int64_t i) const { return instructionName(word(i) & 0x1ff); }

  /// Where a branch goes, as an instruction index. The distance from the next
  /// instruction, in units of 4 bytes, has its low 8 bits at 16 and the rest
  /// from bit 34.
  std::optional<int64_t> branchTarget(int64_t i) const {
    if (name(i) != "BRA")
      return std::nullopt;
    int64_t high = static_cast<int32_t>(word(i) >> 32) >> 2;
    int64_t distance = high * 256 + ((word(i) >> 16) & 0xff);
    return i + 1 + distance * 4 / static_cast<int64_t>(instructionBytes);
  }

  /// No predicate in front of it and no condition of its own.
  bool isUnconditional(int64_t i) const {
    return ((word(i) >> 12) & 0xf) == 7 && ((high(i) >> 23) & 0xf) == 7;
  }

  void count(int64_t begin, int64_t end, InstructionCounts &counts) const {
    for (int64_t i = begin; i < end; ++i)
      ++counts[name(i).str()];
  }

private:
  uint64_t word(int64_t i) const {
    return llvm::support::endian::read64le(bytes.data() + i * instructionBytes);
  }
  uint64_t high(int64_t i) const {
    return llvm::support::endian::read64le(bytes.data() + i * instructionBytes +
                                           8);
  }
  StringRef bytes;
};

/// The assembler ends a kernel with a branch to itself and pads with NOPs.
int64_t lengthWithoutPadding(const Code &code) {
  int64_t end = code.size();
  while (end > 0 &&
         (code.name(end - 1) == "NOP" || code.branchTarget(end - 1) == end - 1))
    --end;
  return end;
}

/// The control flow of a kernel: blocks of instructions and their successors.
class FlowGraph {
public:
  FlowGraph(const Code &code, int64_t end) {
    llvm::BitVector starts(end + 1);
    starts.set(0);
    starts.set(end);
    for (int64_t i = 0; i < end; ++i) {
      auto target = code.branchTarget(i);
      if (target && *target >= 0 && *target < end)
        starts.set(*target);
      if (target || code.name(i) == "EXIT")
        starts.set(i + 1);
    }
    for (int first : starts.set_bits())
      begins.push_back(first);
    for (size_t block = 0; block < size(); ++block)
      successors.push_back(findSuccessors(code, block));
  }

  size_t size() const { return begins.size() - 1; }
  int64_t begin(size_t block) const { return begins[block]; }
  int64_t end(size_t block) const { return begins[block + 1]; }

  /// For each block the blocks that every way to it passes.
  std::vector<llvm::BitVector> findDominators() const {
    std::vector<llvm::BitVector> dominators(size(),
                                            llvm::BitVector(size(), true));
    dominators[0].reset();
    dominators[0].set(0);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t block = 0; block < size(); ++block)
        for (size_t next : successors[block]) {
          if (next == 0)
            continue;
          llvm::BitVector through = dominators[block];
          through.set(next);
          through &= dominators[next];
          changed |= through != dominators[next];
          dominators[next] = through;
        }
    }
    return dominators;
  }

  /// The natural loops, one for each header.
  std::map<size_t, llvm::BitVector> findLoops() const {
    std::vector<llvm::BitVector> dominators = findDominators();
    std::vector<std::vector<size_t>> predecessors(size());
    for (size_t block = 0; block < size(); ++block)
      for (size_t next : successors[block])
        predecessors[next].push_back(block);
    std::map<size_t, llvm::BitVector> loops;
    for (size_t block = 0; block < size(); ++block)
      for (size_t header : successors[block]) {
        if (!dominators[block].test(header))
          continue;
        llvm::BitVector &body =
            loops.try_emplace(header, llvm::BitVector(size())).first->second;
        body.set(header);
        std::vector<size_t> todo{block};
        while (!todo.empty()) {
          size_t top = todo.back();
          todo.pop_back();
          if (body.test(top))
            continue;
          body.set(top);
          todo.insert(todo.end(), predecessors[top].begin(),
                      predecessors[top].end());
        }
      }
    return loops;
  }

private:
  std::vector<size_t> findSuccessors(const Code &code, size_t block) const {
    std::vector<size_t> result;
    int64_t last = end(block) - 1;
    auto target = code.branchTarget(last);
    auto found = target ? llvm::lower_bound(begins, *target) : begins.end();
    if (found != begins.end() && *found == *target && *target < begins.back())
      result.push_back(found - begins.begin());
    bool leaves = target || code.name(last) == "EXIT";
    if (!(leaves && code.isUnconditional(last)) && block + 1 < size())
      result.push_back(block + 1);
    return result;
  }

  std::vector<int64_t> begins; // of each block, and the end
  std::vector<std::vector<size_t>> successors;
};

/// Counts of the smallest loop that holds a matrix instruction.
InstructionCounts countMatrixLoop(const Code &code, int64_t end) {
  if (end == 0)
    return {};
  FlowGraph graph(code, end);
  InstructionCounts best;
  int64_t bestSize = 0;
  for (const auto &[header, blocks] : graph.findLoops()) {
    InstructionCounts counts;
    int64_t size = 0;
    for (int block : blocks.set_bits()) {
      size += graph.end(block) - graph.begin(block);
      code.count(graph.begin(block), graph.end(block), counts);
    }
    if (counts.count("HGMMA") && (bestSize == 0 || size < bestSize)) {
      best = std::move(counts);
      bestSize = size;
    }
  }
  return best;
}

int64_t total(const InstructionCounts &counts) {
  int64_t sum = 0;
  for (const auto &[name, count] : counts)
    sum += count;
  return sum;
}

KernelCode describe(StringRef kernel, StringRef bytes) {
  Code code(bytes);
  KernelCode result;
  result.kernel = kernel.str();
  int64_t end = lengthWithoutPadding(code);
  code.count(0, end, result.counts);
  result.loop = countMatrixLoop(code, end);
  return result;
}

void print(llvm::json::OStream &json, StringRef key,
           const InstructionCounts &counts) {
  json.attributeObject(key, [&] {
    json.attribute("instructions", total(counts));
    for (const auto &[name, count] : counts)
      json.attribute(name, count);
  });
}

} // namespace

llvm::Expected<std::vector<KernelCode>> readCubin(StringRef image) {
  auto elf = llvm::object::ELFFile<llvm::object::ELF64LE>::create(image);
  if (!elf)
    return elf.takeError();
  auto sections = elf->sections();
  if (!sections)
    return sections.takeError();
  std::vector<KernelCode> result;
  for (const auto &section : *sections) {
    auto name = elf->getSectionName(section);
    if (!name)
      return name.takeError();
    if (!name->consume_front(".text."))
      continue;
    auto contents = elf->getSectionContents(section);
    if (!contents)
      return contents.takeError();
    result.push_back(describe(*name, llvm::toStringRef(*contents)));
  }
  if (result.empty())
    return llvm::createStringError("the cubin holds no kernel");
  return result;
}

void printStatsJson(llvm::raw_ostream &os, const PtxasLog &log,
                    const std::vector<KernelCode> &code) {
  llvm::json::OStream json(os, 2);
  auto kernels = [&] {
    for (const KernelCode &kernel : code)
      json.attributeObject(kernel.kernel, [&] {
        for (const KernelResources &resources : log.kernels)
          if (resources.kernel == kernel.kernel) {
            json.attribute("registers", resources.registers);
            json.attribute("stack", resources.stackBytes);
            json.attribute("spill_stores", resources.spillStoreBytes);
            json.attribute("spill_loads", resources.spillLoadBytes);
            json.attribute("barriers", resources.barriers);
          }
        print(json, "code", kernel.counts);
        print(json, "loop", kernel.loop);
      });
  };
  json.object([&] {
    json.attributeObject("kernels", kernels);
    json.attributeArray("remarks", [&] {
      for (const PtxasRemark &remark : log.remarks)
        json.value(remark.code + ": " + remark.text);
    });
  });
  os << "\n";
}

} // namespace attnc
