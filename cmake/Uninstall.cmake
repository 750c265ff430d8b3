# Removes the files of the last `cmake --install`, and folders that this leaves
# empty if they are named after attnc. Run in the build folder.

if(NOT EXISTS install_manifest.txt)
  message(FATAL_ERROR "uninstall: nothing was installed from this build "
    "(there is no install_manifest.txt)")
endif()
file(STRINGS install_manifest.txt files)
foreach(file ${files})
  file(REMOVE "$ENV{DESTDIR}${file}")
  cmake_path(GET file PARENT_PATH folder)
  list(APPEND folders "$ENV{DESTDIR}${folder}")
endforeach()
list(REMOVE_DUPLICATES folders)
foreach(folder ${folders})
  file(GLOB left "${folder}/*")
  if(folder MATCHES "/attnc$" AND NOT left)
    file(REMOVE_RECURSE "${folder}")
  endif()
endforeach()
file(REMOVE install_manifest.txt)
