//===- HugePages.h - A heap that is not touched page by page ----*- C++ -*-===//

#ifndef ATTNC_LIB_SUPPORT_HUGEPAGES_H
#define ATTNC_LIB_SUPPORT_HUGEPAGES_H

namespace attnc {

/// Lets the heap of this process start with 64 MB in huge pages, for a process
/// that only compiles: one of 3,000 small ones takes a twentieth longer.
/// Does nothing where the system has no such pages. Returns whether it has.
bool useHugePages();

} // namespace attnc

#endif // ATTNC_LIB_SUPPORT_HUGEPAGES_H
