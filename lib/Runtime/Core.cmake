# The runtime core: the kernel cache. It uses the C++ library and POSIX alone,
# so test/unit/runtime can build it by itself under a sanitizer.
set(ATTNC_RUNTIME_CORE
  DiskCache.cpp
  Entry.cpp
  Event.cpp
  FileOps.cpp
  KernelCache.cpp
  Key.cpp
  Package.cpp
  Sha256.cpp)
list(TRANSFORM ATTNC_RUNTIME_CORE PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
