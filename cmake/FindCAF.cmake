# Finds CAF: a 1.x config package if there is one, otherwise a plain install (Debian's libcaf-dev
# 0.17.6 ships neither a CMake config nor a pkg-config file).
# Components: core io openssl.  Targets: CAF::<component>.  Result: CAF_FOUND, CAF_VERSION.

# The explicit "1" matters: a nested call without a version would inherit the caller's.
find_package(CAF 1 CONFIG QUIET)
if(CAF_CONFIG)
  foreach(_component IN LISTS CAF_FIND_COMPONENTS)
    if(TARGET CAF::${_component})
      set(CAF_${_component}_FOUND TRUE)
    endif()
  endforeach()
  return()
endif()

include(FindPackageHandleStandardArgs)
find_package(Threads REQUIRED)
find_path(CAF_INCLUDE_DIR caf/config.hpp)
if(CAF_INCLUDE_DIR)
  file(STRINGS "${CAF_INCLUDE_DIR}/caf/config.hpp" _caf_line REGEX "^#define CAF_VERSION [0-9]+")
  if(_caf_line MATCHES "CAF_VERSION ([0-9]+)")
    math(EXPR _caf_major "${CMAKE_MATCH_1} / 10000")
    math(EXPR _caf_minor "${CMAKE_MATCH_1} / 100 % 100")
    math(EXPR _caf_patch "${CMAKE_MATCH_1} % 100")
    set(CAF_VERSION "${_caf_major}.${_caf_minor}.${_caf_patch}")
  endif()
endif()

set(_caf_needs_io CAF::core)
set(_caf_needs_openssl CAF::io)
foreach(_component IN LISTS CAF_FIND_COMPONENTS)
  find_library(CAF_${_component}_LIBRARY NAMES caf_${_component})
  mark_as_advanced(CAF_${_component}_LIBRARY)
  if(CAF_${_component}_LIBRARY AND CAF_INCLUDE_DIR)
    set(CAF_${_component}_FOUND TRUE)
    if(NOT TARGET CAF::${_component})
      add_library(CAF::${_component} UNKNOWN IMPORTED)
      set_target_properties(CAF::${_component} PROPERTIES
        IMPORTED_LOCATION "${CAF_${_component}_LIBRARY}"
        INTERFACE_INCLUDE_DIRECTORIES "${CAF_INCLUDE_DIR}")
      target_link_libraries(CAF::${_component} INTERFACE
        Threads::Threads ${_caf_needs_${_component}})
    endif()
  endif()
endforeach()
find_package_handle_standard_args(CAF REQUIRED_VARS CAF_INCLUDE_DIR CAF_core_LIBRARY
  VERSION_VAR CAF_VERSION HANDLE_COMPONENTS)
mark_as_advanced(CAF_INCLUDE_DIR)
