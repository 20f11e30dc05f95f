#include "tools/ferryctl/migration_watch.h"

#include <chrono>

#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/terminal.h"
#include "vmmanager/rpc/client_stream.h"

namespace ferry::ctl {
namespace {

using MigrationAsync = v1::MigrationService::StubInterface::async_interface;
using std::chrono::steady_clock;

constexpr milliseconds kRetryDelay(250);

// Shows what one connection brings; `last` is the newest message shown.
Task<absl::Status> ShowNotifications(Client* client, std::string session_id, ProgressView* view,
                                     uint32_t* last) {
  v1::NotificationsRequest request;
  request.set_session_id(session_id);
  request.set_after_message_id(*last);
  auto stream = rpc::OpenRead(client->executor, client->migrations->async(),
                              &MigrationAsync::Notifications, request);
  while (std::optional<v1::NotificationsResponse> response = co_await stream->Read()) {
    if (response->message_id() != 0 && response->message_id() <= *last) continue;
    *last = response->message_id();
    view->Show(*response);
  }
  co_return co_await stream->Finish();
}

bool WorthRetrying(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kDeadlineExceeded;
}

}  // namespace

Task<absl::StatusOr<v1::Session>> WatchSession(Client* client, std::string session_id,
                                               ProgressView* view, milliseconds patience) {
  uint32_t last = 0;
  auto answered = steady_clock::now();
  while (true) {
    const uint32_t before = last;
    absl::Status status = co_await ShowNotifications(client, session_id, view, &last);
    if (status.ok() || last != before) answered = steady_clock::now();
    if (status.ok()) {
      v1::GetSessionRequest request;
      request.set_session_id(session_id);
      absl::StatusOr<v1::Session> session = co_await rpc::CallUnary(
          client->migrations->async(), &MigrationAsync::GetSession, request, kCallTimeout);
      if (session.ok() && session->done()) co_return session;
      status = session.status();
    }
    if (!status.ok() && !WorthRetrying(status)) co_return status;
    if (steady_clock::now() - answered > patience) {
      co_return status.ok() ? absl::DeadlineExceededError("the session does not end") : status;
    }
    co_await Delay(kRetryDelay);
  }
}

ProgressView MakeProgressView(bool json) {
  if (json) return ProgressView(ProgressMode::kJson, stdout);
  return ProgressView(IsTerminal(1) ? ProgressMode::kTerminal : ProgressMode::kPipe, stdout);
}

int Conclude(const Client& client, const std::string& doing,
             const absl::StatusOr<v1::Session>& session, ProgressView* view, bool json) {
  view->Clear();
  if (!session.ok()) return Fail(client, doing, session.status());
  const int code = ExitCodeFor(*session);
  if (json) {
    std::fputs(ToJson(*session, false).c_str(), stdout);
  } else {
    std::fputs(MigrationSummary(*session).c_str(), code == kOk ? stdout : stderr);
  }
  return code;
}

}  // namespace ferry::ctl
