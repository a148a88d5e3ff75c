#include "runtime/tokenizer_files.hpp"

#include <fstream>
#include <sstream>
#include <string>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr const char* kTokenizer = "tokenizer/tokenizer.json";
constexpr const char* kGolden = "tokenizer/golden.jsonl";

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file || !text) throw Error(AR_BUNDLE_CORRUPT, "the tokenizer cannot be read", {path.string(), "", "", ""});
  return text.str();
}

}  // namespace

std::shared_ptr<const Prompter> read_prompter(const OpenBundle& bundle) {
  const std::filesystem::path golden = bundle.path / kGolden;
  auto prompter = std::make_shared<Prompter>(Tokenizer(content(bundle.path / kTokenizer)), bundle.manifest.prompt);
  prompter->check(content(golden), golden.string());
  return prompter;
}

}  // namespace ar
