//===- Environment.h - The registry of environment variables ----*- C++ -*-===//

#ifndef ATTNC_LIB_ENVIRONMENT_ENVIRONMENT_H
#define ATTNC_LIB_ENVIRONMENT_ENVIRONMENT_H

#include <optional>
#include <string>
#include <vector>

namespace attnc {

enum class Variable {
#define ATTNC_VARIABLE(identifier, name, fallback, meaning) identifier,
#include "lib/Environment/Environment.def"
};

struct VariableInfo {
  Variable variable;
  const char *name, *fallback, *meaning;
};

/// Every variable, in the order of Environment.def.
const std::vector<VariableInfo> &environmentVariables();

/// The value of a variable; an empty one counts as unset.
std::optional<std::string> environment(Variable variable);

/// docs/environment.md.
std::string environmentDocumentation();

} // namespace attnc

#endif // ATTNC_LIB_ENVIRONMENT_ENVIRONMENT_H
