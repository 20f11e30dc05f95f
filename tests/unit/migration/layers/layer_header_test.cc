#include "migration/layers/layer_header.h"

#include <gtest/gtest.h>

namespace ferry::migration {
namespace {

LayerHeader Example() { return {"sha256:" + std::string(64, 'a'), 0x0102030405060708}; }

TEST(LayerHeaderTest, ComesBackAsItWas) {
  const std::string bytes = EncodeLayerHeader(Example());
  ASSERT_EQ(bytes.size(), kLayerHeaderSize);
  const auto header = DecodeLayerHeader(bytes);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->digest, Example().digest);
  EXPECT_EQ(header->size, Example().size);
}

TEST(LayerHeaderTest, IsRefusedWhenItIsShortLongOrSomethingElse) {
  const std::string bytes = EncodeLayerHeader(Example());
  EXPECT_FALSE(DecodeLayerHeader("").ok());
  EXPECT_FALSE(DecodeLayerHeader(bytes.substr(1)).ok());
  EXPECT_FALSE(DecodeLayerHeader(bytes + "x").ok());
  for (const size_t place : {size_t{0}, size_t{7}, size_t{8}, size_t{20}, size_t{78}}) {
    std::string damaged = bytes;
    damaged[place] = '/';
    EXPECT_FALSE(DecodeLayerHeader(damaged).ok()) << place;
  }
}

}  // namespace
}  // namespace ferry::migration
