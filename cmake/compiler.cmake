# One interface target carries what every folder of the project compiles with.
add_library(demist_options INTERFACE)
target_include_directories(demist_options INTERFACE ${PROJECT_SOURCE_DIR})
# For C++ only: nvcc has its own words for warnings, and its generated code is not pedantic.
target_compile_options(
  demist_options
  INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wdeprecated-copy-dtor>"
            "$<$<COMPILE_LANGUAGE:CXX>:-Werror;-Wno-error=deprecated-copy-dtor>")
# Same source, same bits: no value-changing contraction differences between files of one build.
target_compile_options(demist_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
target_compile_definitions(demist_options INTERFACE DEMIST_VERSION="${PROJECT_VERSION}")
# The headers of a folder's files are most of what compiling them costs. Of batches of six, a clean build
# takes two thirds of the time, and a change to one file a few seconds more.
option(DEMIST_UNITY "Compile a folder's files in batches" ON)
if(DEMIST_UNITY)
  # A class of a batch is not a class of a header.
  target_compile_options(demist_options INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-subobject-linkage>)
endif()
if(DEMIST_SANITIZE)
  # Sanitized code confuses GCC's flow analysis.
  target_compile_options(demist_options INTERFACE -fsanitize=address,undefined -fno-omit-frame-pointer
                                                 -fno-sanitize-recover=undefined -Wno-maybe-uninitialized)
  target_compile_definitions(demist_options INTERFACE _GLIBCXX_ASSERTIONS)  # bounds of [] as well
  target_link_options(demist_options INTERFACE -fsanitize=address,undefined)
endif()
if(DEMIST_FUZZ)
  target_compile_options(demist_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined
                                                 -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_compile_definitions(demist_options INTERFACE _GLIBCXX_ASSERTIONS)
  target_link_options(demist_options INTERFACE -fsanitize=address,undefined)
endif()

# demist_library(core LINK ...): every .cpp of the folder tree becomes demist_<name>.
function(demist_library name)
  cmake_parse_arguments(ARG "" "" "LINK;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} *.cpp)
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${ARG_EXCLUDE}")
  endif()
  add_library(demist_${name} STATIC ${sources})
  set_target_properties(demist_${name} PROPERTIES LINKER_LANGUAGE CXX UNITY_BUILD ${DEMIST_UNITY}
                                                  UNITY_BUILD_BATCH_SIZE 6)
  target_link_libraries(demist_${name} PUBLIC demist_options ${ARG_LINK})
endfunction()
