#include "vmmanager/qemu/qmp_core.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr uint64_t kNegotiationId = 0;

// Stamps beyond the year 2190 do not fit into nanoseconds, and are no honest QEMU's.
constexpr int64_t kLastSecond = 7'000'000'000;

json::string_view View(std::string_view text) { return {text.data(), text.size()}; }

const json::object* ObjectAt(const json::object& parent, const char* key) {
  const json::value* value = parent.if_contains(key);
  return value == nullptr ? nullptr : value->if_object();
}

bool OffersOutOfBand(const json::object& greeting) {
  const json::value* list = greeting.if_contains("capabilities");
  const json::array* capabilities = list == nullptr ? nullptr : list->if_array();
  if (capabilities == nullptr) return false;
  return std::any_of(capabilities->begin(), capabilities->end(), [](const json::value& item) {
    const json::string* text = item.if_string();
    return text != nullptr && *text == "oob";
  });
}

// Whether any text in `value` asks QEMU to run a program as a migration channel.
bool RunsProgram(const json::value& value) {
  if (const json::string* text = value.if_string()) {
    return absl::StartsWithIgnoreCase(absl::string_view(text->data(), text->size()), "exec:");
  }
  if (const json::array* items = value.if_array()) {
    return std::any_of(items->begin(), items->end(), RunsProgram);
  }
  if (const json::object* members = value.if_object()) {
    return std::any_of(members->begin(), members->end(), [](const auto& member) {
      const json::string* text = member.value().if_string();
      const bool transport = member.key() == "transport" && text != nullptr && *text == "exec";
      return transport || RunsProgram(member.value());
    });
  }
  return false;
}

// The event's timestamp, 0 if it has none that is possible.
std::chrono::microseconds StampOf(const json::object& message) {
  const json::object* stamp = ObjectAt(message, "timestamp");
  if (stamp == nullptr) return {};
  const auto number = [stamp](const char* key) {
    const json::value* value = stamp->if_contains(key);
    const int64_t* whole = value == nullptr ? nullptr : value->if_int64();
    return whole == nullptr ? -1 : *whole;
  };
  const int64_t seconds = number("seconds");
  const int64_t micros = number("microseconds");
  if (seconds < 0 || seconds > kLastSecond || micros < 0 || micros >= 1'000'000) return {};
  return std::chrono::seconds(seconds) + std::chrono::microseconds(micros);
}

absl::Status ErrorOf(const std::string& command, const json::object& error) {
  const std::string kind = TextAt(error, "class");
  const std::string text = absl::StrCat("QEMU refused ", command, ": ", TextAt(error, "desc"));
  if (kind == "CommandNotFound") return absl::UnimplementedError(text);
  if (kind == "DeviceNotFound") return absl::NotFoundError(text);
  return absl::FailedPreconditionError(text);
}

}  // namespace

std::chrono::steady_clock::time_point SteadyTimeOf(
    std::chrono::microseconds wall_time, std::chrono::system_clock::time_point wall_now,
    std::chrono::steady_clock::time_point steady_now) {
  if (wall_time == wall_time.zero()) return steady_now;
  const auto age = wall_now.time_since_epoch() - wall_time;
  if (age < age.zero()) return steady_now;
  return steady_now - std::chrono::duration_cast<std::chrono::steady_clock::duration>(age);
}

QmpCore::QmpCore(size_t max_message_bytes) : max_message_bytes_(max_message_bytes) {}

absl::Status QmpCore::Feed(std::string_view bytes) {
  if (failed()) return failure_;
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const std::string_view piece = bytes.substr(0, end);
    if (partial_.size() + piece.size() > max_message_bytes_) {
      Fail(absl::ResourceExhaustedError(
          absl::StrCat("QEMU sent a QMP message of more than ", max_message_bytes_, " bytes")));
      return failure_;
    }
    partial_.append(piece);
    if (end == std::string_view::npos) break;
    bytes.remove_prefix(end + 1);
    const std::string line = std::exchange(partial_, {});
    absl::Status handled = HandleLine(line);
    if (!handled.ok()) {
      Fail(handled);
      return handled;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> QmpCore::Submit(std::string_view command, json::object arguments,
                                         QmpLane lane) {
  RETURN_IF_ERROR(Check(command, arguments));
  const bool jump = lane == QmpLane::kOutOfBand && out_of_band_;
  if (const std::optional<Anticipated> begun = std::exchange(anticipated_, std::nullopt)) {
    if (!jump && begun->command == command && begun->arguments == arguments) {
      pending_.emplace(begun->id, begun->command);
      End();
      return begun->id;
    }
    // No command has such a member.
    output_ += R"(,"refuse":true)";
    End();
  }
  const uint64_t id = next_id_++;
  pending_.emplace(id, std::string(command));
  Begin(jump ? "exec-oob" : "execute", command, std::move(arguments), id);
  End();
  return id;
}

absl::Status QmpCore::Check(std::string_view command, const json::object& arguments) const {
  if (failed()) return failure_;
  if (!ready()) return absl::FailedPreconditionError("QMP is not negotiated yet");
  if (command == "human-monitor-command") {
    return absl::InvalidArgumentError("human-monitor-command is not used: it hides its errors");
  }
  const json::value probe = arguments;
  if (RunsProgram(probe)) {
    return absl::InvalidArgumentError(
        absl::StrCat("refused to send ", std::string(command), " with an exec: address"));
  }
  return absl::OkStatus();
}

void QmpCore::Anticipate(std::string_view command, json::object arguments) {
  if (anticipated_ || !Check(command, arguments).ok()) return;
  anticipated_ = Anticipated{next_id_++, std::string(command), arguments};
  Begin("execute", command, std::move(arguments), anticipated_->id);
}

void QmpCore::Fail(absl::Status reason) {
  if (failed()) return;
  state_ = State::kFailed;
  failure_ = std::move(reason);
  for (const auto& [id, command] : pending_) {
    replies_.push_back(
        {id, absl::Status(failure_.code(), absl::StrCat(command, ": ", failure_.message()))});
  }
  pending_.clear();
}

absl::Status QmpCore::HandleLine(std::string_view line) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) return absl::OkStatus();
  boost::system::error_code error;
  const json::value value = json::parse(View(line), error);
  const json::object* message = error ? nullptr : value.if_object();
  if (message == nullptr) {
    return absl::DataLossError(absl::StrCat(
        "QEMU sent something that is not QMP: ",
        absl::CHexEscape(absl::string_view(line.data(), std::min<size_t>(line.size(), 80)))));
  }
  if (state_ == State::kGreeting) {
    const json::object* greeting = ObjectAt(*message, "QMP");
    if (greeting == nullptr) return absl::DataLossError("QEMU sent no QMP greeting");
    return HandleGreeting(*greeting);
  }
  if (message->contains("event")) return HandleEvent(*message);
  return HandleReply(*message);
}

absl::Status QmpCore::HandleGreeting(const json::object& greeting) {
  out_of_band_ = OffersOutOfBand(greeting);
  json::object arguments;
  if (out_of_band_) arguments["enable"] = json::array({"oob"});
  state_ = State::kNegotiating;
  Begin("execute", "qmp_capabilities", std::move(arguments), kNegotiationId);
  End();
  return absl::OkStatus();
}

absl::Status QmpCore::HandleReply(const json::object& message) {
  const json::value* result = message.if_contains("return");
  const json::object* error = ObjectAt(message, "error");
  if (result == nullptr && error == nullptr) {
    return absl::DataLossError("QEMU sent a QMP message that is neither an answer nor an event");
  }
  const json::value* id_value = message.if_contains("id");
  boost::system::error_code not_a_number;
  const uint64_t id =
      id_value == nullptr ? kNegotiationId : id_value->to_number<uint64_t>(not_a_number);
  if (id_value == nullptr || not_a_number) {
    // Without an id QEMU complains about bytes that it could not parse: nobody can be told.
    return absl::DataLossError(absl::StrCat("QEMU answered without an id: ",
                                            error == nullptr ? "" : TextAt(*error, "desc")));
  }
  if (id == kNegotiationId && state_ == State::kNegotiating) {
    if (error != nullptr) return ErrorOf("qmp_capabilities", *error);
    state_ = State::kReady;
    return absl::OkStatus();
  }
  const auto found = pending_.find(id);
  if (found == pending_.end()) return absl::OkStatus();
  const std::string command = std::move(found->second);
  pending_.erase(found);
  if (error != nullptr) {
    replies_.push_back({id, ErrorOf(command, *error)});
  } else {
    replies_.push_back({id, *result});
  }
  return absl::OkStatus();
}

absl::Status QmpCore::HandleEvent(const json::object& message) {
  QmpEvent event;
  event.name = TextAt(message, "event");
  if (event.name.empty()) return absl::DataLossError("QEMU sent an event without a name");
  if (const json::object* data = ObjectAt(message, "data")) event.data = *data;
  event.wall_time = StampOf(message);
  events_.push_back(std::move(event));
  return absl::OkStatus();
}

void QmpCore::Begin(std::string_view verb, std::string_view command, json::object arguments,
                    uint64_t id) {
  json::object message;
  message[View(verb)] = View(command);
  if (!arguments.empty()) message["arguments"] = std::move(arguments);
  message["id"] = id;
  output_ += json::serialize(message);
  output_.pop_back();
}

}  // namespace ferry::vm
