// SHA-256: FIPS 180-4's examples, and lengths around a block's end.
#include "contract/sha256.hpp"

#include <gtest/gtest.h>

namespace {

TEST(Sha256, ExamplesOfTheStandard) {
  const std::pair<std::string, const char*> kExamples[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrst"
       "u",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {std::string(1'000'000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& [text, wanted] : kExamples) EXPECT_EQ(ar::sha256_hex(text), wanted);
}

// The padding fills one block, or needs a second one; the bytes may begin at any address.
TEST(Sha256, AroundTheLengthField) {
  const std::pair<std::size_t, const char*> kLengths[] = {
      {55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
      {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
      {63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
      {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
      {65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"}};
  const std::string data(80, 'a');
  for (const auto& [length, wanted] : kLengths) {
    for (std::size_t shift = 0; shift < 8; ++shift)
      EXPECT_EQ(ar::sha256_hex(std::string_view(data).substr(shift, length)), wanted) << length;
  }
}

}  // namespace
