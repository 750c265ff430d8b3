//===- Commands.h - The subcommands of attnc --------------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_COMMANDS_H
#define ATTNC_TOOLS_ATTNC_COMMANDS_H

#include "lib/Frontend/Attention.h"
#include "tools/attnc/Options.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <memory>

namespace attnc {

struct CompileOptions;

/// One subcommand: its options and what it does with them.
class Command {
public:
  virtual ~Command() = default;
  /// The options, bound to members of the command.
  virtual OptionTable &table() = 0;
  /// The process's exit status, or why there is none.
  virtual llvm::Expected<int> run() = 0;
};

struct CommandInfo {
  llvm::StringLiteral name;
  llvm::StringLiteral summary;
  std::unique_ptr<Command> (*make)();
};

std::unique_ptr<Command> makeCompileCommand();
std::unique_ptr<Command> makeGenCommand();
std::unique_ptr<Command> makeRunCommand();
std::unique_ptr<Command> makeExplainCommand();
std::unique_ptr<Command> makeCacheCommand();
std::unique_ptr<Command> makeCollectEnvCommand();
std::unique_ptr<Command> makePackageCommand();
std::unique_ptr<Command> makeTuneCommand();

/// The options of `attnc gen` that describe the attention.
void addAttentionOptions(OptionTable &options,
                         AttentionDescription &description);
/// A description from such options, with spaces between.
llvm::Expected<AttentionDescription> parseAttention(llvm::StringRef flags);

/// Options that every compiling command has.
struct TargetFlags {
  std::string target = "cpu", schedule, cpu, features;
  bool anyLayout = false;

  /// `reference`: the oracle is a target too.
  void addTo(OptionTable &table, bool reference = false);
  llvm::Expected<CompileOptions> get() const;
};

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_COMMANDS_H
