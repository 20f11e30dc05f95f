#include "tools/ferryctl/save_options.h"

#include "absl/strings/str_cat.h"

namespace ferry::ctl {

CLI::Option* AddHostFile(CLI::App* app, const std::string& name, std::string* path,
                         const std::string& help) {
  const auto check = [](const std::string& text) -> std::string {
    if (!text.empty() && text.front() == '/') return "";
    return absl::StrCat("\"", text, "\" is not an absolute path; it names a file on the VM's host");
  };
  return app->add_option(name, *path, help)->check(CLI::Validator(check, "FILE"));
}

std::vector<CLI::Option*> SaveFlags::AddTo(CLI::App* app) {
  return {app->add_option("--compress", compress_, "How the file is compressed (default: none)")
              ->check(CLI::IsMember({"zstd", "none"})),
          app->add_option("--compress-level", level_, "Of zstd, 1 to 19 (default: 1)")
              ->check(CLI::Range(1, 19)),
          app->add_option("--compress-workers", workers_, "Threads of zstd, 1 to 16 (default: 1)")
              ->check(CLI::Range(1, 16)),
          app->add_flag("--bypass-cache", bypass_cache_, "Write past the host's page cache"),
          AddHostFile(app, "--key-file", &key_file_,
                      "On the VM's host: encrypt with this key, 32 bytes or 64 hex digits")};
}

v1::SaveOptions SaveFlags::ToProto() const {
  if (compress_ != "zstd" && (level_ != 0 || workers_ != 0)) {
    throw CLI::ValidationError(level_ != 0 ? "--compress-level" : "--compress-workers",
                               "needs --compress zstd");
  }
  v1::SaveOptions options;
  if (compress_ == "zstd") options.set_compression(v1::SAVE_COMPRESSION_ZSTD);
  if (compress_ == "none") options.set_compression(v1::SAVE_COMPRESSION_NONE);
  options.set_compression_level(level_);
  options.set_compression_workers(workers_);
  options.set_bypass_cache(bypass_cache_);
  options.set_key_file(key_file_);
  return options;
}

bool SaveFlags::given() const {
  return !compress_.empty() || level_ != 0 || workers_ != 0 || bypass_cache_ || !key_file_.empty();
}

}  // namespace ferry::ctl
