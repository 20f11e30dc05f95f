#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {
namespace {

class CpuModelTest : public SandboxTest {
 protected:
  CpuModelTest() {
    host_.backend.mutable_info().cpu_models = {
        {"Haswell", {"pcid", "hle"}, {}}, {"Nehalem", {}, {}}, {"any", {}, {"add"}}};
  }

  absl::StatusOr<std::shared_ptr<UtilityVm>> CreateWith(const std::string& model) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    request.mutable_spec()->set_cpu_model(model);
    return Await(host_.inventory->Create(request));
  }
};

TEST_F(CpuModelTest, IsFrozenWhenTheVmIsMade) {
  auto pinned = CreateWith("Nehalem");
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_EQ((*pinned)->document().virtual_machine.platform.cpu_model, "Nehalem");
  auto other = Create("other");
  EXPECT_EQ(other->document().virtual_machine.platform.cpu_model, "any");
  EXPECT_EQ(other->document().virtual_machine.platform.machine_type, "fake-1");

  // Another QEMU later changes nothing about it.
  host_.backend.mutable_info().cpu_model = "Nehalem";
  host_.backend.mutable_info().machine_type = "fake-2";
  RestartDaemon();
  const auto again = *host_.inventory->Find("other");
  EXPECT_EQ(again->document().virtual_machine.platform.cpu_model, "any");
  EXPECT_EQ(again->document().virtual_machine.platform.machine_type, "fake-1");
}

TEST_F(CpuModelTest, UnknownOneIsRefusedWithThoseNear) {
  const absl::Status near = CreateWith("nehalam").status();
  EXPECT_EQ(near.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(near.message(), HasSubstr("did you mean Nehalem?"));
  const absl::Status far = CreateWith("z80-with-everything").status();
  EXPECT_EQ(far.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(far.message(), HasSubstr("ferryctl host"));
  EXPECT_TRUE(host_.inventory->List().empty());
}

TEST_F(CpuModelTest, OneThatTheHostCannotGiveIsRefusedWithWhatItLacks) {
  const absl::Status status = CreateWith("Haswell").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("lacks pcid, hle"));
}

TEST_F(CpuModelTest, OldDocumentWithoutOneGetsTheHostsOnLoading) {
  auto vm = Create("old");
  VmRow row = Row(vm->id());
  schema::ComputeSystem document = vm->document();
  document.virtual_machine.platform.cpu_model.clear();
  row.document_json = schema::ToJson(document);
  ASSERT_TRUE(Await(host_.store.PutVm(row)).ok());
  RestartDaemon();
  EXPECT_EQ((*host_.inventory->Find("old"))->document().virtual_machine.platform.cpu_model, "any");
}

TEST_F(CpuModelTest, TheLayoutIsTheSpecsOrTheNewest) {
  host_.backend.mutable_info().layout = 1;
  auto make = [this](const std::string& name, std::optional<uint32_t> layout) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name(name);
    if (layout) request.mutable_spec()->set_layout(*layout);
    return Await(host_.inventory->Create(request));
  };
  EXPECT_EQ((*make("new", std::nullopt))->document().virtual_machine.platform.layout, 1u);
  EXPECT_EQ((*make("old", 0))->document().virtual_machine.platform.layout, 0u);
  const absl::Status refused = make("newer", 2).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("has 0 to 1"));
}

}  // namespace
}  // namespace ferry::vm
