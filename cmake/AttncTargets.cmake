# How this project declares libraries and tools.
#
#   attnc_tablegen(Prefix file.td -gen-op-decls Out.h.inc ...)
#   attnc_library(Name sources... DEPENDS tablegen-targets LINK libraries)
#   attnc_tool(name sources... LINK libraries)
#
# Every target shares one precompiled header (cmake/pch.h): MLIR's headers
# dominate compile time, and parsing them once is five times faster.

# Debian's static MLIR targets name the shared LLVM (and MLIRExecutionEngine
# the shared MLIR) in their link interface, which would mix static and shared
# copies of MLIR in one process.
if(ATTNC_STATIC)
  foreach(target ${MLIR_EXPORTED_TARGETS})
    get_target_property(kind ${target} TYPE)
    if(kind STREQUAL "STATIC_LIBRARY")
      get_target_property(libs ${target} INTERFACE_LINK_LIBRARIES)
      if(libs)
        list(REMOVE_ITEM libs LLVM MLIR)
        set_target_properties(${target} PROPERTIES
          INTERFACE_LINK_LIBRARIES "${libs}")
      endif()
    endif()
  endforeach()
  # Self-contained to the last library that a user's machine may lack.
  get_target_property(libs LLVMSupport INTERFACE_LINK_LIBRARIES)
  list(TRANSFORM libs REPLACE "^zstd::libzstd_shared$" "zstd::libzstd_static")
  find_library(ATTNC_ZLIB libz.a REQUIRED)
  list(TRANSFORM libs REPLACE "^ZLIB::ZLIB$" "${ATTNC_ZLIB}")
  set_target_properties(LLVMSupport PROPERTIES
    INTERFACE_LINK_LIBRARIES "${libs}")
endif()

separate_arguments(ATTNC_LLVM_DEFINITIONS UNIX_COMMAND "${LLVM_DEFINITIONS}")

add_library(attnc_flags INTERFACE)
target_include_directories(attnc_flags INTERFACE
  "${CMAKE_SOURCE_DIR}" "${CMAKE_BINARY_DIR}")
target_include_directories(attnc_flags SYSTEM INTERFACE
  ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
target_compile_options(attnc_flags INTERFACE
  ${ATTNC_LLVM_DEFINITIONS} -Wall -Wextra -Wno-unused-parameter
  $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions>
  -ffunction-sections -fdata-sections)

# LLVM's own libraries stay as Debian built them: no checks that need both
# sides of a call instrumented (vptr, function). Coverage is for the fuzzer.
if(ATTNC_SANITIZE)
  target_compile_options(attnc_flags INTERFACE
    -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize=vptr,function
    -fno-sanitize-recover=all -fno-omit-frame-pointer -gline-tables-only)
  target_link_options(attnc_flags INTERFACE -fsanitize=address,undefined)
endif()

file(WRITE "${CMAKE_BINARY_DIR}/pch.cpp.in" "// Only carries the precompiled header.\n")
configure_file("${CMAKE_BINARY_DIR}/pch.cpp.in" "${CMAKE_BINARY_DIR}/pch.cpp"
  COPYONLY)
add_library(attnc_pch OBJECT "${CMAKE_BINARY_DIR}/pch.cpp")
target_link_libraries(attnc_pch PRIVATE attnc_flags)
target_precompile_headers(attnc_pch PRIVATE
  "$<$<COMPILE_LANGUAGE:CXX>:${CMAKE_SOURCE_DIR}/cmake/pch.h>")

# attnc_tablegen(TARGET name TD file.td GEN flag output [flag output]...)
function(attnc_tablegen)
  cmake_parse_arguments(ARG "" "TARGET;TD" "GEN" ${ARGN})
  set(LLVM_TARGET_DEFINITIONS "${ARG_TD}")
  list(LENGTH ARG_GEN count)
  math(EXPR last "${count} - 1")
  set(TABLEGEN_OUTPUT)
  foreach(i RANGE 0 ${last} 2)
    math(EXPR j "${i} + 1")
    list(GET ARG_GEN ${i} flags)
    list(GET ARG_GEN ${j} output)
    separate_arguments(flags UNIX_COMMAND "${flags}")
    mlir_tablegen(${output} ${flags}
      EXTRA_INCLUDES "${CMAKE_SOURCE_DIR}" ${MLIR_INCLUDE_DIRS})
  endforeach()
  add_public_tablegen_target(${ARG_TARGET})
endfunction()

# attnc_glob(variable pattern): the matching files. A new one changes its
# folder, which makes CMake run again. (CONFIGURE_DEPENDS would do it, too, but
# with it there is always something to do for ninja.)
function(attnc_glob variable pattern)
  cmake_path(ABSOLUTE_PATH pattern OUTPUT_VARIABLE path)
  cmake_path(GET path PARENT_PATH folder)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${folder}")
  file(GLOB files RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" "${pattern}")
  set(${variable} "${files}" PARENT_SCOPE)
endfunction()

function(attnc_library name)
  cmake_parse_arguments(ARG "NO_PCH" "" "DEPENDS;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC attnc_flags ${ARG_LINK})
  if(NOT ARG_NO_PCH)
    target_precompile_headers(${name} REUSE_FROM attnc_pch)
  endif()
  if(ARG_DEPENDS)
    add_dependencies(${name} ${ARG_DEPENDS})
  endif()
endfunction()

# LLVM components any tool of ours may need; the linker drops the rest.
if(ATTNC_STATIC)
  llvm_map_components_to_libnames(ATTNC_LLVM_LIBS
    support core nvptxcodegen nvptxdesc nvptxinfo x86codegen x86asmparser
    x86desc x86info orcjit passes irreader linker ipo jitlink target)
else()
  set(ATTNC_LLVM_LIBS LLVM)
endif()

function(attnc_executable name)
  cmake_parse_arguments(ARG "NO_PCH" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE attnc_flags ${ARG_LINK})
  # The precompiled header is position-independent code of libraries.
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${name} PRIVATE -fPIC)
  target_link_options(${name} PRIVATE -pie)
  if(NOT ARG_NO_PCH)
    target_precompile_headers(${name} REUSE_FROM attnc_pch)
  endif()
  if(ATTNC_STATIC)
    target_link_libraries(${name} PRIVATE ${ATTNC_LLVM_LIBS})
    target_link_options(${name} PRIVATE
      -fuse-ld=lld "-B${LLVM_TOOLS_BINARY_DIR}" -Wl,--gc-sections
      -Wl,--icf=all -Wl,-z,pack-relative-relocs -Wl,--as-needed
      -static-libstdc++
      -static-libgcc $<$<CONFIG:Release>:-s>)
  else()
    target_link_libraries(${name} PRIVATE MLIR LLVM)
  endif()
endfunction()
