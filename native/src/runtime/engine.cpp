#include "runtime/engine.hpp"

#include <algorithm>
#include <numeric>

#include "contract/error.hpp"
#include "contract/files.hpp"
#include "contract/tensors.hpp"

namespace ar {
namespace {

namespace t = tensors;

constexpr const char *kTokenizer = "tokenizer/tokenizer.json", *kGolden = "tokenizer/golden.jsonl";
const std::vector<std::string> kReadHere = {t::kLogits, t::kKeep, t::kLayerMask, t::kTokenScores, t::kLayerScores};

bool has(const std::vector<std::string>& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

TensorPtr output(const Tensors& outputs, const char* name) {
  const auto found = outputs.find(name);
  if (found == outputs.end()) throw Error(AR_BACKEND_ERROR, "a graph does not give what it should", {"", "", name, ""});
  return found->second;
}

// Copies an output's values, after checking that there are as many of that kind: what a graph declares is no proof.
template <class T>
std::vector<T> values(const Tensors& outputs, const char* name, Kind kind, int64_t count) {
  const TensorPtr tensor = output(outputs, name);
  const std::size_t bytes = tensor->bytes();
  if (tensor->kind() != kind || bytes % sizeof(T) != 0 || bytes / sizeof(T) != static_cast<std::size_t>(count)) {
    throw Error(AR_BACKEND_ERROR, "a graph gave another tensor than it should",
                {name, std::to_string(bytes) + " bytes",
                 std::to_string(count) + " values of " + std::to_string(sizeof(T)) + " bytes", ""});
  }
  const auto* first = static_cast<const T*>(tensor->data());
  return {first, first + count};
}

// Returns those of `known` that the graph takes.
Feeds wanted(const Session& graph, const Feeds& known) {
  Feeds feeds;
  for (const std::string& name : graph.inputs()) {
    const auto found = known.find(name);
    if (found == known.end()) {
      throw Error(AR_BACKEND_ERROR, "a graph wants an input that this runtime does not know",
                  {"", quoted(name), "", ""});
    }
    feeds.insert(*found);
  }
  return feeds;
}

Array row(const std::vector<int64_t>& ids) { return {Kind::kInt64, {1, static_cast<int64_t>(ids.size())}, ids.data()}; }

Array row(const std::vector<float>& scores) {
  return {Kind::kFloat32, {1, static_cast<int64_t>(scores.size())}, scores.data()};
}

Feeds feeds_of(const PromptIds& prompt, const int64_t& suffix_length) {
  return {{t::kPrefixIds, row(prompt.prefix_ids)},
          {t::kSuffixIds, row(prompt.suffix_ids)},
          {t::kSuffixLengths, Array{Kind::kInt64, {1}, &suffix_length}}};
}

int64_t text_tokens(const PromptIds& prompt) {
  return static_cast<int64_t>(prompt.prefix_ids.size() + prompt.suffix_ids.size());
}

void check_length(const PromptIds& prompt, int64_t limit) {
  if (text_tokens(prompt) <= limit) return;
  throw Error(AR_PROMPT_TOO_LONG, "the prompt is too long",
              {"question", std::to_string(text_tokens(prompt)) + " text tokens, the template's included",
               "up to " + std::to_string(limit), "shorten the question, or build the bundle with a higher limit"});
}

void check_provider(const Entry& entry, const EngineOptions& options) {
  if (entry.backend != kOnnxRuntime || !options.on_tensorrt() || !entry.pruning.dynamic()) return;
  throw Error(AR_ENGINE_UNAVAILABLE,
              "ONNX Runtime's TensorRT provider is for static layers alone",  // an If saves no time in TensorRT
              {entry.label(), "", "", "build it with --layer-policy static, or choose provider cuda"});
}

std::string read_text_of(const OpenBundle& bundle, const char* name) {
  const std::filesystem::path path = bundle.path / name;
  std::optional<std::string> text = read_file(path);
  if (text && !text->empty()) return *std::move(text);
  throw Error(AR_BUNDLE_CORRUPT, "the tokenizer cannot be read", {path.string(), text ? "an empty file" : "", "", ""});
}

// Reads a bundle's tokenizer, and checks it against its golden prompts.
std::shared_ptr<const Prompter> read_prompter(const OpenBundle& bundle) {
  auto prompter = std::make_shared<Prompter>(Tokenizer(read_text_of(bundle, kTokenizer)), bundle.manifest.prompt);
  prompter->check(read_text_of(bundle, kGolden), (bundle.path / kGolden).string());
  return prompter;
}

}  // namespace

Engine::Engine(Entry entry, EngineFacts facts, Sessions sessions)
    : entry_(std::move(entry)), facts_(std::move(facts)), sessions_(std::move(sessions)) {}

bool Engine::routes() const {
  const std::vector<std::string>& inputs = sessions_.prefill->inputs();
  return has(inputs, t::kTokenScores) || has(inputs, t::kLayerScores);
}

TensorPtr Engine::preprocess(const Array& rgb) const {
  return output(sessions_.preprocess->run({{t::kImage, rgb}}, kReadHere), t::kPixelValues);
}

TensorPtr Engine::embed_pixels(const TensorPtr& pixel_values) const {
  TensorPtr image_embeds = output(sessions_.vision->run({{t::kPixelValues, pixel_values}}, kReadHere), t::kImageEmbeds);
  const std::vector<int64_t> shape = image_embeds->shape();
  if (shape.size() != 3 || shape[0] != 1 || shape[1] != model().image_tokens) {
    throw Error(AR_BACKEND_ERROR, "the vision graph gives another number of image tokens than the manifest says",
                {t::kImageEmbeds, "", std::to_string(model().image_tokens), ""});
  }
  return image_embeds;
}

PromptIds Engine::prompt(std::string_view question) const {
  if (!has_text()) {
    throw Error(AR_INPUT_INVALID, "this runtime takes token ids alone", {"question", "", "", "load without ids_only"});
  }
  PromptIds prompt = facts_.prompter->ids(question);
  check_length(prompt, limits().text_tokens);
  return prompt;
}

void Engine::check(const PromptIds& prompt) const {
  for (const auto& [name, ids] :
       {std::pair("prefix_ids", &prompt.prefix_ids), std::pair("suffix_ids", &prompt.suffix_ids)}) {
    if (ids->empty())
      throw Error(AR_INPUT_INVALID, "a prompt has ids on both sides of the image", {name, "none", "", ""});
    const auto strange =
        std::find_if(ids->begin(), ids->end(), [&](int64_t id) { return id < 0 || id >= model().vocabulary; });
    if (strange == ids->end()) continue;
    throw Error(AR_INPUT_INVALID, "there is no such token",
                {name, std::to_string(*strange), "0 to " + std::to_string(model().vocabulary - 1), ""});
  }
  check_length(prompt, limits().text_tokens);
}

std::string Engine::text(const std::vector<int64_t>& ids) const { return facts_.prompter->decode(ids); }

std::optional<Scores> Engine::route(const PromptIds& prompt, const TensorPtr& image_embeds) const {
  if (!sessions_.router || !routes()) return std::nullopt;
  const auto length = static_cast<int64_t>(prompt.suffix_ids.size());
  Feeds known = feeds_of(prompt, length);
  known[t::kImageEmbeds] = image_embeds;
  const Tensors outputs = sessions_.router->run(wanted(*sessions_.router, known), kReadHere);
  return Scores{values<float>(outputs, t::kTokenScores, Kind::kFloat32, model().image_tokens),
                values<float>(outputs, t::kLayerScores, Kind::kFloat32, model().layers)};
}

Prefilled Engine::prefill(const PromptIds& prompt, const TensorPtr& image_embeds, const std::optional<Scores>& scores,
                          int64_t free_slots) const {
  if (free_slots < 0 || free_slots > limits().new_tokens) {
    throw Error(AR_INPUT_INVALID, "impossible number of free slots",
                {"free_slots", std::to_string(free_slots), "0 to " + std::to_string(limits().new_tokens), ""});
  }
  if (!scores && routes()) {
    throw Error(AR_INPUT_INVALID, "this entry needs the router's scores", {entry_.label(), "", "", "call route"});
  }
  const auto length = static_cast<int64_t>(prompt.suffix_ids.size());
  Feeds known = feeds_of(prompt, length);
  known[t::kImageEmbeds] = image_embeds;
  known[t::kFreeSlots] = Array{Kind::kInt64, {1}, &free_slots};
  if (scores) {
    known[t::kTokenScores] = row(scores->tokens);
    known[t::kLayerScores] = row(scores->layers);
  }
  return start(sessions_.prefill->run(wanted(*sessions_.prefill, known), kReadHere), text_tokens(prompt), free_slots);
}

Prefilled Engine::start(const Tensors& outputs, int64_t text, int64_t free_slots) const {
  Tensors held;
  for (const auto& [name, tensor] : outputs) {
    if (name.rfind(t::kCachePrefix, 0) == 0 || name == t::kLayerMask) held[name] = tensor;
  }
  Prefilled state{
      values<float>(outputs, t::kLogits, Kind::kFloat32, model().vocabulary),
      {},
      entry_.pruning.kept_layers.value_or(std::vector<int64_t>{}),
      Cache(sessions_.decode, held, {text + model().image_tokens, text + entry_.pruning.keep, free_slots},
            model().vocabulary)};
  if (outputs.count(t::kKeep) != 0 || entry_.pruning.keep < model().image_tokens) {
    state.keep_indices = values<int64_t>(outputs, t::kKeep, Kind::kInt64, entry_.pruning.keep);
  } else {
    state.keep_indices.resize(static_cast<std::size_t>(model().image_tokens));
    std::iota(state.keep_indices.begin(), state.keep_indices.end(), int64_t{0});
  }
  if (outputs.count(t::kLayerMask) != 0 || !entry_.pruning.kept_layers) {
    const std::vector<uint8_t> mask = values<uint8_t>(outputs, t::kLayerMask, Kind::kBool, model().layers);
    state.kept_layers.clear();
    for (std::size_t layer = 0; layer < mask.size(); ++layer) {
      if (mask[layer] != 0) state.kept_layers.push_back(static_cast<int64_t>(layer));
    }
  }
  return state;
}

std::vector<float> Engine::decode(Prefilled& state, const std::vector<int64_t>& ids) const {
  return state.cache.advance(ids);
}

Engine open_engine(const OpenBundle& bundle, const Entry& entry, const EngineOptions& options, bool with_text) {
  options.check();
  check_provider(entry, options);
  check_precision(entry, options);
  // Images are prepared on the CPU on every device: its pixels are those that the graph was verified with.
  EngineOptions for_images = options;
  for_images.device = "cpu";
  for_images.provider = EngineOptions().provider;
  const auto session = [&](const std::string& graph, const EngineOptions& chosen, bool native_op = false) {
    return backend(entry.backend).open_session(bundle.path / graph, chosen, native_op);
  };
  const Manifest& manifest = bundle.manifest;
  const EntryGraphs& graphs = entry.graphs;
  EngineFacts facts{manifest.model, manifest.limits, with_text ? read_prompter(bundle) : nullptr};
  // The native op is in prefill graphs alone.
  Sessions sessions{session(graphs.preprocess, for_images), session(graphs.vision, options),
                    graphs.router ? session(*graphs.router, options) : nullptr,
                    session(graphs.prefill, options, entry.native_op), session(graphs.decode, options)};
  return {entry, std::move(facts), std::move(sessions)};
}

}  // namespace ar
