#include "vmmanager/rpc/printable.h"

#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"

namespace ferry::rpc {
namespace {

// The bytes of the character that `text` begins with; 0 if it begins with none.
size_t CharacterSize(absl::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Written with more bytes than it takes, a surrogate, or beyond the last one.
  const bool wrong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
                     (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f);
  return wrong ? 0 : size;
}

}  // namespace

std::string Printable(absl::string_view text, size_t max_bytes) {
  std::string printable;
  while (!text.empty()) {
    const size_t size = CharacterSize(text);
    const absl::string_view source = text.substr(0, size == 0 ? 1 : size);
    const std::string next = size == 0 ? absl::CHexEscape(source) : std::string(source);
    if (printable.size() + next.size() > max_bytes) break;
    printable += next;
    text.remove_prefix(source.size());
  }
  return printable;
}

std::string PrintableLine(absl::string_view text, size_t max_bytes) {
  std::string line = Printable(text, max_bytes);
  for (size_t i = 0; i < line.size(); ++i) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(line[i]))) line[i] = '?';
    // U+0080 to U+009F steer terminals as well.
    const bool upper =
        line[i] == '\xc2' && i + 1 < line.size() && static_cast<uint8_t>(line[i + 1]) < 0xa0;
    if (upper) line.replace(i, 2, "?");
  }
  return line;
}

}  // namespace ferry::rpc
