# Included by llama-cpp-python's own CMake project when it is compiled (CMAKE_PROJECT_INCLUDE, see the Makefile).
# That project forces llama.cpp's `common` library on, which its Python package neither ships nor loads; a normal
# variable takes precedence over the forced cache entry (CMP0126), so a third of the compile is left out.
set(LLAMA_BUILD_COMMON OFF)
