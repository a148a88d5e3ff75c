// The manifest: the golden file as Python wrote it, and everything that is refused.
#include "contract/manifest.hpp"

#include <cmath>

#include "scratch.hpp"

namespace {

using ar::decode_manifest;
using scratch::golden;
using scratch::Plain;
using scratch::refused;

// Returns the golden manifest with the value at a JSON pointer replaced; null text removes the key.
std::string changed(const std::string& pointer, const std::optional<std::string>& json) {
  Plain manifest = golden();
  const Plain::json_pointer place(pointer);
  if (json) {
    manifest[place] = "\x01";
    std::string text = manifest.dump();
    return text.replace(text.find("\"\\u0001\""), 8, *json);
  }
  manifest[place.parent_pointer()].erase(place.back());
  return manifest.dump();
}

TEST(Manifest, TheGoldenFileIsRead) {
  const ar::Manifest manifest = decode_manifest(scratch::golden_text(), "golden");
  EXPECT_EQ(manifest.producer, "allrounder golden");
  EXPECT_EQ(manifest.model.vocabulary, 32064);
  EXPECT_EQ(manifest.model.image_token_id, 32000);
  EXPECT_EQ(manifest.model.max_positions, 4096);
  EXPECT_EQ(manifest.model.stop_ids, (std::vector<int64_t>{2, 32001}));
  EXPECT_EQ(manifest.model.router, ar::sha256_hex("router"));
  EXPECT_EQ(manifest.chat.begin_token, "<s>");
  EXPECT_EQ(manifest.chat.image_token, "<image>");
  ASSERT_TRUE(manifest.chat.literals);
  EXPECT_EQ(manifest.chat.literals->generation, "ASSISTANT:");
  EXPECT_TRUE(manifest.chat.literals->images_first);
  EXPECT_FALSE(manifest.chat.literals->trims);
  EXPECT_EQ(manifest.chat.literals->roles.at("user").empty, "\"nothing\"\n");
  EXPECT_EQ(manifest.chat.literals->roles.at("system").before_text, "");
  EXPECT_EQ(manifest.limits.images, 4);
  EXPECT_EQ(manifest.limits.image_tokens, 2304);
  EXPECT_EQ(manifest.limits.new_tokens, 256);
  EXPECT_EQ(manifest.limits.batch, 8);
  EXPECT_EQ(manifest.files.size(), 7u);
  EXPECT_EQ(manifest.files.at("graphs/vision.onnx"), 18);
  ASSERT_EQ(manifest.entries.size(), 3u);
  const ar::Entry& full = manifest.entries[0];
  EXPECT_EQ(full.label(), "full (onnxruntime, fp32, static, K=2)");
  EXPECT_EQ(full.pruning.kept_layers->size(), 32u);
  EXPECT_EQ(full.graphs.router, std::nullopt);
  EXPECT_EQ(full.fidelity->kl, golden()["entries"][0]["fidelity"]["kl"]["mean"].get<double>());
  EXPECT_EQ(full.latency->ttft_ms.p99, 51.125);
  EXPECT_EQ(full.latency->machine.cpu, "Golden CPU @ 2 GHz");
  EXPECT_EQ(full.graphs.decoder, "graphs/decoder-full.onnx");
  EXPECT_TRUE(full.pruning.keep.everything());
  EXPECT_EQ(manifest.entries[1].pruning.keep.denominator, 4);
  EXPECT_EQ(manifest.entries[1].pruning.kept_layers, std::nullopt);
  EXPECT_EQ(manifest.entries[2].pruning.keep.numerator, 100);
  EXPECT_EQ(manifest.entries[2].latency.has_value(), false);
  EXPECT_EQ(manifest.entries[2].index, 2u);
}

TEST(Manifest, WhatCameLaterMayBeAbsent) {
  Plain manifest = golden();
  manifest.erase("recommendations");
  manifest["chat"].erase("literals");
  for (Plain& entry : manifest["entries"]) {
    entry.erase("native_op");
    if (entry["fidelity"].is_null()) continue;
    entry["fidelity"].erase("accuracy");
    entry["fidelity"].erase("kinds");
    entry["latency"]["machine"].erase("gpu");
    entry["latency"]["machine"].erase("driver");
  }
  const ar::Manifest read = decode_manifest(manifest.dump(), "old");
  EXPECT_FALSE(read.chat.literals);
  EXPECT_FALSE(read.entries[0].native_op);
  EXPECT_EQ(read.entries[0].latency->machine.gpu, "");
}

TEST(Manifest, FromTheFutureBeatsEveryOtherComplaint) {
  const std::pair<const char*, const char*> schemas[] = {
      {"4", "4"}, {"99", "99"}, {"1000000000000000000000000000000", "beyond 2^64"}};
  for (const auto& [schema, named] : schemas) {
    Plain manifest = golden();
    manifest["model"] = nullptr;
    manifest["new"] = 1;
    manifest["schema"] = "S";
    std::string text = manifest.dump();
    text.replace(text.find("\"S\""), 3, schema);
    refused(AR_BUNDLE_FROM_FUTURE, std::string("schema ") + named, [&] { decode_manifest(text, "m"); });
    const std::string huge = std::string("{\"schema\": ") + schema + ", \"x\": 1e999}";
    refused(AR_BUNDLE_FROM_FUTURE, "update allrounder", [&] { decode_manifest(huge, "m"); });
  }
}

TEST(Manifest, EntriesMayBeInBfloat16) {
  const ar::Manifest manifest = decode_manifest(changed("/entries/2/precision", "\"bf16\""), "golden");
  EXPECT_EQ(manifest.entries[2].precision, "bf16");
  EXPECT_NE(manifest.entries[2].label().find("bf16"), std::string::npos);
  ar::check_manifest(manifest, "golden");
}

TEST(Manifest, OtherSchemasAreMalformed) {
  for (const char* schema : {"-1", "3.0", "2.5", "true", "\"3\"", "null", "[3]", "3e0"})
    refused(AR_BUNDLE_CORRUPT, "$.schema", [&] { decode_manifest(changed("/schema", schema), "m"); });
  refused(AR_BUNDLE_CORRUPT, "`schema`", [&] { decode_manifest(changed("/schema", std::nullopt), "m"); });
}

TEST(Manifest, OlderOnesAreRefusedWithTheCommandThatBuildsThemAgain) {
  for (const char* schema : {"0", "1", "2"}) {
    const std::string message = refused(AR_BUNDLE_CORRUPT, std::string("schema ") + schema,
                                        [&] { decode_manifest(changed("/schema", schema), "m"); });
    EXPECT_NE(message.find("python build_engine.py --version par-lite --out"), std::string::npos) << message;
  }
}

TEST(Manifest, KeepRulesAreSharesCountsOrAll) {
  const auto keep = [](const char* json) {
    const ar::Manifest manifest = decode_manifest(changed("/entries/1/pruning/keep", json), "m");
    const ar::Keep& read = manifest.entries[1].pruning.keep;
    return std::to_string(read.numerator) + "/" + std::to_string(read.denominator);
  };
  EXPECT_EQ(keep(R"("1")"), "1/1");
  EXPECT_EQ(keep(R"("2")"), "2/1");
  EXPECT_EQ(keep(R"("11/36")"), "11/36");
  EXPECT_EQ(keep(R"("144/576")"), "1/4");
  EXPECT_EQ(keep(R"("3/3")"), "1/1");
  EXPECT_EQ(keep(R"("6/3")"), "2/1");
  EXPECT_EQ(keep(R"("999999999")"), "999999999/1");
  EXPECT_EQ(keep(R"("999999999/9999999999")"), "111111111/1111111111");
  for (const char* json : {"1", "0.25", R"("")", R"("0")", R"("01")", R"("1/0")", R"("0/4")", R"("1/04")", R"("1/")",
                           R"("/4")", R"("1/4/5")", R"("+1")", R"("-1/4")", R"("1 ")", R"("1\n")", R"("1.5")",
                           R"("1000000000")", R"("1/10000000000")"})
    refused(AR_BUNDLE_CORRUPT, "$.entries[1].pruning.keep", [&] { keep(json); });
}

struct Offence {
  const char *pointer, *json, *path;  // what is put where, and the path that the message names
};

const Offence kOffences[] = {
    {"/unknown", "1", "$"},
    {"/entries/0/unknown", "1", "$.entries[0]"},
    {"/model/digest", "\"000\"", "$.model.digest"},
    {"/model/layers", "0", "$.model.layers"},
    {"/model/layers", "-5", "$.model.layers"},
    {"/model/layers", "9223372036854775808", "$.model.layers"},
    {"/model/layers", "18446744073709551616", "$.model.layers"},
    {"/model/layers", "1.0", "$.model.layers"},
    {"/model/layers", "1e2", "$.model.layers"},
    {"/model/layers", "true", "$.model.layers"},
    {"/model/layers", "\"32\"", "$.model.layers"},
    {"/model/layers", "null", "$.model.layers"},
    {"/model/stop_ids", "[1, -1]", "$.model.stop_ids[1]"},
    {"/model/stop_ids", "null", "$.model.stop_ids"},
    {"/model/router", "7", "$.model.router"},
    {"/model/image_token_id", "-1", "$.model.image_token_id"},
    {"/chat/special_tokens", "[]", "$.chat.special_tokens"},
    {"/chat/special_tokens/eos_token", "null", "$.chat.special_tokens['eos_token']"},
    {"/chat/literals/trims", "0", "$.chat.literals.trims"},
    {"/chat/literals/roles/user", "null", "$.chat.literals.roles['user']"},
    {"/chat/literals/roles/user/empty", "1", "$.chat.literals.roles['user'].empty"},
    {"/limits/batch", "[]", "$.limits.batch"},
    {"/files", "[]", "$.files"},
    {"/files/x", "{\"sha256\": \"\", \"bytes\": 1}", "$.files['x'].sha256"},
    {"/entries", "{}", "$.entries"},
    {"/entries/0", "null", "$.entries[0]"},
    {"/entries/1/precision", "\"int4\"", "$.entries[1].precision"},
    {"/entries/1/pruning/layer_policy", "\"mixed\"", "$.entries[1].pruning.layer_policy"},
    {"/entries/0/pruning/kept_layers", "[0, 1.0]", "$.entries[0].pruning.kept_layers[1]"},
    {"/entries/0/fidelity/kl/mean", "\"0\"", "$.entries[0].fidelity.kl.mean"},
    {"/entries/0/fidelity/kl/mean", "true", "$.entries[0].fidelity.kl.mean"},
    {"/entries/0/fidelity/kinds/x", "1", "$.entries[0].fidelity.kinds['x']"},
    {"/entries/0/latency/machine/cores", "0", "$.entries[0].latency.machine.cores"},
    {"/entries/0/native_op", "0", "$.entries[0].native_op"},
    {"/entries/0/latency/machine/serial", "1", "$.entries[0].latency.machine"},
    {"/recommendations", "null", "$.recommendations"},
};

TEST(Manifest, OffencesAreRefusedByTheirPath) {
  for (const Offence& offence : kOffences) {
    SCOPED_TRACE(std::string(offence.pointer) + " = " + offence.json);
    const std::string text = changed(offence.pointer, offence.json);
    refused(AR_BUNDLE_CORRUPT, std::string("at `") + offence.path + "`", [&] { decode_manifest(text, "m"); });
  }
}

TEST(Manifest, EveryKeyOfTheGoldenFileIsNeededOrKnownToBeOptional) {
  const std::vector<std::string> optional = {
      "recommendations", "literals", "native_op", "accuracy", "kinds", "gpu", "driver", "square", "shortest"};
  const Plain flat = golden().flatten();
  int needed = 0;
  for (const auto& [pointer, value] : flat.items()) {
    for (Plain::json_pointer place(pointer); !place.empty(); place.pop_back()) {
      const std::string key = place.back();
      const bool indexed = key.find_first_not_of("0123456789") == std::string::npos;
      const std::string above = place.parent_pointer().to_string();
      const bool named = above == "/files" || above == "/chat/special_tokens" || above == "/chat/literals/roles" ||
                         place.to_string().find("/kinds/") != std::string::npos;
      if (indexed || named || std::find(optional.begin(), optional.end(), key) != optional.end()) continue;
      ++needed;
      refused(AR_BUNDLE_CORRUPT, "`" + key + "`",
              [&] { decode_manifest(changed(place.to_string(), std::nullopt), "m"); });
    }
  }
  EXPECT_GT(needed, 100);
}

TEST(Manifest, OfAKeyThatStandsTwiceAllValuesAreChecked) {
  std::string text = golden().dump();
  text.insert(1, "\"producer\":\"first\",");
  EXPECT_EQ(decode_manifest(text, "m").producer, "allrounder golden");
  text.replace(text.find("\"first\""), 7, "1");
  refused(AR_BUNDLE_CORRUPT, "$.producer", [&] { decode_manifest(text, "m"); });
}

TEST(Manifest, WholeNumbersMayStandForFloats) {
  const auto mean = [](const char* json) {
    return decode_manifest(changed("/entries/0/fidelity/kl/mean", json), "m").entries[0].fidelity->kl;
  };
  EXPECT_EQ(mean("3"), 3.0);
  EXPECT_FALSE(std::signbit(mean("-0")));
  EXPECT_EQ(mean("18446744073709551616"), 18446744073709551616.0);
  EXPECT_EQ(mean("1e-400"), 0.0);
  for (const char* number : {"NaN", "Infinity", "-Infinity", "1e999", "-1e999"})
    refused(AR_BUNDLE_CORRUPT, "not JSON", [&] { mean(number); });
}

TEST(Manifest, NotAManifestAtAll) {
  const std::string deep(100'000, '[');
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("\xff"), std::string("null"), std::string("[]"), std::string("1"),
        deep, "{\"schema\":" + deep, std::string("{\"schema\":3}"), golden().dump() + "x"})
    refused(AR_BUNDLE_CORRUPT, "where: m", [&] { decode_manifest(text, "m"); });
}

TEST(Manifest, CutAnywhereItIsRefused) {
  const std::string text = golden().dump();
  for (std::size_t size = 0; size < text.size(); size += 7)
    refused(AR_BUNDLE_CORRUPT, "where: m", [&] { decode_manifest(text.substr(0, size), "m"); });
}

}  // namespace
