# Object files of one instruction set may share no inline function with other code: the linker keeps
# one copy of each, and a machine without that instruction set could run it.
# Run: cmake -DOBJECTS=a.o;b.o -DNM=nm -DNAMESPACE=demist::cpu::avx512 -P this-file
cmake_minimum_required(VERSION 3.25)
if(NOT OBJECTS)
  message(FATAL_ERROR "no object files to look at")
endif()
execute_process(COMMAND ${NM} -C --defined-only ${OBJECTS} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE ";" "," symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")
set(bad "")
foreach(symbol ${symbols})
  # W, V, u: weak or unique. DW.ref.*: a pointer for exception handling, not code.
  if(symbol MATCHES "^[0-9a-f]+ [WVu] " AND NOT symbol MATCHES "${NAMESPACE}::| DW\\.ref\\.")
    string(APPEND bad "${symbol}\n")
  endif()
endforeach()
if(bad)
  message(FATAL_ERROR "inline functions that other code may share; inline them or give them internal linkage:\n${bad}")
endif()
