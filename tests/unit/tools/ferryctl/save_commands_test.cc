#include <gmock/gmock.h>

#include <chrono>
#include <vector>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;

// Answers every call about VMs with `vm`, or with `status`, and remembers what was asked.
class VmScript final : public v1::VmService::CallbackService {
 public:
  explicit VmScript(Executor e) : executor_(std::move(e)) {}

  grpc::ServerUnaryReactor* CreateVm(grpc::CallbackServerContext* context,
                                     const v1::CreateVmRequest* request,
                                     v1::Vm* response) override {
    return Serve(context, request, response, "create", &create, vm);
  }
  grpc::ServerUnaryReactor* GetVm(grpc::CallbackServerContext* context, const v1::VmRef* request,
                                  v1::Vm* response) override {
    return Serve(context, request, response, "get", &get, vm);
  }
  grpc::ServerUnaryReactor* StartVm(grpc::CallbackServerContext* context,
                                    const v1::StartVmRequest* request, v1::Vm* response) override {
    return Serve(context, request, response, "start", &start, vm);
  }
  grpc::ServerUnaryReactor* StopVm(grpc::CallbackServerContext* context,
                                   const v1::StopVmRequest* request, v1::Vm* response) override {
    return Serve(context, request, response, "stop", &stop, vm);
  }
  grpc::ServerUnaryReactor* RestartVm(grpc::CallbackServerContext* context,
                                      const v1::StopVmRequest* request, v1::Vm* response) override {
    return Serve(context, request, response, "restart", &stop, vm);
  }
  grpc::ServerUnaryReactor* SaveVm(grpc::CallbackServerContext* context,
                                   const v1::SaveVmRequest* request, v1::Vm* response) override {
    return Serve(context, request, response, "save", &save, vm);
  }
  grpc::ServerUnaryReactor* SetVm(grpc::CallbackServerContext* context,
                                  const v1::SetVmRequest* request, v1::Vm* response) override {
    return Serve(context, request, response, "set", &set, vm);
  }
  grpc::ServerUnaryReactor* DeleteVm(grpc::CallbackServerContext* context,
                                     const v1::DeleteVmRequest* request,
                                     v1::DeleteVmResponse* response) override {
    return Serve(context, request, response, "delete", &remove, v1::DeleteVmResponse());
  }

  v1::Vm vm;
  absl::Status status;
  std::vector<std::string> calls;
  std::chrono::minutes patience{0};  // of whoever called last
  v1::CreateVmRequest create;
  v1::VmRef get;
  v1::StartVmRequest start;
  v1::StopVmRequest stop;
  v1::SaveVmRequest save;
  v1::SetVmRequest set;
  v1::DeleteVmRequest remove;

 private:
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context, const Request* request,
                                  Response* response, const char* name, Request* asked,
                                  const Response& answer) {
    const auto left = context->deadline() - std::chrono::system_clock::now();
    auto handler = [=, this](const Request& r) -> Task<absl::StatusOr<Response>> {
      *asked = r;
      calls.push_back(name);
      patience = std::chrono::round<std::chrono::minutes>(left);
      if (!status.ok()) co_return status;
      co_return answer;
    };
    return rpc::ServeUnary(context, executor_, request, response, handler);
  }

  const Executor executor_;
};

class SaveCommandsTest : public ServedCommandsTest {
 protected:
  SaveCommandsTest() {
    vms_.vm.set_name("web");
    vms_.vm.set_state(v1::VM_STATE_RUNNING);
    Serve({&vms_});
  }

  int Ferryctl(std::vector<const char*> arguments) {
    vms_.calls.clear();
    return ServedCommandsTest::Ferryctl(std::move(arguments));
  }

  // A wrong usage, which the daemon does not hear of.
  void ExpectUsage(std::vector<const char*> arguments, const std::string& word) {
    EXPECT_EQ(Ferryctl(std::move(arguments)), kUsage) << word;
    EXPECT_THAT(said_, HasSubstr(word));
    EXPECT_TRUE(vms_.calls.empty());
  }

  void AnswerSaved(const std::string& file) {
    vms_.vm.set_state(v1::VM_STATE_SAVED);
    vms_.vm.mutable_saved()->set_file(file);
    vms_.vm.mutable_saved()->set_file_bytes(861 << 20 >> 3);
  }

  VmScript vms_{io_.get_executor()};
};

TEST_F(SaveCommandsTest, SaveSaysHowLargeAndWhere) {
  AnswerSaved("/var/lib/ferry/saved/id-1/state.ferry");
  for (const bool nested : {false, true}) {
    std::vector<const char*> words = {"save", "web"};
    if (nested) words.insert(words.begin(), "vm");
    EXPECT_EQ(Ferryctl(words), kOk);
    EXPECT_EQ(printed_, "web saved: 108 MiB in /var/lib/ferry/saved/id-1/state.ferry\n");
    EXPECT_EQ(said_, "");
    EXPECT_EQ(vms_.calls, std::vector<std::string>{"save"});
  }
  v1::SaveVmRequest plain;
  plain.set_vm("web");
  plain.mutable_options();
  EXPECT_EQ(vms_.save.SerializeAsString(), plain.SerializeAsString());
  EXPECT_EQ(vms_.patience, std::chrono::minutes(60));
}

TEST_F(SaveCommandsTest, SaveAsksForEveryOption) {
  EXPECT_EQ(Ferryctl({"save", "web", "--to", "/b/web.ferry", "--live", "--compress", "zstd",
                      "--compress-level", "19", "--compress-workers", "16", "--bypass-cache",
                      "--key-file", "/k/key"}),
            kOk);
  EXPECT_EQ(printed_, "web saved in /b/web.ferry; it is running\n");
  EXPECT_EQ(vms_.save.to_file(), "/b/web.ferry");
  EXPECT_TRUE(vms_.save.live());
  const v1::SaveOptions& options = vms_.save.options();
  EXPECT_EQ(options.compression(), v1::SAVE_COMPRESSION_ZSTD);
  EXPECT_EQ(options.compression_level(), 19);
  EXPECT_EQ(options.compression_workers(), 16u);
  EXPECT_TRUE(options.bypass_cache());
  EXPECT_EQ(options.key_file(), "/k/key");
  EXPECT_EQ(Ferryctl({"save", "web", "--compress", "none"}), kOk);
  EXPECT_EQ(vms_.save.options().compression(), v1::SAVE_COMPRESSION_NONE);
  EXPECT_FALSE(vms_.save.live());
}

TEST_F(SaveCommandsTest, SaveInJsonIsTheVm) {
  AnswerSaved("/s/state.ferry");
  vms_.vm.add_warnings("the disk is nearly full");
  EXPECT_EQ(Ferryctl({"--output", "json", "save", "web"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("\"file\": \"/s/state.ferry\""));
  EXPECT_THAT(printed_, HasSubstr("the disk is nearly full"));
  EXPECT_EQ(said_, "Warning: the disk is nearly full\n");
}

TEST_F(SaveCommandsTest, SaveRefusesWhatCannotBeMeant) {
  ExpectUsage({"save"}, "vm is required");
  ExpectUsage({"save", "web", "--live"}, "--live requires --to");
  ExpectUsage({"save", "web", "--to", "web.ferry"}, "is not an absolute path");
  ExpectUsage({"save", "web", "--to", ""}, "is not an absolute path");
  ExpectUsage({"save", "web", "--key-file", "key"}, "is not an absolute path");
  ExpectUsage({"save", "web", "--compress", "lz4"}, "--compress");
  ExpectUsage({"save", "web", "--compress", "zstd", "--compress-level", "0"}, "range");
  ExpectUsage({"save", "web", "--compress", "zstd", "--compress-level", "20"}, "range");
  ExpectUsage({"save", "web", "--compress", "zstd", "--compress-workers", "0"}, "range");
  ExpectUsage({"save", "web", "--compress", "zstd", "--compress-workers", "17"}, "range");
  ExpectUsage({"save", "web", "--compress-level", "3"}, "needs --compress zstd");
  ExpectUsage({"save", "web", "--compress", "none", "--compress-workers", "3"},
              "needs --compress zstd");
}

TEST_F(SaveCommandsTest, StopSaysOnlyWhatItWasTold) {
  vms_.vm.set_state(v1::VM_STATE_STOPPED);
  EXPECT_EQ(Ferryctl({"stop", "web"}), kOk);
  EXPECT_EQ(printed_, "web stopped\n");
  EXPECT_FALSE(vms_.stop.has_save());
  EXPECT_FALSE(vms_.stop.has_save_options());
  EXPECT_FALSE(vms_.stop.or_shutdown());
  // The VM's setting may have it saved.
  EXPECT_EQ(vms_.patience, std::chrono::minutes(60));
  EXPECT_EQ(Ferryctl({"stop", "web", "--no-save"}), kOk);
  EXPECT_TRUE(vms_.stop.has_save());
  EXPECT_FALSE(vms_.stop.save());
  EXPECT_EQ(vms_.patience, std::chrono::minutes(5));
  EXPECT_EQ(Ferryctl({"stop", "web", "--force"}), kOk);
  EXPECT_TRUE(vms_.stop.force());
  EXPECT_FALSE(vms_.stop.has_save());
}

TEST_F(SaveCommandsTest, StopSavesWithOptionsAndPassesWarningsOn) {
  vms_.vm.set_state(v1::VM_STATE_SAVED);
  EXPECT_EQ(Ferryctl({"stop", "web", "--save", "--or-shutdown", "--compress", "zstd",
                      "--compress-level", "3", "--key-file", "/k"}),
            kOk);
  EXPECT_EQ(printed_, "web saved\n");
  EXPECT_EQ(said_, "");
  EXPECT_TRUE(vms_.stop.save());
  EXPECT_TRUE(vms_.stop.or_shutdown());
  EXPECT_EQ(vms_.stop.save_options().compression_level(), 3);
  EXPECT_EQ(vms_.stop.save_options().key_file(), "/k");
  EXPECT_EQ(vms_.patience, std::chrono::minutes(60));

  vms_.vm.set_state(v1::VM_STATE_STOPPED);
  vms_.vm.add_warnings("it could not be saved, and was shut down: \x1b[2Jno room");
  EXPECT_EQ(Ferryctl({"vm", "stop", "web", "--or-shutdown", "--bypass-cache"}), kOk);
  EXPECT_EQ(printed_, "web stopped\n");
  EXPECT_EQ(said_, "Warning: it could not be saved, and was shut down: ?[2Jno room\n");
  EXPECT_FALSE(vms_.stop.has_save());
  EXPECT_TRUE(vms_.stop.or_shutdown());
  EXPECT_TRUE(vms_.stop.save_options().bypass_cache());
}

TEST_F(SaveCommandsTest, StopRefusesWhatCannotBeMeant) {
  ExpectUsage({"stop", "web", "--save", "--no-save"}, "excludes");
  ExpectUsage({"stop", "web", "--save", "--force"}, "excludes");
  ExpectUsage({"stop", "web", "--no-save", "--force"}, "excludes");
  ExpectUsage({"stop", "web", "--no-save", "--or-shutdown"}, "excludes");
  ExpectUsage({"stop", "web", "--force", "--or-shutdown"}, "excludes");
  ExpectUsage({"stop", "web", "--no-save", "--bypass-cache"}, "excludes");
  ExpectUsage({"stop", "web", "--force", "--compress", "zstd"}, "excludes");
  ExpectUsage({"stop", "web", "--save", "--key-file", "key"}, "is not an absolute path");
  ExpectUsage({"stop", "web", "--save", "--compress-level", "3"}, "needs --compress zstd");
}

TEST_F(SaveCommandsTest, RestartKnowsNothingOfSaving) {
  EXPECT_EQ(Ferryctl({"restart", "web", "--force"}), kOk);
  EXPECT_EQ(vms_.calls, std::vector<std::string>{"restart"});
  EXPECT_TRUE(vms_.stop.force());
  EXPECT_FALSE(vms_.stop.has_save());
  ExpectUsage({"restart", "web", "--save"}, "--save");
  ExpectUsage({"restart", "web", "--no-save"}, "--no-save");
}

TEST_F(SaveCommandsTest, StartSaysWhatBecomesOfWhatWasSaved) {
  EXPECT_EQ(Ferryctl({"start", "web"}), kOk);
  EXPECT_EQ(printed_, "web running\n");
  v1::StartVmRequest plain;
  plain.set_vm("web");
  EXPECT_EQ(vms_.start.SerializeAsString(), plain.SerializeAsString());
  EXPECT_EQ(vms_.patience, std::chrono::minutes(60));
  EXPECT_EQ(Ferryctl({"vm", "start", "web", "--from", "/b/web.ferry", "--key-file", "/k"}), kOk);
  EXPECT_EQ(vms_.start.from_file(), "/b/web.ferry");
  EXPECT_EQ(vms_.start.key_file(), "/k");
  EXPECT_EQ(Ferryctl({"start", "web", "--discard-saved"}), kOk);
  EXPECT_TRUE(vms_.start.discard_saved());
  EXPECT_FALSE(vms_.start.or_boot());
  vms_.vm.add_warnings("what was saved could not go on, and is in /s/state.ferry.refused");
  EXPECT_EQ(Ferryctl({"start", "web", "--or-boot"}), kOk);
  EXPECT_TRUE(vms_.start.or_boot());
  EXPECT_EQ(printed_, "web running\n");
  EXPECT_EQ(said_, "Warning: what was saved could not go on, and is in /s/state.ferry.refused\n");
  ExpectUsage({"start", "web", "--discard-saved", "--from", "/b"}, "excludes");
  ExpectUsage({"start", "web", "--discard-saved", "--or-boot"}, "excludes");
  ExpectUsage({"start", "web", "--from", "b"}, "is not an absolute path");
  ExpectUsage({"start", "web", "--key-file", "b"}, "is not an absolute path");
}

TEST_F(SaveCommandsTest, ARestoreThatIsRefusedIsNine) {
  vms_.status =
      rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "disk data has changed since",
                           "restore_refused", "Boot it: ferryctl start web --or-boot");
  EXPECT_EQ(Ferryctl({"start", "web"}), 9);
  EXPECT_EQ(printed_, "");
  EXPECT_EQ(said_,
            "Error: starting VM web failed: disk data has changed since\n"
            "  Next:     Boot it: ferryctl start web --or-boot\n");
}

TEST_F(SaveCommandsTest, CreateSetsWhatIsToHappenLater) {
  EXPECT_EQ(Ferryctl({"vm", "create", "web"}), kOk);
  EXPECT_EQ(vms_.create.spec().save_on_stop(), v1::SAVE_ON_STOP_UNSPECIFIED);
  EXPECT_FALSE(vms_.create.spec().autostart());
  EXPECT_EQ(Ferryctl({"vm", "create", "web", "--save-on-stop", "--autostart"}), kOk);
  EXPECT_EQ(vms_.create.spec().save_on_stop(), v1::SAVE_ON_STOP_YES);
  EXPECT_TRUE(vms_.create.spec().autostart());
}

TEST_F(SaveCommandsTest, SetChangesOnlyWhatWasNamed) {
  vms_.vm.mutable_spec()->set_save_on_stop(v1::SAVE_ON_STOP_NO);
  vms_.vm.mutable_spec()->set_autostart(true);
  vms_.vm.mutable_spec()->set_memory_mb(256);
  vms_.vm.mutable_spec()->set_cpus(1);
  EXPECT_EQ(Ferryctl({"vm", "set", "web", "--save-on-stop", "no"}), kOk);
  EXPECT_EQ(printed_, "web: memory: 256 MiB, CPUs: 1, save on stop: no, autostart: yes\n");
  EXPECT_EQ(vms_.set.save_on_stop(), v1::SAVE_ON_STOP_NO);
  EXPECT_FALSE(vms_.set.has_autostart());
  EXPECT_EQ(Ferryctl({"vm", "set", "web", "--save-on-stop", "yes"}), kOk);
  EXPECT_EQ(vms_.set.save_on_stop(), v1::SAVE_ON_STOP_YES);
  EXPECT_EQ(Ferryctl({"vm", "set", "web", "--save-on-stop", "default"}), kOk);
  EXPECT_TRUE(vms_.set.has_save_on_stop());
  EXPECT_EQ(vms_.set.save_on_stop(), v1::SAVE_ON_STOP_UNSPECIFIED);
  EXPECT_EQ(Ferryctl({"vm", "set", "web", "--autostart", "no"}), kOk);
  EXPECT_TRUE(vms_.set.has_autostart());
  EXPECT_FALSE(vms_.set.autostart());
  EXPECT_FALSE(vms_.set.has_save_on_stop());
  EXPECT_EQ(Ferryctl({"vm", "set", "web", "--autostart", "yes"}), kOk);
  EXPECT_TRUE(vms_.set.autostart());
  EXPECT_EQ(Ferryctl({"vm", "set", "web", "--memory", "1G"}), kOk);
  EXPECT_EQ(vms_.set.memory_mb(), 1024u);
  EXPECT_FALSE(vms_.set.has_cpus());
  EXPECT_FALSE(vms_.set.has_autostart());
  vms_.vm.add_warnings("not before its next boot");
  EXPECT_EQ(Ferryctl({"vm", "set", "web", "--cpus", "2"}), kOk);
  EXPECT_EQ(vms_.set.cpus(), 2u);
  EXPECT_FALSE(vms_.set.has_memory_mb());
  EXPECT_THAT(said_, HasSubstr("Warning: not before its next boot"));
  ExpectUsage({"vm", "set", "web"}, "nothing to change");
  ExpectUsage({"vm", "set", "web", "--memory", "300K"}, "whole MiB");
  ExpectUsage({"vm", "set", "web", "--cpus", "0"}, "--cpus");
  ExpectUsage({"vm", "set", "web", "--save-on-stop", "maybe"}, "--save-on-stop");
  ExpectUsage({"vm", "set", "web", "--autostart", "default"}, "--autostart");
  ExpectUsage({"set", "web", "--autostart", "yes"}, "subcommand");
}

TEST_F(SaveCommandsTest, DeleteDiscardsWhatWasSavedOnlyIfForced) {
  vms_.vm.set_state(v1::VM_STATE_SAVED);
  EXPECT_EQ(Ferryctl({"vm", "delete", "web"}), kRefused);
  EXPECT_EQ(said_,
            "Error: deleting VM web failed: it is saved\n"
            "  Next:     Let it go on (ferryctl start web), or discard what was saved with "
            "--force.\n");
  EXPECT_EQ(vms_.calls, std::vector<std::string>{"get"});
  EXPECT_EQ(Ferryctl({"vm", "delete", "web", "--force"}), kOk);
  EXPECT_EQ(vms_.calls, (std::vector<std::string>{"stop", "delete"}));
  EXPECT_TRUE(vms_.stop.force());
  EXPECT_TRUE(vms_.remove.discard_saved());
  vms_.vm.set_state(v1::VM_STATE_PAUSED);
  EXPECT_EQ(Ferryctl({"vm", "delete", "web"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("failed: it is paused\n  Next:     Stop it first"));
  vms_.vm.set_state(v1::VM_STATE_STOPPED);
  EXPECT_EQ(Ferryctl({"vm", "delete", "web"}), kOk);
  EXPECT_EQ(vms_.remove.vm(), "web");
  EXPECT_FALSE(vms_.remove.discard_saved());
}

}  // namespace
}  // namespace ferry::ctl
