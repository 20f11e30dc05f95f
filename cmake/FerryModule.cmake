# ferry_module(<name> [DEPS target...])
#
# Makes the static library ferry_<name> of all .cc files in the calling folder. Files named
# fake_*.cc or *_conformance.cc go into ferry_<name>_testing instead: they serve tests only, yet
# live next to the interface that they stand in for.
function(ferry_module name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  set(testing_sources ${sources})
  list(FILTER testing_sources INCLUDE REGEX "/(fake_[^/]*|[^/]*_conformance)\\.cc$")
  list(FILTER sources EXCLUDE REGEX "/(fake_[^/]*|[^/]*_conformance)\\.cc$")

  if(sources)
    add_library(ferry_${name} STATIC ${sources})
    target_include_directories(ferry_${name} PUBLIC ${PROJECT_SOURCE_DIR})
    target_link_libraries(ferry_${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(ferry_${name} INTERFACE)
    target_include_directories(ferry_${name} INTERFACE ${PROJECT_SOURCE_DIR})
    target_link_libraries(ferry_${name} INTERFACE ${ARG_DEPS})
  endif()

  if(testing_sources)
    add_library(ferry_${name}_testing STATIC ${testing_sources})
    target_link_libraries(ferry_${name}_testing PUBLIC ferry_${name} GTest::gtest GTest::gmock)
  endif()
endfunction()

# ferry_unit_test(<folder> [DEPS target...] [PLAIN filter])
#
# Builds tests/unit/<folder>/*_test.cc into one program and registers its tests with ctest; what
# matches PLAIN is not for sanitizers (ferry_gtest).
function(ferry_unit_test folder)
  cmake_parse_arguments(ARG "" "PLAIN" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cc)
  if(NOT sources)
    return()
  endif()
  string(REPLACE "/" "_" name ${folder})
  add_executable(${name}_test ${sources})
  # Matchers and mocks take most of the time, and are the same in all of a folder's tests.
  set_target_properties(${name}_test PROPERTIES UNITY_BUILD_BATCH_SIZE 30)
  target_include_directories(${name}_test PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name}_test PRIVATE ${ARG_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  ferry_gtest(${name}_test PREFIX "unit/${folder}/" LABEL unit TIMEOUT 120 WHOLE PLAIN "${ARG_PLAIN}")
endfunction()
