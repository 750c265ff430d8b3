//===- HugePages.cpp - A heap that is not touched page by page ------------===//

#include "lib/Support/HugePages.h"

#include <cstdint>
#include <cstdlib>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

static uintptr_t endOfHeap() { return reinterpret_cast<uintptr_t>(sbrk(0)); }

bool attnc::useHugePages() {
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
  constexpr size_t page = 2 << 20, step = 64 << 20, gap = 4096;
  mallopt(M_TOP_PAD, step);
  mallopt(M_MMAP_THRESHOLD, 2 * page);
  // A page that others have begun to fill stays small. Nothing uses the rest
  // of it, for which the heap has to grow, by the step.
  uintptr_t old = endOfHeap(), begin = (old + gap + page) / page * page;
  static void *volatile unused;
  unused = malloc(begin - old + mallinfo2().keepcost - gap / 2);
  uintptr_t end = endOfHeap();
  return begin < end &&
         !madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
#else
  return false;
#endif
}
