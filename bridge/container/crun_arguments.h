#pragma once

#include <string>
#include <string_view>
#include <vector>

// The command lines that the agent runs crun with. No I/O.
namespace ferry::bridge {

// Files for one run of crun, at paths that no other run uses.
struct CrunFiles {
  explicit CrunFiles(const std::string& stem);
  std::string log;
  std::string pid;
  std::string input;    // the process of an exec, or resources
  std::string console;  // a socket
};

class CrunCommands {
 public:
  CrunCommands(std::string program, std::string state_folder)
      : program_(std::move(program)), state_folder_(std::move(state_folder)) {}

  std::vector<std::string> Create(const CrunFiles& files, const std::string& id,
                                  const std::string& bundle, bool terminal) const;
  std::vector<std::string> Exec(const CrunFiles& files, const std::string& id, bool terminal) const;
  std::vector<std::string> Update(const CrunFiles& files, const std::string& id) const;
  std::vector<std::string> Delete(const CrunFiles& files, const std::string& id) const;
  // start, pause, resume
  std::vector<std::string> Simple(const CrunFiles& files, const char* verb,
                                  const std::string& id) const;

 private:
  std::vector<std::string> Global(const CrunFiles& files) const;

  std::string program_;
  std::string state_folder_;
};

// What crun says in its log for people: the last line, without its time. Empty if it said nothing.
std::string LastLogLine(std::string_view log);

}  // namespace ferry::bridge
