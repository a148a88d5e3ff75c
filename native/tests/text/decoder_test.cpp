#include "text/steps.hpp"

#include <gtest/gtest.h>

namespace ar {
namespace {

const std::string kBroken = "\uFFFD";

TEST(Decoder, NoStepsJoin) { EXPECT_EQ(decode_tokens({}, {"a", "", "b"}), "ab"); }

TEST(Decoder, ByteLevelJoinsBeforeItReadsBytes) {
  EXPECT_EQ(decode_tokens({ByteLevelDecoder{}}, {"Ã", "©Ġ"}), "é ");
  EXPECT_EQ(decode_tokens({ByteLevelDecoder{}}, {"Ã", "a"}), kBroken + "a");
  EXPECT_EQ(decode_tokens({ByteLevelDecoder{}}, {"漢Ġ"}), "漢Ġ");
}

TEST(Decoder, MetaspaceDropsTheMarksOfTheFirstToken) {
  EXPECT_EQ(decode_tokens({MetaspaceDecoder{"▁", true}}, {"▁a▁b", "▁c"}), "ab c");
  EXPECT_EQ(decode_tokens({MetaspaceDecoder{"▁", false}}, {"▁a", "▁c"}), " a c");
}

TEST(Decoder, ByteFallbackReadsRunsOfBytes) {
  const std::vector<DecoderStep> steps = {ByteFallbackDecoder{}};
  EXPECT_EQ(decode_tokens(steps, {"a", "<0xC3>", "<0xa9>", "b"}), "aéb");
  EXPECT_EQ(decode_tokens(steps, {"<0xC3>", "a", "<0xA9>"}), kBroken + "a" + kBroken);
  EXPECT_EQ(decode_tokens(steps, {"<0x41>", "<0xC3>"}), kBroken + kBroken);  // the whole run is broken
  const std::vector<std::string> others = {"<0x4>", "<0xGG>", "<0x411>", "<0X41>", "<0xé>"};
  EXPECT_EQ(decode_tokens(steps, others), "<0x4><0xGG><0x411><0X41><0xé>");
  EXPECT_EQ(decode_tokens(steps, {"<0x+A>"}), "\n");  // as Rust reads hexadecimal digits
}

TEST(Decoder, FuseMakesOneTokenToStrip) {
  const DecoderStep strip = StripDecoder{" ", 1};
  EXPECT_EQ(decode_tokens({strip}, {" a", "  b", "c "}), "a bc ");
  EXPECT_EQ(decode_tokens({FuseDecoder{}, strip}, {" a", " b"}), "a b");
  EXPECT_EQ(decode_tokens({FuseDecoder{}, StripDecoder{"▁", 2}}, {"▁▁▁a"}), "▁a");
  EXPECT_EQ(decode_tokens({FuseDecoder{}, StripDecoder{" ", 9}}, {"  "}), "");
}

TEST(Decoder, ReplaceWorksTokenByToken) {
  EXPECT_EQ(decode_tokens({Replace{"ab", "x"}}, {"abab", "a", "b"}), "xxab");
}

}  // namespace
}  // namespace ar
