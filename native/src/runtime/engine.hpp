// One entry of a bundle, opened: its graphs and the tokenizer, as functions of their inputs; runtime/engine.py.
//
// It is stateless: requests may run at once. Sampling, stopping and time are the request's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "contract/bundle.hpp"
#include "contract/layout.hpp"
#include "engines/backend.hpp"
#include "images/planning.hpp"
#include "runtime/cache.hpp"
#include "runtime/image.hpp"
#include "text/prompter.hpp"

namespace ar {

struct Scores {               // of the router
  std::vector<float> tokens;  // [N]
  std::vector<float> layers;  // [M]
};

// A prompt, how much of its images stays (default: as the version says), and how many further tokens there may be.
struct Task {
  PromptLayout layout;
  std::optional<Keep> keep;
  int64_t free_slots = 0;
};

struct Prefilled {            // a request after its prompt
  std::vector<float> logits;  // [V], of its last token
  std::vector<int64_t> keep_indices, kept_layers;
};

// The images of one prompt, as the vision graph takes them.
struct PreparedImages {
  std::vector<images::PlannedImage> planned;
  std::vector<uint8_t> tiles;  // [tiles of all images, S, S, 3]
};

struct Sessions {
  std::shared_ptr<const Session> vision, router, decoder;  // router may be none
};

// What an engine knows of its bundle.
struct EngineFacts {
  Model model;
  Limits limits;
  std::shared_ptr<const Prompter> prompter;  // none: token ids alone
};

// Returns [M], 1 where a layer is kept: layers 0 to K-1, and the L-K best of the others. Ties go to the lower index; NaN
// counts as -inf.
std::vector<uint8_t> layer_mask(const std::vector<float>& layer_scores, const Pruning& pruning);

class Engine {
 public:
  Engine(Entry entry, EngineFacts facts, Sessions sessions);

  const Entry& entry() const { return entry_; }
  const Model& model() const { return facts_.model; }
  const Limits& limits() const { return facts_.limits; }
  bool has_text() const { return facts_.prompter != nullptr; }

  // Returns the ids of a conversation, or of rendered text. Throw AR_INPUT_INVALID.
  std::vector<int64_t> ids(const std::vector<Message>& messages) const;
  std::vector<int64_t> rendered_ids(std::string_view text) const;
  std::string text(const std::vector<int64_t>& ids) const;  // without control tokens
  // Checks ids that a program gives. Throws AR_INPUT_INVALID: one that the model does not know.
  void check(const std::vector<int64_t>& ids) const;
  // Checks how many images a prompt has. Throws AR_PROMPT_TOO_LONG.
  void check_images(std::size_t images) const;
  // Returns the images of a prompt as the vision graph takes them. Throws AR_IMAGE_INVALID.
  PreparedImages prepare(const std::vector<Image>& images) const;
  // Returns the layout of a prompt by its ids, one placeholder per image, and what its images become. Throws
  // AR_INPUT_INVALID (another number of images) or AR_PROMPT_TOO_LONG (more than the bundle's limits).
  PromptLayout layout(const std::vector<int64_t>& ids, const std::vector<images::PlannedImage>& images) const;
  // Checks what a task asks for. Throws AR_INPUT_INVALID or AR_PROMPT_TOO_LONG.
  void check(const Task& task) const;

  // Returns image_embeds [N, H] in engine precision, of a prompt's images one after another.
  TensorPtr embed(const PreparedImages& images) const;
  // Returns the router's scores, or nothing where this prompt needs none.
  std::optional<Scores> route(const PromptLayout& layout, const TensorPtr& image_embeds) const;
  // Returns how large a pool of one sequence must be for a task.
  PoolShape pool_shape(const Task& task) const;
  // Returns a pool; the scores are those of its only sequence, where layers are chosen per input.
  Pool pool(const PoolShape& shape, const std::optional<Scores>& scores = std::nullopt) const;
  // Runs a checked prompt into a slot of a pool. Throws AR_BACKEND_ERROR, or AR_INPUT_INVALID (scores are missing).
  Prefilled prefill(Pool& pool, int64_t slot, const Task& task, const TensorPtr& image_embeds,
                    const std::optional<Scores>& scores) const;

 private:
  std::vector<int64_t> image_ids(const images::Content& content) const;
  bool wants_scores(const PromptLayout& layout) const;
  int64_t dropped(const Task& task) const;
  std::vector<int64_t> counts(const Task& task) const;  // T_i

  Entry entry_;
  EngineFacts facts_;
  Sessions sessions_;
};

// Opens an entry of a bundle. Without `with_text` no tokenizer is read. Throws AR_ENGINE_UNAVAILABLE (also a tokenizer
// family that this library does not know), AR_BACKEND_ERROR, AR_BUNDLE_CORRUPT (the tokenizer: unreadable, or it gives
// other ids than when the bundle was built).
Engine open_engine(const OpenBundle& bundle, const Entry& entry, const EngineOptions& options, bool with_text);

}  // namespace ar
