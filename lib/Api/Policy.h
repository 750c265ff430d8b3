//===- Policy.h - One program for all sizes, or one for these ---*- C++ -*-===//

#ifndef ATTNC_LIB_API_POLICY_H
#define ATTNC_LIB_API_POLICY_H

#include "lib/Api/Measure.h"
#include "lib/Api/Session.h"

namespace attnc {

enum class Policy { Dynamic, Exact, Auto };

/// A program for sizes that are known stays only if it is this much faster.
constexpr double exactGain = 1.03;

/// Seconds of one call of each of two programs, measured in turns.
using Compare = std::function<llvm::Expected<std::pair<double, double>>(
    const RunnableProgram &general, const RunnableProgram &exact,
    const AttentionDescription &description, int device)>;

/// The default: medians of interleaved calls on data of their own.
llvm::Expected<std::pair<double, double>>
comparePrograms(const RunnableProgram &general, const RunnableProgram &exact,
                const AttentionDescription &description, int device);

/// The program for the description's sizes if it is worth it, else null. What
/// was decided once is remembered, on disk for other processes.
Result<const RunnableProgram *>
chooseExact(Session &session, const ProgramRequest &general,
            const AttentionDescription &description, int device,
            const Compare &compare = comparePrograms);

/// Whether all tensors have the sizes that a program was made for.
bool fits(const RunnableProgram &program,
          llvm::function_ref<llvm::ArrayRef<int64_t>(size_t)> sizes);

} // namespace attnc

#endif // ATTNC_LIB_API_POLICY_H
