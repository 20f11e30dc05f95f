// With --write-seeds=FOLDER, a fuzzer only writes what Seeds() gives to files there.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr std::string_view kOption = "--write-seeds=";
  if (*argc < 2 || !std::string_view((*argv)[1]).starts_with(kOption)) return 0;
  const std::string folder((*argv)[1] + kOption.size());
  int number = 0;
  for (const std::string& seed : ferry::fuzz::Seeds()) {
    std::ofstream file(folder + "/seed" + std::to_string(number++), std::ios::binary);
    file << seed;
    if (!file.flush()) {
      std::fprintf(stderr, "cannot write to %s\n", folder.c_str());
      std::exit(1);
    }
  }
  std::exit(0);
}
