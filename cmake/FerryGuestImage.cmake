# The target guest_image: <build>/guest/{vmlinuz,initrd.img,manifest.json}, made by
# tools/guest-image. Sanitizer builds put the ordinary guest programs of another build
# (FERRY_GUEST_BINARIES) into theirs: the guest's are static, and init must not need more memory.
set(FERRY_GUEST_IMAGE ${PROJECT_BINARY_DIR}/guest)

if(FERRY_GUEST_BINARIES)
  set(agent ${FERRY_GUEST_BINARIES}/ferry-guest)
  set(workload ${FERRY_GUEST_BINARIES}/ferry-workload)
  set(programs ${agent} ${workload})
  set(cache ${FERRY_GUEST_BINARIES}/../guest/cache)
elseif(TARGET ferry-guest AND TARGET ferry-workload)
  set(agent $<TARGET_FILE:ferry-guest>)
  set(workload $<TARGET_FILE:ferry-workload>)
  set(programs ferry-guest ferry-workload)
  set(cache ${FERRY_GUEST_IMAGE}/cache)
else()
  return()
endif()

add_custom_command(
  OUTPUT ${FERRY_GUEST_IMAGE}/vmlinuz ${FERRY_GUEST_IMAGE}/initrd.img
         ${FERRY_GUEST_IMAGE}/manifest.json
  COMMAND ${PROJECT_SOURCE_DIR}/tools/guest-image --output ${FERRY_GUEST_IMAGE} --cache ${cache}
          --agent ${agent} --add ${workload}:/bin/ferry-workload
  DEPENDS ${PROJECT_SOURCE_DIR}/tools/guest-image ${programs}
  COMMENT "Building the guest image" VERBATIM)
add_custom_target(guest_image ALL DEPENDS ${FERRY_GUEST_IMAGE}/initrd.img)
