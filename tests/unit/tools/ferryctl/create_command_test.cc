#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/exit_codes.h"

namespace ferry::ctl {
namespace {

class CreateScript final : public v1::VmService::CallbackService, public Scripted {
 public:
  using Scripted::Scripted;

  grpc::ServerUnaryReactor* CreateVm(grpc::CallbackServerContext* context,
                                     const v1::CreateVmRequest* request,
                                     v1::Vm* response) override {
    v1::Vm made;
    made.set_name(request->spec().name());
    *made.mutable_spec() = request->spec();
    return Serve(context, request, response, &asked, made);
  }

  v1::CreateVmRequest asked;
};

class CreateCommandTest : public ServedCommandsTest {
 protected:
  CreateCommandTest() { Serve({&script_}); }

  CreateScript script_{io_.get_executor()};
};

TEST_F(CreateCommandTest, FirmwareIsBiosUnlessSaidOtherwise) {
  EXPECT_EQ(Ferryctl({"vm", "create", "web", "--firmware", "ovmf"}), kOk);
  EXPECT_EQ(script_.asked.spec().firmware(), v1::FIRMWARE_OVMF);
  // A daemon that knows no firmware is asked for none.
  for (const auto& words : std::vector<std::vector<const char*>>{
           {"vm", "create", "web"}, {"vm", "create", "web", "--firmware", "bios"}}) {
    EXPECT_EQ(Ferryctl(words), kOk);
    EXPECT_EQ(script_.asked.spec().firmware(), v1::FIRMWARE_UNSPECIFIED);
  }
  EXPECT_EQ(Ferryctl({"vm", "create", "web", "--firmware", "seabios"}), kUsage);
}

}  // namespace
}  // namespace ferry::ctl
