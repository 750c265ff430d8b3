//===- PrintEnvironment.cpp - Prints docs/environment.md ------------------===//

#include "lib/Environment/Environment.h"

#include <cstdio>

int main() {
  std::fputs(attnc::environmentDocumentation().c_str(), stdout);
  return 0;
}
