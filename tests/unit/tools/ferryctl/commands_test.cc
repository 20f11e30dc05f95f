#include <vector>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {
namespace {

// Remembers what was asked, and starts detached processes.
class GuestRecorder final : public v1::GuestService::CallbackService {
 public:
  explicit GuestRecorder(Executor e) : executor_(std::move(e)) {}

  grpc::ServerUnaryReactor* CreateProcess(grpc::CallbackServerContext* context,
                                          const v1::CreateProcessRequest* request,
                                          v1::Process* response) override {
    auto handler = [this](const v1::CreateProcessRequest& r) -> Task<absl::StatusOr<v1::Process>> {
      created = r;
      v1::Process process;
      process.set_id(42);
      co_return process;
    };
    return rpc::ServeUnary(context, executor_, request, response, handler);
  }

  v1::CreateProcessRequest created;

 private:
  const Executor executor_;
};

// A migration whose notifications break off once, and which ends as told.
class MigrationScript final : public v1::MigrationService::CallbackService {
 public:
  explicit MigrationScript(Executor e) : executor_(std::move(e)) {}

  grpc::ServerUnaryReactor* Migrate(grpc::CallbackServerContext* context,
                                    const v1::MigrateRequest* request,
                                    v1::Session* response) override {
    auto handler = [this](const v1::MigrateRequest& r) -> Task<absl::StatusOr<v1::Session>> {
      migrate = r;
      co_return Session(false);
    };
    return rpc::ServeUnary(context, executor_, request, response, handler);
  }

  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const v1::GetSessionRequest* request,
                                       v1::Session* response) override {
    auto handler = [this](const v1::GetSessionRequest&) -> Task<absl::StatusOr<v1::Session>> {
      co_return Session(true);
    };
    return rpc::ServeUnary(context, executor_, request, response, handler);
  }

  grpc::ServerWriteReactor<v1::NotificationsResponse>* Notifications(
      grpc::CallbackServerContext* context, const v1::NotificationsRequest* request) override {
    using Stream = rpc::ServerStream<v1::NotificationsResponse>;
    auto handler = [this](const v1::NotificationsRequest& r,
                          std::shared_ptr<Stream> stream) -> Task<absl::Status> {
      asked_after.push_back(r.after_message_id());
      const uint32_t first = r.after_message_id() + 1;
      for (uint32_t id = first; id < first + 2; ++id) {
        v1::NotificationsResponse response;
        response.set_message_id(id);
        response.mutable_notification()->set_phase(v1::MIGRATION_PHASE_SETUP_DONE);
        stream->Write(response);
      }
      if (asked_after.size() == 1) co_return absl::UnavailableError("the daemon restarts");
      co_return absl::OkStatus();
    };
    return rpc::ServeStream<v1::NotificationsResponse>(context, executor_, request, handler);
  }

  v1::SessionState state = v1::SESSION_STATE_FINALIZED;
  v1::SessionOutcome outcome = v1::SESSION_OUTCOME_UNSPECIFIED;
  std::string reason;
  v1::MigrateRequest migrate;
  std::vector<uint32_t> asked_after;

 private:
  v1::Session Session(bool done) const {
    v1::Session session;
    session.set_session_id("s-1");
    session.set_vm_name("web");
    session.set_vm_location("host-b:7700");
    session.set_state(done ? state : v1::SESSION_STATE_TRANSFERRING);
    session.set_outcome(outcome);
    session.set_reason(reason);
    session.set_done(done);
    return session;
  }

  const Executor executor_;
};

class CommandsTest : public ServedCommandsTest {
 protected:
  CommandsTest() { Serve({&guests_, &migrations_}); }

  GuestRecorder guests_{io_.get_executor()};
  MigrationScript migrations_{io_.get_executor()};
};

TEST_F(CommandsTest, ExecPassesTheCommandUntouched) {
  EXPECT_EQ(Ferryctl({"exec", "-d", "-e", "A=b=c", "-w", "/tmp", "web", "--", "list", "-l",
                      "--host", "x y", "vm"}),
            kOk);
  EXPECT_EQ(printed_, "42\n");
  const v1::ProcessSpec& spec = guests_.created.spec();
  const std::vector<std::string> words(spec.command().begin(), spec.command().end());
  EXPECT_EQ(words, (std::vector<std::string>{"list", "-l", "--host", "x y", "vm"}));
  EXPECT_EQ(guests_.created.vm(), "web");
  EXPECT_EQ(spec.environment().at("A"), "b=c");
  EXPECT_EQ(spec.working_directory(), "/tmp");
  EXPECT_TRUE(spec.detached());
  EXPECT_FALSE(spec.has_stdin());
}

TEST_F(CommandsTest, DetachedProcessKeepsItsStdinIfAsked) {
  EXPECT_EQ(Ferryctl({"exec", "-d", "-i", "web", "--", "cat"}), kOk);
  EXPECT_TRUE(guests_.created.spec().detached());
  EXPECT_TRUE(guests_.created.spec().has_stdin());
}

TEST_F(CommandsTest, ExecWorksWithoutTheSeparatorToo) {
  EXPECT_EQ(Ferryctl({"exec", "-d", "web", "ls", "-l", "--", "x"}), kOk);
  const auto& command = guests_.created.spec().command();
  EXPECT_EQ(std::vector<std::string>(command.begin(), command.end()),
            (std::vector<std::string>{"ls", "-l", "--", "x"}));
  EXPECT_EQ(Ferryctl({"exec", "-d", "web", "--"}), kExecFailed);
}

TEST_F(CommandsTest, MigrateGoesOnAfterABreakAndSaysWhereTheVmRuns) {
  EXPECT_EQ(Ferryctl({"migrate", "web", "--to", "host-b:7700", "--downtime-limit", "20ms",
                      "--max-bandwidth", "100M"}),
            kOk);
  EXPECT_EQ(migrations_.asked_after, (std::vector<uint32_t>{0, 2}));
  EXPECT_NE(printed_.find("host-b:7700"), std::string::npos);
  const v1::InitializeOptions& options = migrations_.migrate.options();
  EXPECT_EQ(options.memory_transfer_throttle_params().target_blackout_transfer_time(), 20u);
  EXPECT_EQ(options.max_bandwidth(), 100u << 20);
  EXPECT_FALSE(migrations_.migrate.request_id().empty());
}

TEST_F(CommandsTest, MigrateInJsonEndsWithTheSession) {
  migrations_.state = v1::SESSION_STATE_FAILED;
  EXPECT_EQ(Ferryctl({"migrate", "web", "--to", "host-b:7700", "--json"}), kMigrationFailed);
  const size_t last = printed_.rfind('\n', printed_.size() - 2);
  ASSERT_NE(last, std::string::npos);
  EXPECT_NE(printed_.substr(last).find("\"session_id\":\"s-1\""), std::string::npos);
  for (const char c : {'{', '\n'}) EXPECT_GE(std::count(printed_.begin(), printed_.end(), c), 5);
}

TEST_F(CommandsTest, WatchTellsTheOutcome) {
  migrations_.state = v1::SESSION_STATE_CANCELLED;
  migrations_.outcome = v1::SESSION_OUTCOME_CANCELLED;
  migrations_.reason = "cancelled";
  EXPECT_EQ(Ferryctl({"migration", "watch", "s-1"}), kCancelled);
  migrations_.outcome = v1::SESSION_OUTCOME_FAILED;
  migrations_.reason = "transfer_stalled";
  EXPECT_EQ(Ferryctl({"migration", "show", "s-1"}), kOk);
  EXPECT_NE(printed_.find("failed (transfer_stalled)"), std::string::npos) << printed_;
}

TEST_F(CommandsTest, AServiceThatIsMissingIsRefused) { EXPECT_EQ(Ferryctl({"list"}), kRefused); }

}  // namespace
}  // namespace ferry::ctl
