# What `cmake --install build --prefix DIR` lays out: the tools, the library,
# its headers, and descriptions of it for CMake (find_package(attnc), target
# attnc::attnc) and pkg-config. All of it may be moved as a whole. The target
# `uninstall` takes it away again. The wheel's files are a component of their
# own (python/CMakeLists.txt).

# Not the multiarch folder: the library looks for the tool in ../bin.
set(CMAKE_INSTALL_LIBDIR lib CACHE PATH "where libraries go")
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package "${CMAKE_INSTALL_LIBDIR}/cmake/attnc")
install(TARGETS attnc attnc-opt RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(TARGETS libattnc EXPORT attnc-targets
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(DIRECTORY "${CMAKE_SOURCE_DIR}/include/attnc"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES "${CMAKE_SOURCE_DIR}/LICENSE" "${CMAKE_SOURCE_DIR}/README.md"
  DESTINATION "${CMAKE_INSTALL_DOCDIR}")

install(EXPORT attnc-targets NAMESPACE attnc:: FILE attnc-config.cmake
  DESTINATION "${package}")
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(
  "${CMAKE_CURRENT_BINARY_DIR}/attnc-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/attnc-config-version.cmake"
  DESTINATION "${package}")

file(CONFIGURE OUTPUT attnc.pc @ONLY CONTENT [[
prefix=${pcfiledir}/../..
libdir=${prefix}/@CMAKE_INSTALL_LIBDIR@
includedir=${prefix}/@CMAKE_INSTALL_INCLUDEDIR@

Name: attnc
Description: Compiles attention kernels for any score function
Version: @PROJECT_VERSION@
Cflags: -I${includedir}
Libs: -L${libdir} -lattnc
]])
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/attnc.pc"
  DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

add_custom_target(uninstall COMMENT "Removing what was installed"
  COMMAND "${CMAKE_COMMAND}" -P "${CMAKE_SOURCE_DIR}/cmake/Uninstall.cmake")
