#include "text/prompter.hpp"

#include <gtest/gtest.h>

#include "contract/error.hpp"
#include "small_tokenizers.hpp"

namespace ar {
namespace {

using Ids = std::vector<int64_t>;

const Part kImage{true, ""};
Part text(const std::string& words) { return {false, words}; }
std::vector<Message> user(const std::vector<Part>& parts) { return {{"user", parts}}; }

// A template that writes `before` and `after` around each text, and `generation` at the end.
ChatTemplate chat(const std::string& before, const std::string& after, const std::string& generation = "") {
  ChatTemplate made{"<s>", "<image>", ChatLiterals{}};
  made.literals->generation = generation;
  RoleLiterals& role = made.literals->roles["user"];
  role.before_text = role.image_text = before;
  role.after_text = role.text_image = after;
  role.text_text = after + before;
  return made;
}

Prompter bytes(const ChatTemplate& chat) { return Prompter(Tokenizer(small::byte_level()), chat); }

void refused(const Prompter& prompter, const std::vector<Message>& messages, const std::string& part) {
  try {
    prompter.ids(messages);
    ADD_FAILURE() << "no error, wanted: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), AR_INPUT_INVALID);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

// 257 "abc", 256 "ab", 259 <s>, 260 <image>.
TEST(Prompter, AConversationIsTheTemplatesStringsAndTheTexts) {
  ChatTemplate made{"<s>", "<image>", ChatLiterals{"<s>1", "2", "5", false, false, {}}};
  made.literals->roles["system"] = {"e", "s", "S", "", "", "", "", "x", "X"};
  made.literals->roles["user"] = {"", "u", "U", "-", "<", ">", "=", "y", "Y"};
  const Prompter prompter = bytes(made);
  const auto ids = [&](const std::vector<Message>& messages) { return prompter.ids(messages); };
  EXPECT_EQ(ids(user({text("a")})), (Ids{259, '2', 'u', 'a', 'y', '5'}));
  EXPECT_EQ(ids(user({kImage, kImage})), (Ids{259, '2', 'U', 260, '=', 260, 'Y', '5'}));
  EXPECT_EQ(ids(user({text("a"), text("b"), kImage, text("c")})),
            (Ids{259, '2', 'u', 'a', '-', 'b', '<', 260, '>', 'c', 'y', '5'}));
  EXPECT_EQ(ids({{"system", {text("a")}}, {"user", {kImage}}, {"system", {}}}),
            (Ids{259, '1', 's', 'a', 'x', 'U', 260, 'Y', 'e', '5'}));
}

TEST(Prompter, ATemplateMayPutImagesFirstAndTrimTexts) {
  ChatTemplate made = chat("[", "]");
  made.literals->images_first = true;
  EXPECT_EQ(bytes(made).ids(user({text(" b "), kImage, text("c"), kImage})),
            (Ids{259, 260, 260, '[', ' ', 'b', ' ', ']', '[', 'c', ']'}));
  made.literals->trims = true;
  EXPECT_EQ(bytes(made).ids(user({text(" b\n"), text(" \u3000"), text("c")})),
            (Ids{259, '[', 'b', ']', '[', ']', '[', 'c', ']'}));
}

TEST(Prompter, ATextIsOneStretchWithItsNeighbours) {
  EXPECT_EQ(bytes(chat("a", "c")).ids(user({text("b")})), (Ids{259, 257}));
  EXPECT_EQ(bytes(chat("", "")).ids(user({text("a"), text("b"), text("c")})), (Ids{259, 257}));
}

TEST(Prompter, ATextNeverBecomesAControlToken) {
  for (const char* spelled : {"<s>", "<image>", "x<s>y<image>", "age>y<s", ">", "<"}) {
    const Ids ids = bytes(chat("<im", ">")).ids(user({text(spelled), text("s>"), text("<"), text("s>")}));
    EXPECT_EQ(ids.front(), 259);
    for (std::size_t i = 1; i < ids.size(); ++i) EXPECT_LT(ids[i], 259) << spelled;
  }
}

TEST(Prompter, TheTemplatesStringsMayMakeOneTogether) {
  EXPECT_EQ(bytes(chat("<s", ">")).ids(user({text(""), text("b")})), (Ids{259, '<', 's', 'b', '>'}));
  EXPECT_EQ(bytes(chat("x<s", ">")).ids(user({text(""), text("b")})), (Ids{259, 'x', 259, 'x', '<', 's', 'b', '>'}));
}

TEST(Prompter, ABeginTokenOfTheTemplateStandsForTheTokenizers) {
  EXPECT_EQ(bytes(chat("<s>x", "")).ids(user({text("b")})), (Ids{259, 'x', 'b'}));
  EXPECT_EQ(bytes(chat("", "")).ids(user({text("<s>b")})).front(), 259);
  EXPECT_EQ(bytes(chat("", "")).ids(user({text("<s>b")})).size(), 5u);
  ChatTemplate made = chat("<s>x", "");
  made.begin_token = "";
  EXPECT_EQ(bytes(made).ids(user({text("b")})), (Ids{259, 259, 'x', 'b'}));
}

TEST(Prompter, InRenderedTextControlTokensAreControlTokens) {
  const Prompter prompter = bytes({"<s>", "<image>", std::nullopt});
  EXPECT_EQ(prompter.rendered_ids("x<s><image>abc"), (Ids{259, 'x', 259, 260, 257}));
  EXPECT_EQ(prompter.rendered_ids("<s>ab"), (Ids{259, 256}));
  EXPECT_EQ(prompter.rendered_ids(""), (Ids{259}));
  EXPECT_THROW(prompter.rendered_ids("\xFF"), Error);
  refused(prompter, user({text("a")}), "a program");
}

// <x> is what the model makes of its letters; <unk> of what it does not know, and "!" is no word.
TEST(Prompter, AControlTokenThatTheModelItselfMakesIsRefused) {
  const std::string json = R"({"added_tokens":[)" + small::added("<x>", 5, true) + "," +
                           small::added("<unk>", 6, true) + "," + small::added("!", 7, true) + "," +
                           small::added("<image>", 8, true) +
                           R"(],"model":{"type":"BPE","unk_token":"<unk>","vocab":{"<":0,"x":1,">":2,"<x":3,"y":4,)"
                           R"("<x>":5,"<unk>":6,"!":7},"merges":["< x","<x >"]}})";
  const Prompter prompter(Tokenizer(json), chat("<x>", "<x>"));
  EXPECT_EQ(prompter.ids(user({text("y<x!z")})), (Ids{5, 4, 3, 7, 6, 5}));
  for (const char* words : {"<x>", "y<x>y", "<<x><x>"}) refused(prompter, user({text(words)}), "control token");
  const Prompter seam(Tokenizer(json), chat("y<", ">"));
  EXPECT_EQ(seam.ids(user({text("y")})), (Ids{4, 0, 4, 2}));
  refused(seam, user({text("x")}), "'<x>'");
}

TEST(Prompter, OnlyTheVeryBeginningIsMarkedAsOne) {
  std::string json = small::sentence_piece(small::kMetaspaceFirst);
  ChatTemplate made = chat("a<s>", "a</s>a");
  made.image_token = "</s>";
  EXPECT_EQ(Prompter(Tokenizer(json), made).ids(user({text("b")})), (Ids{262, 1, 261, 260, 2, 260}));
}

TEST(Prompter, MessagesThatAreNoneAreRefused) {
  const Prompter prompter = bytes(chat("x", ""));
  refused(prompter, {}, "no messages");
  refused(prompter, {{"tool", {text("a")}}}, "messages[0].role");
  for (const char* blank : {"", " \n\t", "\x1C\u3000"}) {
    refused(prompter, user({text(blank)}), "the message is empty");
    EXPECT_FALSE(prompter.ids(user({text(blank), kImage})).empty());
  }
  refused(prompter, user({}), "messages[0].content");
  for (const char* broken : {"\xFF", " \xC3", "\xED\xA0\x80"})
    refused(prompter, user({kImage, text(broken)}), "messages[0].content[1].text");
}

TEST(Prompter, ATokenizerHasTheImageTokenAndSpeaks) {
  const auto corrupt = [](const std::string& json, const char* part) {
    try {
      Prompter(Tokenizer(json), chat("", ""));
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), AR_BUNDLE_CORRUPT);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  corrupt(small::sentence_piece(small::kLegacy), "no image token");
  corrupt(R"({"added_tokens":[)" + small::added("<image>", 0, true) +
              R"(],"model":{"type":"BPE","vocab":{},"merges":[]}})",
          "no tokens for a text");
}

TEST(Prompter, GoldenPromptsAreChecked) {
  const std::string parts = R"([{"type":"image"},{"type":"text","text":"ab"}])";
  const auto line = [](const std::string& content, const std::string& rendered, const std::string& ids) {
    return R"({"messages":[{"role":"user","content":)" + content + R"(}],"text":")" + rendered + R"(","input_ids":)" +
           ids + "}";
  };
  const std::string good = line(parts, "unread", "[259,260,256]");
  const std::string alone = line(R"("ab")", "a<image>", "[259,97,260]");  // which a template may write in another way
  const Prompter prompter = bytes(chat("", ""));
  prompter.check("\n" + good + "\n\r\n" + alone, "golden");
  const std::string rendered = line(parts, "<s>b", "[259,98]");
  bytes({"<s>", "<image>", std::nullopt}).check(rendered, "golden");
  EXPECT_THROW(prompter.check(" \n", "golden"), Error);
  for (const std::string& content : {rendered, line("7", "", "[]"), line(R"([{"type":"video"}])", "", "[]"),
                                     std::string("{}"), std::string("[1]"), good + good, std::string("\xFF")}) {
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
