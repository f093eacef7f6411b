# How this project declares its folders: one object library each, gathered into one installed
# library `lockstep`. Object libraries let a test link one folder without what stands below it.

include(CMakePackageConfigHelpers)

find_program(LOCKSTEP_CCACHE ccache)
if(LOCKSTEP_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LOCKSTEP_CCACHE})
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

add_library(lockstep_flags INTERFACE)
# The one source that is CUDA's has options of its own: nvcc does not know these.
function(lockstep_cxx_options)
  target_compile_options(lockstep_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${ARGN}>")
endfunction()
lockstep_cxx_options(
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Werror
  -fstack-protector-strong)
target_compile_definitions(lockstep_flags INTERFACE
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:_FORTIFY_SOURCE=3> _GLIBCXX_ASSERTIONS)
# What an overflow could redirect is read-only before anything of ours runs.
target_link_options(lockstep_flags INTERFACE -Wl,-z,relro,-z,now)
# GCC 12 warns of overlaps that cannot be in `"text" + std::string` (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  lockstep_cxx_options(-Wno-restrict)
endif()
if(LOCKSTEP_SANITIZE)
  # CAF is not instrumented and trips `vptr` inside its own headers.
  lockstep_cxx_options(
    -fsanitize=${LOCKSTEP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(lockstep_flags INTERFACE -fsanitize=${LOCKSTEP_SANITIZE})
  if(LOCKSTEP_SANITIZE MATCHES "undefined")
    lockstep_cxx_options(-fno-sanitize=vptr)
    target_link_options(lockstep_flags INTERFACE -fno-sanitize=vptr)
  endif()
  # The thread sanitizer knows no fences. Asio's stand beside locks, which it does know.
  if(LOCKSTEP_SANITIZE MATCHES "thread")
    target_compile_definitions(lockstep_flags INTERFACE BOOST_ASIO_DISABLE_FENCED_BLOCK)
  endif()
endif()
# GCC 12 loses track of sizes, and of which member of a variant is alive, in code that sanitizers
# have filled with branches: what it says of them is only asked of the other builds.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND LOCKSTEP_SANITIZE)
  lockstep_cxx_options(
    -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-array-bounds)
endif()
if(LOCKSTEP_FUZZ AND NOT LOCKSTEP_COVERAGE)
  lockstep_cxx_options(-fsanitize=fuzzer-no-link)
endif()
if(LOCKSTEP_COVERAGE)
  lockstep_cxx_options(-fprofile-instr-generate -fcoverage-mapping)
  target_link_options(lockstep_flags INTERFACE -fprofile-instr-generate)
endif()

set_property(GLOBAL PROPERTY LOCKSTEP_FOLDERS "")
set_property(GLOBAL PROPERTY LOCKSTEP_HEADERS "")
set_property(GLOBAL PROPERTY LOCKSTEP_DEPENDENCIES "")

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

# lockstep_dependency(<target> PACKAGE <arguments of find_package> | MODULE <pkg-config module>
#                     [PC <pkg-config module>] [LIBS <flags>] [HEADER_ONLY])
# Finds a library that folders may link, and records how those who use ours find it again: by the
# same PACKAGE or MODULE from CMake; from pkg-config as the module PC, or by bare LIBS where the
# distribution has no module for it. Of a HEADER_ONLY one nothing stays behind in ours.
macro(lockstep_dependency target)
  cmake_parse_arguments(_dependency "HEADER_ONLY" "MODULE;PC;LIBS" "PACKAGE" ${ARGN})
  if(_dependency_MODULE)
    string(REGEX REPLACE "^PkgConfig::" "" _dependency_name ${target})
    set(_dependency_PC ${_dependency_MODULE})
    set(_dependency_find
        "pkg_check_modules(${_dependency_name} REQUIRED IMPORTED_TARGET ${_dependency_MODULE})")
    pkg_check_modules(${_dependency_name} REQUIRED IMPORTED_TARGET ${_dependency_MODULE})
  else()
    list(JOIN _dependency_PACKAGE " " _dependency_find)
    set(_dependency_find "find_dependency(${_dependency_find})")
    find_package(${_dependency_PACKAGE} REQUIRED)
  endif()
  set_property(GLOBAL APPEND PROPERTY LOCKSTEP_DEPENDENCIES ${target})
  set_property(GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_HEADER_ONLY_${target}
               ${_dependency_HEADER_ONLY})
  set_property(GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_FIND_${target} "${_dependency_find}")
  set_property(GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_PC_${target} "${_dependency_PC}")
  set_property(GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_LIBS_${target} "${_dependency_LIBS}")
endmacro()

# Gathers the folders declared so far into the library that is installed.
function(lockstep_library)
  get_property(folders GLOBAL PROPERTY LOCKSTEP_FOLDERS)
  get_property(dependencies GLOBAL PROPERTY LOCKSTEP_DEPENDENCIES)
  add_library(lockstep)
  add_library(lockstep::lockstep ALIAS lockstep)
  set(used "")
  foreach(folder IN LISTS folders)
    target_sources(lockstep PRIVATE $<TARGET_OBJECTS:lockstep_${folder}>)
    get_target_property(links lockstep_${folder} INTERFACE_LINK_LIBRARIES)
    list(FILTER links EXCLUDE REGEX "lockstep_")
    foreach(link IN LISTS links)
      if(NOT link IN_LIST dependencies)
        message(FATAL_ERROR "${folder}/ links ${link}, which is not a lockstep_dependency")
      endif()
      get_property(header_only GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_HEADER_ONLY_${link})
      if(NOT header_only)
        list(APPEND used ${link})
      endif()
    endforeach()
  endforeach()
  list(REMOVE_DUPLICATES used)
  target_link_libraries(lockstep PRIVATE ${used})
  if(LOCKSTEP_SANITIZE)
    target_link_options(lockstep PUBLIC -fsanitize=${LOCKSTEP_SANITIZE})
  endif()
  target_compile_features(lockstep PUBLIC cxx_std_20)
  # Before 1.0 a minor version may break what is linked against it.
  set_target_properties(lockstep PROPERTIES
    LINKER_LANGUAGE CXX
    VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

  configure_file(${PROJECT_SOURCE_DIR}/cmake/lockstep.hpp.in
                 ${PROJECT_BINARY_DIR}/include/lockstep/lockstep.hpp @ONLY)
  # The second directory is for the headers themselves, which include each other as "folder/name".
  target_include_directories(lockstep PUBLIC
    $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/lockstep>)
  lockstep_install("${used}")
endfunction()

# Installs the library, its headers and what find_package and pkg-config read.
function(lockstep_install dependencies)
  set(cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
  set(find_lines "")
  set(pc_modules "")
  set(pc_libs "")
  foreach(dependency IN LISTS dependencies)
    get_property(line GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_FIND_${dependency})
    get_property(module GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_PC_${dependency})
    get_property(libs GLOBAL PROPERTY LOCKSTEP_DEPENDENCY_LIBS_${dependency})
    string(APPEND find_lines "  ${line}\n")
    list(APPEND pc_modules ${module})
    list(APPEND pc_libs ${libs})
  endforeach()
  set(pc_modules_list ${pc_modules})
  list(JOIN pc_modules " " pc_modules)
  list(JOIN pc_libs " " pc_libs)
  get_target_property(library_type lockstep TYPE)
  set(is_static OFF)
  set(pc_static_libs "")
  if(library_type STREQUAL "STATIC_LIBRARY")
    set(is_static ON)
    # Without a shared library everybody who links needs them all, whether or not they think of
    # `--static`. Bare flags, since Requires would put these libraries' macros into users' builds.
    execute_process(COMMAND ${PKG_CONFIG_EXECUTABLE} --libs ${pc_modules_list}
                    OUTPUT_VARIABLE pc_module_libs OUTPUT_STRIP_TRAILING_WHITESPACE
                    COMMAND_ERROR_IS_FATAL ANY)
    set(pc_static_libs " ${pc_module_libs} ${pc_libs}")
    set(pc_modules "")
    set(pc_libs "")
  endif()
  set(pc_sanitize "")
  if(LOCKSTEP_SANITIZE)
    set(pc_sanitize " -fsanitize=${LOCKSTEP_SANITIZE}")
  endif()
  # The installed tree can be moved: its pkg-config file finds the prefix from where it lies.
  file(RELATIVE_PATH pc_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)

  configure_file(${PROJECT_SOURCE_DIR}/cmake/lockstepConfig.cmake.in
                 ${PROJECT_BINARY_DIR}/cmake/lockstepConfig.cmake @ONLY)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/lockstep.pc.in
                 ${PROJECT_BINARY_DIR}/cmake/lockstep.pc @ONLY)
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/lockstepConfigVersion.cmake
                                   COMPATIBILITY SameMinorVersion)

  install(TARGETS lockstep EXPORT lockstepTargets)
  install(EXPORT lockstepTargets NAMESPACE lockstep:: DESTINATION ${cmake_dir})
  install(FILES ${PROJECT_BINARY_DIR}/cmake/lockstepConfig.cmake
                ${PROJECT_BINARY_DIR}/cmake/lockstepConfigVersion.cmake
                ${PROJECT_SOURCE_DIR}/cmake/FindCAF.cmake
          DESTINATION ${cmake_dir})
  install(FILES ${PROJECT_BINARY_DIR}/cmake/lockstep.pc
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
  install(FILES ${PROJECT_BINARY_DIR}/include/lockstep/lockstep.hpp
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep)
  get_property(headers GLOBAL PROPERTY LOCKSTEP_HEADERS)
  foreach(header IN LISTS headers)
    cmake_path(GET header PARENT_PATH folder)
    install(FILES ${PROJECT_SOURCE_DIR}/${header}
            DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/${folder})
  endforeach()
endfunction()

# lockstep_program(SOURCES … LINK …): the command-line program, left at <build>/lockstep.
function(lockstep_program)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_executable(lockstep_program ${arg_SOURCES})
  set_target_properties(lockstep_program PROPERTIES
    OUTPUT_NAME lockstep RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  target_link_libraries(lockstep_program PRIVATE lockstep_flags lockstep ${arg_LINK})
  install(TARGETS lockstep_program)
endfunction()

# Says which of the optional tools and libraries are there. None of them is needed.
function(lockstep_optional)
  find_program(LOCKSTEP_NVCC nvcc HINTS /usr/local/cuda/bin)
  find_path(LOCKSTEP_NCCL nccl.h HINTS /usr/local/cuda/include)
  find_program(LOCKSTEP_PYTHON python3)
  mark_as_advanced(LOCKSTEP_NVCC LOCKSTEP_NCCL LOCKSTEP_PYTHON)
  set(line "")
  foreach(name NVCC NCCL PYTHON)
    if(LOCKSTEP_${name})
      string(APPEND line " ${name} ${LOCKSTEP_${name}}")
    else()
      string(APPEND line " ${name} not found")
    endif()
  endforeach()
  message(STATUS "Optional:${line}")
endfunction()
