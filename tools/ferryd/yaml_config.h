#pragma once

#include <CLI/CLI.hpp>
#include <memory>

namespace ferry::tools {

// Gives CLI11 the values of a YAML file whose keys are the long names of `app`'s options. What is
// wrong in it is thrown as CLI::FileError that names the file, the line and, for an unknown key,
// the nearest known one. `app` must outlive it.
std::shared_ptr<CLI::Config> MakeYamlConfig(const CLI::App& app);

}  // namespace ferry::tools
