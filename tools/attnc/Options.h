//===- Options.h - Command lines that teach ---------------------*- C++ -*-===//
//
// One table a subcommand: what it takes, what each option means, and a hint
// for what was nearly right. (llvm::cl would list LLVM's own options too.)
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_TOOLS_ATTNC_OPTIONS_H
#define ATTNC_TOOLS_ATTNC_OPTIONS_H

#include "lib/Support/Suggest.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace attnc {

class OptionTable {
public:
  /// `usage` follows "attnc "; `about` opens the help, `examples` end it.
  OptionTable(llvm::StringRef usage, llvm::StringRef about,
              llvm::StringRef examples = "")
      : usage(usage), about(about), examples(examples) {}

  /// A heading of the help for the options that follow.
  void section(llvm::StringRef title);

  void flag(llvm::StringRef name, bool &value, llvm::StringRef help);
  /// `--name=TEXT` or `--name TEXT`.
  void text(llvm::StringRef name, llvm::StringRef placeholder,
            std::string &value, llvm::StringRef help);
  void integer(llvm::StringRef name, std::optional<int64_t> &value,
               int64_t least, int64_t most, llvm::StringRef help);
  void number(llvm::StringRef name, double &value, llvm::StringRef help);
  /// `--name`, `--name=A=1,B=2` or `--name A=1,B=2`.
  void assignments(llvm::StringRef name, llvm::StringRef placeholder,
                   std::string &value, llvm::StringRef help);
  /// One of `choices`. With `bare`, `--name` alone means that choice.
  void choice(llvm::StringRef name, llvm::ArrayRef<llvm::StringRef> choices,
              std::string &value, llvm::StringRef help,
              llvm::StringRef bare = "");
  /// `--name A B C` up to the next option, or repeated.
  void list(llvm::StringRef name, llvm::StringRef placeholder,
            std::vector<std::string> &values, llvm::StringRef help);
  /// Arguments that are not options; at most `most` of them.
  void positional(llvm::StringRef name, std::vector<std::string> &values,
                  size_t most, llvm::StringRef help);

  /// Errors name the argument, what was expected, and what is near.
  llvm::Error parse(llvm::ArrayRef<llvm::StringRef> arguments);
  void printHelp(llvm::raw_ostream &os) const;

  /// Whether the option was given.
  bool has(llvm::StringRef name) const {
    return llvm::is_contained(givenNames, name);
  }
  /// The options that were given, as `--name=value`, in order.
  llvm::ArrayRef<std::string> given() const { return givenOptions; }

private:
  enum class Arity { None, Optional, Assignments, One, Many };
  struct Option {
    std::string name, placeholder, help;
    Arity arity;
    std::function<llvm::Error(llvm::StringRef)> set;
    bool heading = false;
  };
  const Option *find(llvm::StringRef name) const;
  llvm::Error unknown(llvm::StringRef name) const;

  std::string usage, about, examples;
  std::vector<Option> options;
  std::vector<std::string> givenOptions, givenNames;
  std::vector<std::string> *positionals = nullptr;
  size_t mostPositionals = 0;
  std::string positionalName, positionalHelp;
};

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_OPTIONS_H
