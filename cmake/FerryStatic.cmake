# ferry_link_static(<target>)
#
# Links a program statically. The imported targets of Debian's packages carry the full paths of shared
# libraries; a launcher in front of the link command names the static ones of the same name instead.
function(ferry_link_static target)
  target_link_options(${target} PRIVATE -static -Wl,--gc-sections)
  set_target_properties(${target} PROPERTIES LINK_SEARCH_START_STATIC ON LINK_SEARCH_END_STATIC ON)
  set_property(TARGET ${target} PROPERTY CXX_LINKER_LAUNCHER
               ${PROJECT_SOURCE_DIR}/cmake/link-static)
endfunction()
