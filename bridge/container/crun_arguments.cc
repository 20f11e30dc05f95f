#include "bridge/container/crun_arguments.h"

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

CrunFiles::CrunFiles(const std::string& stem)
    : log(stem + ".log"), pid(stem + ".pid"), input(stem + ".json"), console(stem + ".console") {}

std::vector<std::string> CrunCommands::Global(const CrunFiles& files) const {
  // Its messages go to a file: standard error is the container's.
  return {program_, "--root", state_folder_, "--cgroup-manager", "cgroupfs", "--log", files.log};
}

std::vector<std::string> CrunCommands::Create(const CrunFiles& files, const std::string& id,
                                              const std::string& bundle, bool terminal) const {
  std::vector<std::string> words = Global(files);
  words.insert(words.end(), {"create", "--bundle", bundle, "--pid-file", files.pid});
  if (terminal) words.insert(words.end(), {"--console-socket", files.console});
  words.push_back(id);
  return words;
}

std::vector<std::string> CrunCommands::Exec(const CrunFiles& files, const std::string& id,
                                            bool terminal) const {
  std::vector<std::string> words = Global(files);
  words.insert(words.end(),
               {"exec", "--detach", "--process", files.input, "--pid-file", files.pid});
  if (terminal) words.insert(words.end(), {"--console-socket", files.console});
  words.push_back(id);
  return words;
}

std::vector<std::string> CrunCommands::Update(const CrunFiles& files, const std::string& id) const {
  std::vector<std::string> words = Global(files);
  words.insert(words.end(), {"update", "--resources", files.input, id});
  return words;
}

std::vector<std::string> CrunCommands::Delete(const CrunFiles& files, const std::string& id) const {
  std::vector<std::string> words = Global(files);
  words.insert(words.end(), {"delete", "--force", id});
  return words;
}

std::vector<std::string> CrunCommands::Simple(const CrunFiles& files, const char* verb,
                                              const std::string& id) const {
  std::vector<std::string> words = Global(files);
  words.insert(words.end(), {verb, id});
  return words;
}

std::string LastLogLine(std::string_view log) {
  while (!log.empty() && log.back() == '\n') log.remove_suffix(1);
  const size_t start = log.rfind('\n');
  if (start != std::string_view::npos) log.remove_prefix(start + 1);
  // "2023-01-02T03:04:05.678Z: what happened"
  const size_t time_end = log.find("Z: ");
  if (time_end != std::string_view::npos && time_end < 40) log.remove_prefix(time_end + 3);
  return std::string(log);
}

}  // namespace ferry::bridge
