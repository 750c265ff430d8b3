//===- TuneSizes.h - Sizes to measure a program at --------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_TUNESIZES_H
#define ATTNC_TOOLS_ATTNC_TUNESIZES_H

#include "lib/Api/CompileRequest.h"
#include "lib/Api/Measure.h"

namespace attnc {

/// The shapes of the arguments of a request's IR, sizes that it leaves open
/// being those of `sizes`: "B=1,H=8,S=1024", with "NAME.DIM=N" for one that
/// none of these is.
llvm::Expected<std::vector<ArgumentShape>>
shapesOfIr(const ProgramRequest &request, llvm::StringRef sizes);

} // namespace attnc

#endif // ATTNC_TOOLS_ATTNC_TUNESIZES_H
