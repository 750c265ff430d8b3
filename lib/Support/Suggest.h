//===- Suggest.h - What was meant by a mistyped word ------------*- C++ -*-===//

#ifndef ATTNC_LIB_SUPPORT_SUGGEST_H
#define ATTNC_LIB_SUPPORT_SUGGEST_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace attnc {

/// The candidate nearest to `word`, if it is near.
llvm::StringRef nearest(llvm::StringRef word,
                        llvm::ArrayRef<llvm::StringRef> candidates);

/// "; did you mean 'sigmoid'?" or nothing.
std::string didYouMean(llvm::StringRef word,
                       llvm::ArrayRef<llvm::StringRef> candidates);

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_SUGGEST_H
