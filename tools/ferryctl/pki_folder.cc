#include "tools/ferryctl/pki_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::ctl {
namespace {

// Its files are ca.pem and ca.key.
constexpr char kAuthority[] = "ca";

absl::Status MakeFolder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the folder ", path));
}

absl::Status WriteNew(const std::string& path, const std::string& text) {
  const UniqueFd file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid() && errno == EEXIST) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists and is not overwritten; move it away or choose another name"));
  }
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", path));
  const ssize_t written = ::write(file.get(), text.data(), text.size());
  if (written >= 0 && written < static_cast<ssize_t>(text.size())) errno = ENOSPC;
  if (written != static_cast<ssize_t>(text.size()) || ::fsync(file.get()) != 0) {
    const absl::Status failed = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
    ::unlink(path.c_str());
    return failed;
  }
  return absl::OkStatus();
}

// Both or none.
absl::Status WriteNew(const PkiFolder::Files& files, const identity::KeyAndCertificate& pem) {
  RETURN_IF_ERROR(WriteNew(files.key, pem.key));
  absl::Status written = WriteNew(files.certificate, pem.certificate);
  if (!written.ok()) ::unlink(files.key.c_str());
  return written;
}

}  // namespace

absl::Status PkiFolder::Init(const std::string& name, int64_t lifetime) const {
  RETURN_IF_ERROR(MakeFolder(path_));
  ASSIGN_OR_RETURN(const identity::KeyAndCertificate made, identity::MakeAuthority(name, lifetime));
  return WriteNew({path_ + "/ca.pem", path_ + "/ca.key"}, made);
}

absl::StatusOr<PkiFolder::Files> PkiFolder::Issue(const identity::CertificateOrder& order,
                                                  const std::string& out) const {
  if (order.name == kAuthority) {
    return absl::InvalidArgumentError(
        "\"ca\" is the name of the authority's own files; choose another name");
  }
  identity::KeyAndCertificate authority;
  ASSIGN_OR_RETURN(authority.certificate, identity::ReadPemFile(path_ + "/ca.pem"));
  ASSIGN_OR_RETURN(authority.key, identity::ReadPemFile(path_ + "/ca.key"));
  ASSIGN_OR_RETURN(const identity::KeyAndCertificate issued, identity::Issue(authority, order));
  const std::string& folder = out.empty() ? path_ : out;
  RETURN_IF_ERROR(MakeFolder(folder));
  Files files{absl::StrCat(folder, "/", order.name, ".pem"),
              absl::StrCat(folder, "/", order.name, ".key")};
  RETURN_IF_ERROR(WriteNew(files, issued));
  return files;
}

std::string CertificateJson(const identity::CertificateInfo& info, const std::string& name,
                            const std::vector<std::string>& roles, const std::string& validity) {
  boost::json::object json;
  json["name"] = name;
  json["roles"] = boost::json::array(roles.begin(), roles.end());
  json["names"] = boost::json::array(info.names.begin(), info.names.end());
  json["is_authority"] = info.is_authority;
  json["not_before"] = info.not_before;
  json["not_after"] = info.not_after;
  json["validity"] = validity;
  json["issuer"] = info.issuer;
  json["serial"] = info.serial;
  return boost::json::serialize(json);
}

}  // namespace ferry::ctl
