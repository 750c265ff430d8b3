//===- HugePagesTest.cpp - The heap in steps of many pages ----------------===//

#include "lib/Support/HugePages.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __GLIBC__
/// In a process of its own, whose heap is thrown away: 40 MB of small pieces
/// do not let it grow again.
TEST(HugePagesTest, TheHeapGrowsOnce) {
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    attnc::useHugePages();
    void *end = sbrk(0);
    for (int k = 0; k < 40000; ++k) {
      void *volatile piece = malloc(1000);
      if (!piece)
        _exit(2);
    }
    _exit(sbrk(0) == end ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}
#endif
