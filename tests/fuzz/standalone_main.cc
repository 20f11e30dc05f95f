// Drives a libFuzzer entry without libFuzzer: NAME [iterations [seed]] feeds pseudo-random inputs,
// NAME FILE... feeds the files. The same seed gives the same inputs.

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr uint64_t kIterations = 20000;
constexpr uint64_t kSeed = 1;

// Mixes uniform bytes with what formats are made of: zeros, all ones, small numbers, repeats.
std::string MakeInput(std::mt19937_64& random) {
  std::string input(random() % (random() % 16 == 0 ? 4096 : 256), '\0');
  const uint64_t style = random() % 3;
  for (size_t i = 0; i < input.size(); ++i) {
    uint64_t draw = random();
    switch (style == 0 ? 0 : draw % 6) {
      case 0:
        input[i] = static_cast<char>(draw >> 8);
        break;
      case 1:
        input[i] = '\0';
        break;
      case 2:
        input[i] = '\xff';
        break;
      case 3:
        input[i] = input[i == 0 ? 0 : (draw >> 8) % i];
        break;
      default:
        input[i] = static_cast<char>((draw >> 8) % 12);
        break;
    }
  }
  return input;
}

void Feed(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

int FeedFiles(int count, char** names) {
  for (int i = 0; i < count; ++i) {
    std::ifstream file(names[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "cannot read %s\n", names[i]);
      return 1;
    }
    Feed(std::string(std::istreambuf_iterator<char>(file), {}));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && !std::isdigit(static_cast<unsigned char>(argv[1][0]))) {
    return FeedFiles(argc - 1, argv + 1);
  }
  const uint64_t iterations = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : kIterations;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : kSeed);
  for (uint64_t i = 0; i < iterations; ++i) Feed(MakeInput(random));
  return 0;
}
