# Installs the build into a prefix of its own, moves that, and builds and runs the consumer against
# it twice: by find_package and by pkg-config.
cmake_minimum_required(VERSION 3.22)

function(run)
  cmake_parse_arguments(arg "" "OUT" "COMMAND" ${ARGN})
  execute_process(COMMAND ${arg_COMMAND} RESULT_VARIABLE code OUTPUT_VARIABLE out
                  ERROR_VARIABLE err OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT code EQUAL 0)
    list(JOIN arg_COMMAND " " command)
    message(FATAL_ERROR "failed (${code}): ${command}\n${out}\n${err}")
  endif()
  if(arg_OUT)
    set(${arg_OUT} "${out}" PARENT_SCOPE)
  endif()
endfunction()

function(expect_run program)
  run(COMMAND ${program} OUT said)
  if(NOT said STREQUAL "lockstep ${VERSION} synced")
    message(FATAL_ERROR "${program} said: ${said}")
  endif()
endfunction()

string(REPLACE "," ";" HEADERS "${HEADERS}")
file(REMOVE_RECURSE ${WORK})
run(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first)
file(RENAME ${WORK}/first ${WORK}/prefix)
set(prefix ${WORK}/prefix)
set(ENV{LD_LIBRARY_PATH} ${prefix}/${LIBDIR})

foreach(file IN ITEMS include/lockstep/lockstep.hpp share/doc/lockstep/LICENSE)
  if(NOT EXISTS ${prefix}/${file})
    message(FATAL_ERROR "not installed: ${file}")
  endif()
endforeach()

# Nothing that a consumer reads may point back to where it was built.
file(GLOB_RECURSE texts ${prefix}/*.hpp ${prefix}/*.cmake ${prefix}/*.pc)
foreach(text IN LISTS texts)
  file(READ ${text} content)
  foreach(place IN ITEMS ${SOURCE} ${BUILD} ${WORK}/first)
    string(FIND "${content}" ${place} found)
    if(NOT found EQUAL -1)
      message(FATAL_ERROR "${text} names ${place}")
    endif()
  endforeach()
endforeach()

run(COMMAND ${CMAKE_COMMAND} -S ${CONSUMER} -B ${WORK}/by-cmake -G ${GENERATOR}
    -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${prefix}
    "-DINSTALLED_HEADERS=lockstep.hpp;${HEADERS}")
run(COMMAND ${CMAKE_COMMAND} --build ${WORK}/by-cmake)
expect_run(${WORK}/by-cmake/consumer)

set(ENV{PKG_CONFIG_PATH} ${prefix}/${LIBDIR}/pkgconfig)
run(COMMAND ${PKG_CONFIG} --cflags lockstep OUT cflags)
run(COMMAND ${PKG_CONFIG} --libs lockstep OUT libs)
separate_arguments(cflags UNIX_COMMAND "${cflags}")
separate_arguments(libs UNIX_COMMAND "${libs}")
run(COMMAND ${COMPILER} -std=c++20 ${cflags} ${CONSUMER}/main.cpp -o ${WORK}/by-pkg-config ${libs})
expect_run(${WORK}/by-pkg-config)
if(EXISTS ${prefix}/${LIBDIR}/liblockstep.a)
  run(COMMAND ${COMPILER} -std=c++20 ${cflags} ${CONSUMER}/main.cpp -o ${WORK}/all-by-pkg-config
      -Wl,--whole-archive ${prefix}/${LIBDIR}/liblockstep.a -Wl,--no-whole-archive ${libs})
endif()

# An engine that embeds Lockstep must not get these into its own translation units.
set(all "#include <lockstep/lockstep.hpp>\n")
foreach(header IN LISTS HEADERS)
  string(APPEND all "#include <lockstep/${header}>\n")
endforeach()
file(WRITE ${WORK}/all.cpp "${all}")
run(COMMAND ${COMPILER} -std=c++20 ${cflags} -M ${WORK}/all.cpp OUT includes)
if(includes MATCHES "/(caf|fmt|spdlog|toml\\+\\+|hwy|nlohmann)/")
  message(FATAL_ERROR "an installed header includes ${CMAKE_MATCH_1}")
endif()
