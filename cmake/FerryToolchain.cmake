# Language level, warnings, sanitizers and ccache, applied to every target of the project.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

set(FERRY_SANITIZER "" CACHE STRING "Empty, or one of: address thread fuzzer")
set_property(CACHE FERRY_SANITIZER PROPERTY STRINGS "" address thread fuzzer)
set(FERRY_GUEST_BINARIES "" CACHE PATH
    "Folder with ferry-guest and ferry-workload from another build (sanitizer builds need it)")

add_compile_options(-Wall -Wextra -Wpedantic -Werror -Wno-missing-field-initializers)

# What is built does not say where, so that checkouts share what the compiler's cache holds.
add_compile_options(-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=)

# GCC 12 reports uninitialised, dangling and wrongly freed objects inside coroutine frames that do
# not exist (GCC bugs 105562 and 107985 are of this family), so these are off.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wno-maybe-uninitialized -Wno-dangling-pointer
                      -Wno-mismatched-new-delete)
endif()

if(FERRY_SANITIZER STREQUAL "address")
  # These four checks double what GCC takes for a file of coroutines, and the address sanitizer sees
  # most of what they would.
  add_compile_options(-fsanitize=address,undefined -fno-sanitize=null,alignment,object-size,vptr
                      -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
  # Asio keeps what was freed last for its next coroutine or handler, where nobody sees who uses it
  # afterwards. (Handlers of cancellations it keeps all the same.)
  add_compile_definitions(BOOST_ASIO_DISABLE_AWAITABLE_FRAME_RECYCLING
                          BOOST_ASIO_DISABLE_SMALL_BLOCK_RECYCLING)
elseif(FERRY_SANITIZER STREQUAL "thread")
  # Asio's fences are not understood by tsan; GCC warns of that at every use.
  add_compile_options(-fsanitize=thread -Wno-tsan)
  add_link_options(-fsanitize=thread)
elseif(FERRY_SANITIZER STREQUAL "fuzzer")
  # Debian's libraries are not instrumented, so what crosses into them cannot be checked for types.
  set(ferry_fuzz_options -fsanitize=address,undefined -fno-sanitize=vptr,function
      -fno-sanitize-recover=undefined)
  add_compile_options(${ferry_fuzz_options} -fsanitize=fuzzer-no-link -fno-omit-frame-pointer)
  add_link_options(${ferry_fuzz_options} -fsanitize=fuzzer)
elseif(NOT FERRY_SANITIZER STREQUAL "")
  message(FATAL_ERROR "FERRY_SANITIZER must be empty, address, thread or fuzzer")
endif()

# Most of the time to compile a file goes to the headers of Asio, gRPC and GoogleTest, so several
# files of a target are compiled at once. A file must include what it uses all the same: build with
# -DFERRY_UNITY=OFF to see that it does.
option(FERRY_UNITY "Compile several sources of a target at once" ON)
set(CMAKE_UNITY_BUILD ${FERRY_UNITY})
set(CMAKE_UNITY_BUILD_BATCH_SIZE 16)
# To GCC a unit's sources look like headers, where a coroutine's frame must not hold a local type.
if(FERRY_UNITY AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wno-subobject-linkage)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
