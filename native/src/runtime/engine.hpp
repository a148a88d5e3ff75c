// One entry of a bundle, opened: the five graphs and the tokenizer, as functions of their inputs; runtime/engine.py.
//
// What it is: preprocess, embed_pixels, prompt, route, prefill, decode; one image and one question at a time.
// It is stateless: requests may run at once. Sampling, stopping and time are the request's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "contract/bundle.hpp"
#include "runtime/backend.hpp"
#include "runtime/cache.hpp"
#include "text/prompter.hpp"

namespace ar {

struct Scores {               // of the router
  std::vector<float> tokens;  // [N]
  std::vector<float> layers;  // [M]
};

struct Prefilled {            // a request after its prompt
  std::vector<float> logits;  // [V], of its last token
  std::vector<int64_t> keep_indices, kept_layers;
  Cache cache;
};

struct Sessions {
  std::shared_ptr<const Session> preprocess, vision, router, prefill, decode;  // router may be none
};

// What an engine knows of its bundle.
struct EngineFacts {
  Model model;
  Limits limits;
  std::shared_ptr<const Prompter> prompter;  // none: token ids alone
};

class Engine {
 public:
  Engine(Entry entry, EngineFacts facts, Sessions sessions);

  const Entry& entry() const { return entry_; }
  const Model& model() const { return facts_.model; }
  const Limits& limits() const { return facts_.limits; }
  bool has_text() const { return facts_.prompter != nullptr; }
  bool routes() const;  // whether prefill needs the router's scores

  // Returns pixel_values [1, 3, size, size] of uint8 [height, width, 3].
  TensorPtr preprocess(const Array& rgb) const;
  // Returns the image embeds [1, N, H] in engine precision.
  TensorPtr embed_pixels(const TensorPtr& pixel_values) const;
  // Returns the ids around the image. Throws AR_INPUT_INVALID (empty, not UTF-8) or AR_PROMPT_TOO_LONG.
  PromptIds prompt(std::string_view question) const;
  // Checks ids that a program gave: both sides there, in the vocabulary, within the limit. Throws as `prompt`.
  void check(const PromptIds& prompt) const;
  std::string text(const std::vector<int64_t>& ids) const;  // without special tokens
  // Returns the router's scores, or nothing where this entry needs none (`full`).
  std::optional<Scores> route(const PromptIds& prompt, const TensorPtr& image_embeds) const;
  // Runs the prompt; `free_slots` is how many further tokens `decode` may be given. Throws AR_INPUT_INVALID or
  // AR_BACKEND_ERROR.
  Prefilled prefill(const PromptIds& prompt, const TensorPtr& image_embeds, const std::optional<Scores>& scores,
                    int64_t free_slots) const;
  // Puts `ids` behind the sequence; returns their logits [S, V]. One thread per state.
  std::vector<float> decode(Prefilled& state, const std::vector<int64_t>& ids) const;

 private:
  Prefilled start(const Tensors& outputs, int64_t text, int64_t free_slots) const;

  Entry entry_;
  EngineFacts facts_;
  Sessions sessions_;
};

// Opens an entry of a bundle. Without `with_text` no tokenizer is read. Throws AR_ENGINE_UNAVAILABLE (also a tokenizer
// family that this library does not know), AR_BACKEND_ERROR, AR_BUNDLE_CORRUPT (the tokenizer: unreadable, or it gives
// other ids than when the bundle was built).
Engine open_engine(const OpenBundle& bundle, const Entry& entry, const EngineOptions& options, bool with_text);

}  // namespace ar
