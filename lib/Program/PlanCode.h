//===- PlanCode.h - A launch plan, evaluated without IR ---------*- C++ -*-===//
//
// A `tile.program` is translated once, when it is loaded, into a list of
// instructions over numbered slots of 64 bits. A call fills in its arguments,
// runs the list, and finds what its launches take in slots that are known
// beforehand: no IR, no allocation, no search.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_PROGRAM_PLANCODE_H
#define ATTNC_LIB_PROGRAM_PLANCODE_H

#include "dialects/tile/Tile.h"
#include "lib/Program/Argument.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>
#include <vector>

namespace attnc {

/// Offsets in the workspace are multiples of this.
inline constexpr int64_t kWorkspaceAlignment = 64;

/// What the caller calls argument `index`: its `tile.name`, else argN.
std::string getArgumentName(tile::ProgramOp program, unsigned index);

/// What one evaluation computed; may be used for the next one. Integers of
/// every width are kept sign-extended, an f32 as its bits.
struct PlanValues {
  llvm::SmallVector<int64_t, 128> slots;
  int64_t workspaceBytes = 0;
};

/// Where a value of a plan lies. A view is its address (an offset if it is in
/// the workspace), whether it is in the workspace, its sizes and its strides.
struct PlanPlace {
  enum class Kind : uint8_t { View, F32, I32, Index };
  Kind kind = Kind::Index;
  unsigned slot = 0, rank = 0;
  /// Of the elements of a view.
  unsigned elementBits = 0;

  unsigned inWorkspace() const { return slot + 1; }
  unsigned size(unsigned dim) const { return slot + 2 + dim; }
  unsigned stride(unsigned dim) const { return slot + 2 + rank + dim; }
};

struct PlanLaunch {
  std::string kernel;
  /// Of an index: how many work items.
  unsigned items = 0;
  std::vector<PlanPlace> arguments;
};

class PlanCode {
public:
  /// The launches of `program` must carry `items` (tile-plan-launches).
  static llvm::Expected<PlanCode> translate(tile::ProgramOp program);

  /// Checks count, kinds, ranks and static sizes; errors name the argument.
  llvm::Error check(llvm::ArrayRef<Argument> arguments) const;

  /// Checks the arguments and runs the plan. A failed `tile.check` becomes its
  /// message.
  llvm::Error evaluate(llvm::ArrayRef<Argument> arguments,
                       PlanValues &values) const;

  llvm::ArrayRef<PlanLaunch> launches() const { return planned; }

  /// The schedule with which the program is faster for an evaluated call;
  /// empty: this one.
  llvm::StringRef preferredSchedule(const PlanValues &values) const;

  /// The address of a view once the workspace is there.
  static char *addressOf(const PlanValues &values, const PlanPlace &view,
                         char *workspace) {
    int64_t address = values.slots[view.slot];
    return values.slots[view.inWorkspace()] ? workspace + address
                                            : reinterpret_cast<char *>(address);
  }

private:
  friend class PlanTranslator;

  enum class Opcode : uint8_t;
  struct Instruction {
    Opcode code;
    /// Bits of the operands and of the result; an index has 64.
    uint8_t operandBits = 64, resultBits = 64;
    /// Of a comparison; of a select, how many slots are chosen.
    uint8_t extra = 0;
    unsigned result = 0, a = 0, b = 0, c = 0;
    /// In `texts`: the op's name, or the message of a check.
    unsigned text = 0;
  };
  struct Parameter {
    std::string name, type;
    PlanPlace place;
    std::vector<int64_t> sizes; ///< Of a view; ShapedType::kDynamic: any.
  };
  struct Workspace {
    PlanPlace view;
    std::vector<int64_t> sizes;
    /// Where the sizes are that are not static, in order.
    std::vector<unsigned> dynamic;
  };

  llvm::Error checkView(const Parameter &parameter,
                        const Argument &argument) const;
  void fillIn(llvm::ArrayRef<Argument> arguments, PlanValues &values) const;
  llvm::Error run(const Instruction &instruction, PlanValues &values) const;
  bool computeInteger(const Instruction &instruction, int64_t *slots) const;
  void computeFloat(const Instruction &instruction, int64_t *slots) const;
  llvm::Error failCheck(const Instruction &check, const int64_t *slots) const;
  llvm::Error placeWorkspace(const Workspace &workspace,
                             PlanValues &values) const;

  std::string name;
  std::vector<Parameter> parameters;
  /// What the slots hold before a call: the constants.
  std::vector<int64_t> initial;
  std::vector<Instruction> code;
  std::vector<std::string> texts;
  /// Slots of the numbers in messages, one list after the other.
  std::vector<unsigned> shown;
  std::vector<Workspace> workspaces;
  std::vector<PlanLaunch> planned;
  /// Of each `tile.prefer`: where its condition is, and the text of its
  /// schedule.
  std::vector<std::pair<unsigned, unsigned>> preferences;
};

} // namespace attnc

#endif // ATTNC_LIB_PROGRAM_PLANCODE_H
