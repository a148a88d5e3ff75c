#include "text/bpe.hpp"

#include <gtest/gtest.h>

#include "contract/error.hpp"

namespace ar {
namespace {

using Ids = std::vector<int64_t>;

Ids ids(const Bpe& bpe, std::string_view word) {
  Ids found;
  bpe.encode(word, found);
  return found;
}

BpeModel letters() { return {{{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"bc", 4}, {"abc", 5}}, {}, std::nullopt}; }

TEST(Bpe, TheBestMergeComesFirstThenTheLeftmost) {
  BpeModel model = letters();
  model.merges = {{"b", "c"}, {"a", "b"}};
  EXPECT_EQ(ids(Bpe(model), "abc"), (Ids{0, 4}));
  EXPECT_EQ(ids(Bpe(model), "abab"), (Ids{3, 3}));
  model.merges = {{"a", "b"}, {"ab", "c"}, {"b", "c"}};
  EXPECT_EQ(ids(Bpe(model), "abcbc"), (Ids{5, 4}));
  BpeModel flat_copies{{{"a", 0}, {"aa", 1}}, {{"a", "a"}}, std::nullopt};
  EXPECT_EQ(ids(Bpe(flat_copies), "aaa"), (Ids{1, 0}));
}

TEST(Bpe, OfAMergeThatStandsTwiceTheLaterRankCounts) {
  BpeModel model = letters();
  model.merges = {{"a", "b"}, {"b", "c"}, {"a", "b"}};
  EXPECT_EQ(ids(Bpe(model), "abc"), (Ids{0, 4}));
}

TEST(Bpe, WordsThatAreTokensMayBeTakenWhole) {
  BpeModel model = letters();
  EXPECT_EQ(ids(Bpe(model), "abc"), (Ids{0, 1, 2}));
  model.ignore_merges = true;
  EXPECT_EQ(ids(Bpe(model), "abc"), (Ids{5}));
  EXPECT_EQ(ids(Bpe(model), "abca"), (Ids{0, 1, 2, 0}));
}

TEST(Bpe, UnknownCharacters) {
  BpeModel model = letters();
  EXPECT_EQ(ids(Bpe(model), "a?é"), (Ids{0}));
  model.unknown = "c";
  EXPECT_EQ(ids(Bpe(model), "?éa?"), (Ids{2, 2, 0, 2}));
  model.fuse_unknown = true;
  EXPECT_EQ(ids(Bpe(model), "?éa?"), (Ids{2, 0, 2}));
}

TEST(Bpe, BytesOfUnknownCharacters) {
  BpeModel model = letters();
  model.unknown = "c";
  model.byte_fallback = true;
  model.vocabulary.emplace_back("<0xC3>", 10);
  model.vocabulary.emplace_back("<0xA9>", 11);
  EXPECT_EQ(ids(Bpe(model), "aéb"), (Ids{0, 10, 11, 1}));
  EXPECT_EQ(ids(Bpe(model), "aèb"), (Ids{0, 2, 1}));       // one byte is missing
  EXPECT_EQ(ids(Bpe(model), "?éb"), (Ids{10, 11, 2, 1}));  // in the order in which `tokenizers` writes them
}

TEST(Bpe, AnUnknownTokenThatIsNoneIsRefusedWhenItIsNeeded) {
  BpeModel model = letters();
  model.unknown = "<unk>";
  const Bpe bpe(model);
  EXPECT_EQ(ids(bpe, "a"), (Ids{0}));
  EXPECT_THROW(ids(bpe, "?"), Error);
}

TEST(Bpe, BadModelsAreRefused) {
  BpeModel model = letters();
  model.merges = {{"a", "x"}};
  EXPECT_THROW(Bpe{model}, Error);
  model.merges = {{"c", "a"}};
  EXPECT_THROW(Bpe{model}, Error);
  model = letters();
  model.vocabulary.emplace_back("z", 0);
  EXPECT_THROW(Bpe{model}, Error);
  model = letters();
  model.vocabulary.emplace_back("a", 9);
  EXPECT_THROW(Bpe{model}, Error);
}

TEST(Bpe, AMegabyteOfOneLetter) {  // quadratic work would take hours
  BpeModel model{{{"a", 0}}, {}, std::nullopt};
  std::string token = "a";
  for (uint32_t id = 1; id < 12; ++id) {
    model.merges.emplace_back(token, token);
    token += token;
    model.vocabulary.emplace_back(token, id);
  }
  const std::size_t length = (std::size_t{1} << 20) + 3;
  const Ids found = ids(Bpe(model), std::string(length, 'a'));
  EXPECT_EQ(found.size(), 512u + 2);
}

}  // namespace
}  // namespace ar
