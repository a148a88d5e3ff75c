#include "text/pieces.hpp"

#include <gtest/gtest.h>

#include "contract/error.hpp"

namespace ar {
namespace {

using Texts = std::vector<std::string>;

struct Cut {
  Texts kept;
  bool reached;
};

Cut cut(const Texts& stops, const Texts& pieces) {
  StopTexts filter(stops);
  Cut found{{}, false};
  for (const std::string& piece : pieces) {
    found.kept.push_back(filter.add(piece));
    if (filter.reached()) return {found.kept, true};
  }
  found.kept.push_back(filter.finish());
  return found;
}

TEST(StopTexts, AreCutOffAcrossPieces) {
  const Cut found = cut({"END"}, {"abE", "N", "Dx"});
  EXPECT_EQ(found.kept, (Texts{"ab", "", ""}));
  EXPECT_TRUE(found.reached);
}

TEST(StopTexts, WhatOnlyBeganLikeOneIsGivenOut) {
  EXPECT_EQ(cut({"END"}, {"abE", "N", "x"}).kept, (Texts{"ab", "", "ENx", ""}));
  const Cut found = cut({"END"}, {"abEN"});
  EXPECT_EQ(found.kept, (Texts{"ab", "EN"}));
  EXPECT_FALSE(found.reached);
}

TEST(StopTexts, TheFirstCompleteOneCounts) {
  EXPECT_EQ(cut({"abcd", "bc"}, {"xabcd"}).kept, (Texts{"xa"}));
  EXPECT_EQ(cut({"c", "abc"}, {"abc"}).kept, (Texts{""}));  // both end there: the longer one begins first
  EXPECT_EQ(cut({"aab"}, {"aaab"}).kept, (Texts{"a"}));
}

TEST(StopTexts, MayBeNone) { EXPECT_EQ(cut({}, {"a", "b"}).kept, (Texts{"a", "b", ""})); }

TEST(StopTexts, EmptyAndBrokenOnesAreRefused) {
  EXPECT_THROW(StopTexts({""}), Error);
  EXPECT_THROW(StopTexts({"a", "\xFF"}), Error);
}

}  // namespace
}  // namespace ar
