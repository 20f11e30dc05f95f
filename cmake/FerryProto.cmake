# ferry_proto_library(<name> PROTOS file... [GRPC] [DEPS target...])
#
# Generates C++ from protos (paths relative to proto/) and makes the static library ferry_<name>.
get_target_property(GRPC_CPP_PLUGIN gRPC::grpc_cpp_plugin LOCATION)

function(ferry_proto_library name)
  cmake_parse_arguments(ARG "GRPC" "" "PROTOS;DEPS" ${ARGN})
  set(out ${PROJECT_BINARY_DIR}/proto_gen)
  file(MAKE_DIRECTORY ${out})
  set(generated)
  foreach(proto ${ARG_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    set(outputs ${out}/${stem}.pb.cc ${out}/${stem}.pb.h)
    set(command protobuf::protoc --proto_path=${PROJECT_SOURCE_DIR}/proto --cpp_out=${out})
    if(ARG_GRPC)
      list(APPEND outputs ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h)
      list(APPEND command --grpc_out=${out} --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN})
    endif()
    add_custom_command(OUTPUT ${outputs} COMMAND ${command} ${PROJECT_SOURCE_DIR}/proto/${proto}
                       DEPENDS ${PROJECT_SOURCE_DIR}/proto/${proto} VERBATIM)
    list(APPEND generated ${outputs})
  endforeach()
  add_library(ferry_${name} STATIC ${generated})
  # Generated code is not ours to hold to our warnings.
  target_compile_options(ferry_${name} PRIVATE -w)
  # Nor is it to be looked at more closely than the library below it, which takes minutes to compile;
  # what its headers hold is looked at where it is used.
  if(FERRY_SANITIZER STREQUAL "address")
    target_compile_options(ferry_${name} PRIVATE -fno-sanitize=all)
  endif()
  # What protoc makes has the same names in each file; what gRPC makes does not.
  set(messages ${generated})
  list(FILTER messages EXCLUDE REGEX "\\.grpc\\.pb\\.")
  set_source_files_properties(${messages} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  target_include_directories(ferry_${name} SYSTEM PUBLIC ${out})
  target_link_libraries(ferry_${name} PUBLIC protobuf::libprotobuf ${ARG_DEPS})
  if(ARG_GRPC)
    target_link_libraries(ferry_${name} PUBLIC gRPC::grpc++)
  endif()
endfunction()
