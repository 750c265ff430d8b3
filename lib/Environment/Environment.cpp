//===- Environment.cpp - The registry of environment variables ------------===//

#include "lib/Environment/Environment.h"

#include <cstdlib>

using namespace attnc;

const std::vector<VariableInfo> &attnc::environmentVariables() {
  // Never destroyed: a thread may still compile while the process exits.
  static const auto *table = new std::vector<VariableInfo>{
#define ATTNC_VARIABLE(identifier, name, fallback, meaning)                    \
  {Variable::identifier, name, fallback, meaning},
#include "lib/Environment/Environment.def"
  };
  return *table;
}

std::optional<std::string> attnc::environment(Variable variable) {
  const char *name = environmentVariables()[size_t(variable)].name;
  const char *value = std::getenv(name);
  if (!value || !*value)
    return std::nullopt;
  return value;
}

std::string attnc::environmentDocumentation() {
  std::string text =
      "# Environment variables\n\n"
      "Every variable that attnc reads. This page is made from\n"
      "`lib/Environment/Environment.def` (`ninja docs-environment`); a test "
      "keeps\n"
      "it current. An empty value counts as unset, and a value that cannot be\n"
      "understood is reported once and counts as unset.\n\n"
      "| variable | default | meaning |\n| --- | --- | --- |\n";
  for (const VariableInfo &info : environmentVariables())
    text += std::string("| `") + info.name + "` | " + info.fallback + " | " +
            info.meaning + " |\n";
  return text;
}
