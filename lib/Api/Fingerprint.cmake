# Writes a C++ file that holds one hash of the files named in LIST, by their
# paths below ROOT and their contents, and of LLVM's version.
file(STRINGS "${LIST}" files)
set(all "LLVM ${LLVM}\n")
foreach(file ${files})
  file(SHA256 "${file}" hash)
  file(RELATIVE_PATH name "${ROOT}" "${file}")
  string(APPEND all "${name} ${hash}\n")
endforeach()
string(SHA256 hash "${all}")
string(SUBSTRING "${hash}" 0 32 hash)
file(WRITE "${OUTPUT}.new"
  "#include \"lib/Api/Session.h\"\n"
  "const char *attnc::compilerFingerprint() { return \"${hash}\"; }\n")
# A build that changed nothing keeps the time of the file.
execute_process(COMMAND "${CMAKE_COMMAND}" -E copy_if_different
  "${OUTPUT}.new" "${OUTPUT}")
