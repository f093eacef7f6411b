# Decides whether the CUDA kernels are built: where nvcc is found, unless LOCKSTEP_CUDA says
# otherwise. Sets LOCKSTEP_WITH_CUDA, and prints what came of it.
set(LOCKSTEP_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE LOCKSTEP_CUDA PROPERTY STRINGS AUTO ON OFF)

set(LOCKSTEP_WITH_CUDA OFF)
if(NOT LOCKSTEP_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LOCKSTEP_CUDA is ${LOCKSTEP_CUDA}, not AUTO, ON or OFF")
elseif(LOCKSTEP_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: not built, LOCKSTEP_CUDA is OFF")
elseif(NOT LOCKSTEP_NVCC)
  if(LOCKSTEP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LOCKSTEP_CUDA is ON, but there is no nvcc; LOCKSTEP_NVCC can name it")
  endif()
  message(STATUS "CUDA kernels: not built, there is no nvcc")
elseif(LOCKSTEP_CUDA STREQUAL "AUTO" AND (LOCKSTEP_SANITIZE OR LOCKSTEP_FUZZ OR LOCKSTEP_COVERAGE))
  # The emulated grid runs the same sources where sanitizers see them.
  message(STATUS "CUDA kernels: not built beside sanitizers, unless LOCKSTEP_CUDA is ON")
else()
  set(CMAKE_CUDA_COMPILER ${LOCKSTEP_NVCC})
  # Code for the A100, and for the H100 and H200; PTX for what comes after these.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  # What a program needs to link, in full, since cudart is an archive: it is not there where nobody
  # asks for a device, and without a driver it says that there is none.
  lockstep_dependency(CUDA::cudart_static PACKAGE CUDAToolkit
                      LIBS "-L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -lpthread")
  set(LOCKSTEP_WITH_CUDA ON)
  message(STATUS "CUDA kernels: built by ${LOCKSTEP_NVCC}, CUDA ${CUDAToolkit_VERSION}, "
                 "for ${CMAKE_CUDA_ARCHITECTURES}")
endif()
