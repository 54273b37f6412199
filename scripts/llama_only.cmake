# Included by CMake right after llama-cpp-python's project(), through CMAKE_PROJECT_llama_cpp_INCLUDE.
# That project forces llama.cpp's `common` library on in the cache, which no -D can undo; a plain variable hides the
# cache entry. The bindings load only libllama and libggml: without `common` and mtmd 74 files compile instead of 178.
set(LLAMA_BUILD_COMMON OFF)
