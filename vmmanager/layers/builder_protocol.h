#pragma once

#include <cstddef>

// How ferryd and the program ferry-layers, which it starts, understand each other. The arguments
// are the kind of archive and the numbers of layers::Limits: bytes, entries, reserve.
namespace ferry::layers {

// Descriptors that the program is given.
inline constexpr int kBuilderSource = 3;    // the archive, to read
inline constexpr int kBuilderOutput = 4;    // an empty folder, for the layers and the result
inline constexpr int kBuilderProgress = 5;  // takes lines: layers done, of how many

// Where it leaves a BuiltImage, as JSON, and how large that may be.
inline constexpr char kBuilderResult[] = "result.json";
inline constexpr size_t kMaxBuilderResult = size_t{2} << 20;

// Its exit status, if it is not 0. What is wrong is told on stderr.
enum BuilderExit : int {
  kBuilderFailed = 1,
  kBuilderRefused = 2,   // the archive
  kBuilderTooMuch = 3,   // is in the archive
  kBuilderDiskFull = 4,  // or would have been
};

}  // namespace ferry::layers
