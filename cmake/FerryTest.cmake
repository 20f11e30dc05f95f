# ferry_reaches_grpc(<target> <variable>)
#
# Whether the target links gRPC, itself or through what it links.
function(ferry_reaches_grpc target variable)
  set(open ${target})
  set(seen)
  while(open)
    list(POP_FRONT open next)
    # What a static library keeps to itself is linked all the same.
    string(REGEX REPLACE "^\\$<LINK_ONLY:(.*)>$" "\\1" next "${next}")
    if(next MATCHES "^gRPC::")
      set(${variable} TRUE PARENT_SCOPE)
      return()
    endif()
    if(next IN_LIST seen OR NOT TARGET "${next}")
      continue()
    endif()
    list(APPEND seen ${next})
    foreach(property LINK_LIBRARIES INTERFACE_LINK_LIBRARIES)
      get_target_property(libraries ${next} ${property})
      if(libraries)
        list(APPEND open ${libraries})
      endif()
    endforeach()
  endwhile()
  set(${variable} FALSE PARENT_SCOPE)
endfunction()

# The programs that the thread sanitizer is for.
add_custom_target(tests_without_grpc)
# What is run without a sanitizer where all else is run with one: programs with tests that are
# labelled plain, and what slow tests start.
add_custom_target(plain)

# ferry_gtest(<target> PREFIX <prefix> LABEL <label> TIMEOUT <seconds> [WHOLE] [PLAIN <filter>])
#
# Registers a GoogleTest program with ctest; everything that it links must be known by now. gRPC is
# not instrumented and drowns the thread sanitizer in reports, so that one's builds leave out
# whatever links it. tests_without_grpc builds the rest.
#
# Each test of the program is one of ctest's, in a process of its own. For the thousands of tests
# that are over at once that is most of what they take where a sanitizer starts with each: what is
# WHOLE is one of ctest's tests in such a build, and fails if any in it is skipped. Tests that match
# PLAIN, a filter of GoogleTest, are no tests of a build with a sanitizer, and labelled plain in
# others.
function(ferry_gtest target)
  cmake_parse_arguments(ARG "WHOLE" "PREFIX;LABEL;TIMEOUT;PLAIN" "" ${ARGN})
  ferry_reaches_grpc(${target} reaches_grpc)
  if(reaches_grpc)
    set_property(GLOBAL APPEND PROPERTY FERRY_TESTS_WITH_GRPC ${target})
    if(FERRY_SANITIZER STREQUAL "thread")
      set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL TRUE)
      return()
    endif()
  else()
    set_property(GLOBAL APPEND PROPERTY FERRY_TESTS_WITHOUT_GRPC ${target})
    add_dependencies(tests_without_grpc ${target})
  endif()
  if(ARG_PLAIN OR ARG_LABEL STREQUAL "plain")
    add_dependencies(plain ${target})
  endif()
  set(others "*")
  if(ARG_PLAIN)
    set(others "-${ARG_PLAIN}")
  endif()
  if(FERRY_SANITIZER AND ARG_WHOLE)
    string(REGEX REPLACE "/$" "" name ${ARG_PREFIX})
    add_test(NAME ${name} COMMAND ${target} --gtest_filter=${others})
    set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 900
                         FAIL_REGULAR_EXPRESSION "[[]  SKIPPED []]")
    return()
  endif()
  gtest_discover_tests(${target} TEST_PREFIX "${ARG_PREFIX}" DISCOVERY_TIMEOUT 60
                       TEST_FILTER "${others}"
                       PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
  if(ARG_PLAIN AND NOT FERRY_SANITIZER)
    gtest_discover_tests(${target} TEST_PREFIX "${ARG_PREFIX}" DISCOVERY_TIMEOUT 60
                         TEST_FILTER "${ARG_PLAIN}" TEST_LIST ${target}_PLAIN_TESTS
                         PROPERTIES LABELS plain TIMEOUT ${ARG_TIMEOUT})
  endif()
endfunction()

# ferry_write_grpc_list(<file>)
#
# Writes a line for each program that ferry_gtest() was told of: "with" or "without", and its path.
function(ferry_write_grpc_list file)
  set(lines)
  foreach(kind WITH WITHOUT)
    string(TOLOWER ${kind} word)
    get_property(targets GLOBAL PROPERTY FERRY_TESTS_${kind}_GRPC)
    foreach(target ${targets})
      string(APPEND lines "${word} $<TARGET_FILE:${target}>\n")
    endforeach()
  endforeach()
  file(GENERATE OUTPUT ${file} CONTENT "${lines}")
endfunction()
