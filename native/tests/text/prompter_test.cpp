#include "text/prompter.hpp"

#include <gtest/gtest.h>

#include "contract/error.hpp"
#include "small_tokenizers.hpp"

namespace ar {
namespace {

using Ids = std::vector<int64_t>;

Prompter bytes(const PromptTemplate& prompt) { return Prompter(Tokenizer(small::byte_level()), prompt); }

void refused(const Prompter& prompter, std::string_view question, const std::string& part) {
  try {
    prompter.ids(question);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), AR_INPUT_INVALID);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Prompter, SpecialsOfTheTemplateGiveTheirIds) {
  const PromptIds ids = bytes({"x<s><image>", "", "<s><s>", false}).ids("a");
  EXPECT_EQ(ids.prefix_ids, (Ids{'x', 259, 260}));
  EXPECT_EQ(ids.suffix_ids, (Ids{'a', 259, 259}));
}

TEST(Prompter, TheQuestionIsOneTextWithItsNeighbours) {
  EXPECT_EQ(bytes({"", "a", "c", true}).ids("b").suffix_ids, (Ids{257}));
  EXPECT_EQ(bytes({"", "", "", true}).ids("b").prefix_ids, (Ids{259}));
}

TEST(Prompter, TheQuestionNeverBecomesSpecial) {
  const PromptIds ids = bytes({"", "<im", ">", false}).ids("age>y<s");
  for (const int64_t id : ids.suffix_ids) EXPECT_LT(id, 259);
}

// <x> is what the model makes of its letters; <unk> of what it does not know, and "!" is no word.
TEST(Prompter, AControlTokenThatTheModelItselfMakesIsRefused) {
  const std::string json = R"({"added_tokens":[)" + small::added("<x>", 5, true) + "," +
                           small::added("<unk>", 6, true) + "," + small::added("!", 7, true) +
                           R"(],"model":{"type":"BPE","unk_token":"<unk>","vocab":{"<":0,"x":1,">":2,"<x":3,"y":4,)"
                           R"("<x>":5,"<unk>":6,"!":7},"merges":["< x","<x >"]}})";
  const Prompter prompter(Tokenizer(json), {"", "<x>", "<x>", false});
  EXPECT_EQ(prompter.ids("y<x!z").suffix_ids, (Ids{5, 4, 3, 7, 6, 5}));
  for (const char* question : {"<x>", "y<x>y", "<<x><x>"}) refused(prompter, question, "control token");
  const Prompter seam(Tokenizer(json), {"", "y<", ">", false});
  EXPECT_EQ(seam.ids("y").suffix_ids, (Ids{4, 0, 4, 2}));
  refused(seam, "x", "'<x>'");
}

TEST(Prompter, OnlyTheVeryBeginningIsMarkedAsOne) {
  const std::string json = small::sentence_piece(small::kMetaspaceFirst);
  const Prompter prompter(Tokenizer(json), {"a<s>a", "a", "</s>a", true});
  const PromptIds ids = prompter.ids("b");
  EXPECT_EQ(ids.prefix_ids, (Ids{262, 1, 260}));
  EXPECT_EQ(ids.suffix_ids, (Ids{260, 261, 2, 260}));
}

TEST(Prompter, EmptyAndBrokenQuestionsAreRefused) {
  const Prompter prompter = bytes({"", "x", "", true});
  for (const char* question : {"", " \n\t", "\x1C\u3000"}) refused(prompter, question, "the question is empty");
  for (const char* question : {"\xFF", " \xC3", "\xED\xA0\x80"}) refused(prompter, question, "not valid Unicode");
  EXPECT_EQ(prompter.ids("\u200B").suffix_ids.front(), 'x');
}

TEST(Prompter, LeadingIdsNeedATokenizerThatSpeaks) {
  const char* mute = R"({"added_tokens":[],"model":{"type":"BPE","vocab":{},"merges":[]}})";
  EXPECT_THROW(Prompter(Tokenizer(mute), {"", "", "", true}), Error);
  EXPECT_TRUE(Prompter(Tokenizer(mute), {"", "", "", false}).ids("a").suffix_ids.empty());
}

TEST(Prompter, GoldenPairsAreChecked) {
  const Prompter prompter = bytes({"", "", "", true});
  const std::string good = R"({"question":"ab","text":"ab","prefix_ids":[259],"suffix_ids":[256]})";
  prompter.check("", "golden");
  prompter.check("\n" + good + "\n\r\n" + good, "golden");
  const std::string bad = R"({"question":"ab","text":"ab","prefix_ids":[259],"suffix_ids":[97,98]})";
  for (const std::string& content : {bad, std::string("{}"), std::string("[1]"), good + good, std::string("\xFF")}) {
    try {
      prompter.check(good + "\n" + content, "golden");
      ADD_FAILURE() << content;
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), AR_BUNDLE_CORRUPT);
      EXPECT_NE(std::string(error.what()).find("golden:2"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace ar
