#include "vmmanager/rpc/audit_interceptor.h"

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>

#include <mutex>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vmmanager/rpc/authorization.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"
#include "vmmanager/rpc/status_conversion.h"

namespace ferry::rpc {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

// The path of a call is the caller's choice, and may be long.
constexpr size_t kMaxUnlisted = 64;

// What is worth a place in the log: names and decisions, no content.
bool IsTelling(const std::string& field) {
  static const auto& fields = *new std::set<std::string>{
      "action",     "container", "decision", "destination", "fd",         "force",
      "halt",       "image",     "name",     "pid",         "process_id", "sandbox_id",
      "session_id", "signal",    "steal",    "then",        "vm",         "vm_name"};
  return fields.contains(field);
}

std::string ValueOf(const Message& message, const FieldDescriptor& field) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return Printable(reflection.GetString(message, &field), kMaxAuditValue);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "true" : "";
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(reflection.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.GetEnum(message, &field)->name();
    default:
      return "";
  }
}

// The telling fields of a request and of the messages in it.
void Collect(const Message& message, std::map<std::string, std::string>* details) {
  std::vector<const FieldDescriptor*> present;
  message.GetReflection()->ListFields(message, &present);
  for (const FieldDescriptor* field : present) {
    if (field->is_repeated()) continue;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Collect(message.GetReflection()->GetMessage(message, field), details);
    } else if (IsTelling(field->name())) {
      (*details)[field->name()] = ValueOf(message, *field);
    }
  }
}

class AuditInterceptor final : public grpc::experimental::Interceptor {
 public:
  AuditInterceptor(AuditLog* log, ServerRpcInfo* info, const Rule* rule)
      : log_(log), rule_(rule), changes_(rule == nullptr || rule->changes) {
    record_.time = std::chrono::system_clock::now();
    record_.caller = CallerOf(*info->server_context());
    record_.method = LoggedMethod(info->method());
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      OnMessage(static_cast<const Message*>(methods->GetRecvMessage()));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      OnStatus(methods->GetSendStatus());
    }
    methods->Proceed();
  }

 private:
  void OnMessage(const Message* message) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (known_ || message == nullptr) return;
    known_ = true;
    Collect(*message, &record_.details);
    if (rule_ != nullptr) changes_ = Changes(*rule_, *message);
    if (!changes_) return;
    // Before the handler sees it, so that a daemon that dies meanwhile leaves a line, too.
    AuditRecord begun = record_;
    begun.outcome = "begun";
    log_->Write(begun);
  }

  void OnStatus(const grpc::Status& ended) {
    const absl::Status status = FromGrpcStatus(ended);
    std::lock_guard<std::mutex> lock(mutex_);
    if (!changes_ && !absl::IsPermissionDenied(status)) return;
    record_.outcome = absl::StatusCodeToString(status.code());
    if (!status.ok()) record_.reason = ReasonOf(status);
    record_.took = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - started_);
    if (changes_) {
      log_->Write(record_);
    } else {
      log_->WriteRefusal(record_);
    }
  }

  AuditLog* const log_;
  const Rule* const rule_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::mutex mutex_;  // a stream may end while its first message comes
  bool known_ = false;
  bool changes_;
  AuditRecord record_;
};

class AuditInterceptors final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit AuditInterceptors(AuditLog* log) : log_(log) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    // Messages of other services are none of Ferry's.
    if (!absl::StartsWith(info->method(), "/ferry.")) return nullptr;
    return new AuditInterceptor(log_, info, RuleFor(info->method()));
  }

 private:
  AuditLog* const log_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAuditInterceptors(
    AuditLog* log) {
  return std::make_unique<AuditInterceptors>(log);
}

std::string LoggedMethod(absl::string_view method) {
  if (RuleFor(method) == nullptr) {
    return absl::StrCat("unlisted ", absl::CHexEscape(method.substr(0, kMaxUnlisted)));
  }
  absl::ConsumePrefix(&method, "/ferry.v1.");
  return std::string(method);
}

}  // namespace ferry::rpc
