// Reading tokenizer.json: what of it this project supports, as records.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/added_tokens.hpp"
#include "text/bpe.hpp"
#include "text/steps.hpp"

namespace ar {

struct TokenizerParts {
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  BpeModel model;
  std::optional<std::vector<DecoderStep>> decoder;  // nothing: tokens are joined by spaces
  std::vector<int64_t> leading;                     // ids that the post-processor puts before a text
};

// Throws AR_BUNDLE_CORRUPT where the file is no tokenizer.json, and AR_ENGINE_UNAVAILABLE where it asks for what is
// not supported here; both name the place in the file.
TokenizerParts read_tokenizer(std::string_view json);

}  // namespace ar
