#include "vmmanager/rpc/handler_error.h"

#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>

#include "absl/strings/str_cat.h"

namespace ferry::rpc {

absl::Status StatusOfException(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const boost::system::system_error& e) {
    if (e.code() == boost::asio::error::operation_aborted) {
      return absl::CancelledError("the call was cancelled");
    }
    return absl::InternalError(absl::StrCat("a call's handler failed: ", e.what()));
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("a call's handler failed: ", e.what()));
  } catch (...) {
    return absl::InternalError("a call's handler failed");
  }
}

}  // namespace ferry::rpc
