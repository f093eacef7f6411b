# How this project declares its folders: one object library each, gathered into one installed
# library `lockstep`. Object libraries let a test link one folder without what stands below it.

find_program(LOCKSTEP_CCACHE ccache)
if(LOCKSTEP_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LOCKSTEP_CCACHE})
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

add_library(lockstep_flags INTERFACE)
target_compile_options(lockstep_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Werror
  -fstack-protector-strong)
target_compile_definitions(lockstep_flags INTERFACE
  $<$<CONFIG:Release>:_FORTIFY_SOURCE=2> _GLIBCXX_ASSERTIONS)
if(LOCKSTEP_SANITIZE)
  # CAF is not instrumented and trips `vptr` inside its own headers.
  target_compile_options(lockstep_flags INTERFACE
    -fsanitize=${LOCKSTEP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(lockstep_flags INTERFACE -fsanitize=${LOCKSTEP_SANITIZE})
  if(LOCKSTEP_SANITIZE MATCHES "undefined")
    target_compile_options(lockstep_flags INTERFACE -fno-sanitize=vptr)
    target_link_options(lockstep_flags INTERFACE -fno-sanitize=vptr)
  endif()
endif()

set_property(GLOBAL PROPERTY LOCKSTEP_FOLDERS "")
set_property(GLOBAL PROPERTY LOCKSTEP_HEADERS "")

# lockstep_folder(<name> STANDARD <n> SOURCES … PUBLIC_HEADERS … LINK …)
# PUBLIC_HEADERS are installed, and each is compiled alone in the tests.
function(lockstep_folder name)
  cmake_parse_arguments(arg "" "STANDARD" "SOURCES;PUBLIC_HEADERS;LINK" ${ARGN})
  add_library(lockstep_${name} OBJECT ${arg_SOURCES})
  target_compile_features(lockstep_${name} PUBLIC cxx_std_${arg_STANDARD})
  target_include_directories(lockstep_${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(lockstep_${name} PRIVATE lockstep_flags PUBLIC ${arg_LINK})
  set_property(GLOBAL APPEND PROPERTY LOCKSTEP_FOLDERS ${name})
  foreach(header IN LISTS arg_PUBLIC_HEADERS)
    set_property(GLOBAL APPEND PROPERTY LOCKSTEP_HEADERS ${name}/${header})
  endforeach()
endfunction()

# Gathers the folders declared so far into the library that is installed.
function(lockstep_library)
  get_property(folders GLOBAL PROPERTY LOCKSTEP_FOLDERS)
  add_library(lockstep)
  add_library(lockstep::lockstep ALIAS lockstep)
  foreach(folder IN LISTS folders)
    target_sources(lockstep PRIVATE $<TARGET_OBJECTS:lockstep_${folder}>)
  endforeach()
endfunction()
