#include "runtime/engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "contract/error.hpp"
#include "contract/files.hpp"
#include "contract/tensors.hpp"
#include "images/pixels.hpp"
#include "images/sources.hpp"

namespace ar {
namespace {

namespace t = tensors;

constexpr const char *kTokenizer = "tokenizer/tokenizer.json", *kGolden = "tokenizer/golden.jsonl";
const std::vector<std::string> kReadHere = {t::kTokenScores, t::kLayerScores};

std::string shown(const Shape& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

// Returns an output, after checking it: what a manifest says of a graph is no proof. -1 is any extent.
TensorPtr output(const Tensors& outputs, const char* name, const Shape& wanted) {
  const auto found = outputs.find(name);
  const Shape got = found != outputs.end() ? found->second->shape() : Shape{};
  const auto fits = [](int64_t want, int64_t have) { return want < 0 || want == have; };
  if (found == outputs.end() || !std::equal(wanted.begin(), wanted.end(), got.begin(), got.end(), fits)) {
    throw Error(AR_BACKEND_ERROR, "a graph does not give what it should", {name, shown(got), shown(wanted), ""});
  }
  return found->second;
}

// Copies the values of an output of that kind and shape.
template <class T>
std::vector<T> values(const Tensors& outputs, const char* name, Kind kind, const Shape& shape) {
  const TensorPtr tensor = output(outputs, name, shape);
  if (tensor->kind() != kind) {
    throw Error(AR_BACKEND_ERROR, "a graph gives values of another kind than it should",
                {name, kind_name(tensor->kind()), kind_name(kind), ""});
  }
  const auto* first = static_cast<const T*>(tensor->data());
  return {first, first + tensor->bytes() / sizeof(T)};
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

template <class T>
int64_t size(const std::vector<T>& row) {
  return static_cast<int64_t>(row.size());
}

Array row(const std::vector<int64_t>& numbers) { return {Kind::kInt64, {size(numbers)}, numbers.data()}; }

// What router and decoder are given of a prompt.
class LayoutFeeds {
 public:
  explicit LayoutFeeds(const PromptLayout& layout) : layout_(layout), ids_(layout.input_ids) {
    for (const int64_t index : layout.image_index) {
      ids_[static_cast<std::size_t>(index)] = 0;  // the placeholder's id need not be in the model's table
    }
    for (const std::vector<int64_t>& each : layout.position_ids) {
      positions_.insert(positions_.end(), each.begin(), each.end());
    }
  }
  // They point into this and its layout.
  Feeds feeds() const {
    const int64_t rows = layout_.rows();
    return {{t::kInputIds, Array{Kind::kInt64, {1, rows}, ids_.data()}},
            {t::kImageIndex, row(layout_.image_index)},
            {t::kImageOf, row(layout_.image_of)},
            {t::kPositionIds, Array{Kind::kInt64, {size(layout_.position_ids), 1, rows}, positions_.data()}}};
  }

 private:
  const PromptLayout& layout_;
  std::vector<int64_t> ids_, positions_;
};

void refuse_beyond(int64_t got, const char* what, int64_t limit, const char* flag) {
  if (got <= limit) return;
  throw Error(AR_PROMPT_TOO_LONG, "the prompt is too long",
              {"messages", std::to_string(got) + " " + what, "up to " + std::to_string(limit),
               std::string("send less, or build another bundle with a higher ") + flag});
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
  const Manifest& manifest = bundle.manifest;
  auto prompter = std::make_shared<Prompter>(Tokenizer(read_text_of(bundle, kTokenizer)), manifest.chat);
  const std::vector<int64_t> ids = prompter->rendered_ids(manifest.chat.image_token);
  if (ids.empty() || ids.back() != manifest.model.image_token_id) {
    throw Error(AR_BUNDLE_CORRUPT, "the tokenizer's image token is another one than the model's",
                {(bundle.path / kTokenizer).string(), ids.empty() ? "" : std::to_string(ids.back()),
                 std::to_string(manifest.model.image_token_id), "build the bundle again"});
  }
  prompter->check(read_text_of(bundle, kGolden), (bundle.path / kGolden).string());
  return prompter;
}

const Prompter& prompter_of(const EngineFacts& facts) {
  if (facts.prompter) return *facts.prompter;
  throw Error(AR_INPUT_INVALID, "this runtime takes token ids alone", {"", "", "ids", "load without ids_only"});
}

}  // namespace

std::vector<uint8_t> layer_mask(const std::vector<float>& layer_scores, const Pruning& pruning) {
  const auto score = [&](int64_t layer) {
    const float value = layer_scores[static_cast<std::size_t>(layer)];
    return std::isnan(value) ? -std::numeric_limits<float>::infinity() : value;
  };
  std::vector<int64_t> order(layer_scores.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin() + pruning.prune_layer, order.end(),
                   [&](int64_t a, int64_t b) { return score(a) > score(b); });
  std::vector<uint8_t> mask(layer_scores.size());
  for (int64_t rank = 0; rank < pruning.layers; ++rank) {
    mask[static_cast<std::size_t>(order[static_cast<std::size_t>(rank)])] = 1;
  }
  return mask;
}

Engine::Engine(Entry entry, EngineFacts facts, Sessions sessions)
    : entry_(std::move(entry)), facts_(std::move(facts)), sessions_(std::move(sessions)) {}

std::vector<int64_t> Engine::ids(const std::vector<Message>& messages) const {
  return prompter_of(facts_).ids(messages);
}

std::vector<int64_t> Engine::rendered_ids(std::string_view text) const { return prompter_of(facts_).rendered_ids(text); }

std::string Engine::text(const std::vector<int64_t>& ids) const { return prompter_of(facts_).decode(ids); }

void Engine::check(const std::vector<int64_t>& ids) const {
  const auto strange = std::find_if(ids.begin(), ids.end(), [&](int64_t id) {
    return id != model().image_token_id && (id < 0 || id >= model().vocabulary);
  });
  if (strange == ids.end()) return;
  throw Error(AR_INPUT_INVALID, "there is no such token",
              {"ids", std::to_string(*strange), "0 to " + std::to_string(model().vocabulary - 1), ""});
}

void Engine::check_images(std::size_t images) const {
  refuse_beyond(static_cast<int64_t>(images), "images", limits().images, "--max-images");
}

PreparedImages Engine::prepare(const std::vector<Image>& images) const {
  const images::ImagePlan& plan = model().images;
  std::vector<images::Extent> sizes;
  std::vector<Rgb> dense;
  for (const Image& image : images) {
    dense.emplace_back(image);
    sizes.push_back({image.height, image.width});
  }
  PreparedImages prepared{images::plan_images(plan, sizes), {}};
  for (std::size_t index = 0; index < images.size(); ++index) {
    const images::Rgb8View view{sizes[index], dense[index].bytes()};
    const std::vector<uint8_t> tiles = images::cut_tiles(plan, prepared.planned[index], view);
    prepared.tiles.insert(prepared.tiles.end(), tiles.begin(), tiles.end());
  }
  return prepared;
}

PromptLayout Engine::layout(const std::vector<int64_t>& ids, const std::vector<images::PlannedImage>& images) const {
  int64_t tokens = 0;
  for (const images::PlannedImage& image : images) tokens += image.tokens();
  refuse_beyond(tokens, "image tokens", limits().image_tokens, "--max-images");  // before there is a row for each
  std::vector<std::vector<int64_t>> blocks;
  for (const images::PlannedImage& image : images) blocks.push_back(image_ids(image.content));
  PromptLayout layout = sequential_layout(ids, model().image_token_id, blocks);
  refuse_beyond(layout.text_tokens(), "text tokens, the template's included", limits().text_tokens,
                "--max-text-tokens");
  return layout;
}

// Returns the ids in the place of an image's placeholder; a tokenizer is needed for text alone.
std::vector<int64_t> Engine::image_ids(const images::Content& content) const {
  const auto* count = content.size() == 1 ? std::get_if<int64_t>(&content.front()) : nullptr;
  if (count != nullptr) return std::vector<int64_t>(static_cast<std::size_t>(*count), model().image_token_id);
  return prompter_of(facts_).image_ids(content, model().image_token_id);
}

void Engine::check(const Task& task) const {
  const PromptLayout& layout = task.layout;
  if (task.free_slots < 0 || task.free_slots > limits().new_tokens) {
    throw Error(AR_INPUT_INVALID, "impossible number of free slots",
                {"free_slots", std::to_string(task.free_slots), "0 to " + std::to_string(limits().new_tokens), ""});
  }
  if (task.free_slots > model().max_positions - layout.next_position) {
    throw Error(AR_PROMPT_TOO_LONG, "prompt and answer are longer than the model's longest sequence",
                {"messages",
                 std::to_string(layout.text_tokens()) + " text + " + std::to_string(layout.image_tokens()) +
                     " image + " + std::to_string(task.free_slots) + " new tokens",
                 "up to " + std::to_string(model().max_positions),
                 "send less, or ask for fewer tokens with max_new_tokens"});
  }
  if (task.keep && !task.keep->everything() && entry_.pruning.keep.everything()) {
    throw Error(AR_INPUT_INVALID, "this entry keeps every image token",
                {"keep", "", "1", "load another version than " + entry_.label()});
  }
}

TensorPtr Engine::embed(const PreparedImages& images) const {
  if (images.planned.empty()) return sessions_.decoder->zeros(t::kImageEmbeds, {0, -1});
  const images::ImagePlan& plan = model().images;
  int64_t tiles = 0, tokens = 0;
  for (const images::PlannedImage& image : images.planned) {
    tiles += image.tiles();
    tokens += image.tokens();
  }
  Feeds feeds = {{t::kTiles, Array{Kind::kUint8, {tiles, plan.size, plan.size, 3}, images.tiles.data()}}};
  images::TokenSources sources;
  if (std::holds_alternative<images::Canvases>(plan.layout)) {
    sources = images::token_sources(plan, images.planned);
    feeds[t::kTokenRows] = Array{Kind::kInt64, {tokens, 4}, sources.rows.data()};
    feeds[t::kTokenWeights] = Array{Kind::kFloat32, {tokens, 4}, sources.weights.data()};
  }
  return output(sessions_.vision->run(wanted(*sessions_.vision, feeds), kReadHere), t::kImageEmbeds, {tokens, -1});
}

std::optional<Scores> Engine::route(const PromptLayout& layout, const TensorPtr& image_embeds) const {
  if (!sessions_.router || !wants_scores(layout)) return std::nullopt;
  const LayoutFeeds prompt(layout);
  Feeds known = prompt.feeds();
  known[t::kImageEmbeds] = image_embeds;
  const Tensors outputs = sessions_.router->run(wanted(*sessions_.router, known), kReadHere);
  return Scores{values<float>(outputs, t::kTokenScores, Kind::kFloat32, {layout.image_tokens()}),
                values<float>(outputs, t::kLayerScores, Kind::kFloat32, {model().layers})};
}

PoolShape Engine::pool_shape(const Task& task) const {
  const int64_t rows = task.layout.rows() + task.free_slots;
  return {1, rows, rows - dropped(task)};
}

Pool Engine::pool(const PoolShape& shape, const std::optional<Scores>& scores) const {
  std::vector<uint8_t> mask;
  if (entry_.pruning.dynamic() && scores) mask = layer_mask(scores->layers, entry_.pruning);
  return {sessions_.decoder, entry_.pruning, shape, model().vocabulary, mask};
}

Prefilled Engine::prefill(Pool& pool, int64_t slot, const Task& task, const TensorPtr& image_embeds,
                          const std::optional<Scores>& scores) const {
  const PromptLayout& layout = task.layout;
  if (!scores && wants_scores(layout)) {
    throw Error(AR_INPUT_INVALID, "this entry needs the router's scores", {entry_.label(), "", "", "call route"});
  }
  const LayoutFeeds prompt(layout);
  const std::vector<int64_t> keep_counts = counts(task);
  const std::vector<float> token_scores = scores ? scores->tokens : std::vector<float>{};
  const int64_t one = 1;
  Feeds feeds = prompt.feeds();
  feeds[t::kImageEmbeds] = image_embeds;
  feeds[t::kTokenScores] = Array{Kind::kFloat32, {size(token_scores)}, token_scores.data()};
  feeds[t::kKeepCounts] = row(keep_counts);
  feeds[t::kLogitsToKeep] = Array{Kind::kInt64, {1}, &one};
  const Clocks clocks{layout.next_position, layout.rows(), layout.rows() - dropped(task), task.free_slots};
  const Tensors outputs = pool.prefill(feeds, clocks, slot);
  Prefilled state{values<float>(outputs, t::kLogits, Kind::kFloat32, {1, 1, model().vocabulary}), {}, {}};
  if (!entry_.pruning.keep.everything()) {
    const int64_t kept = layout.image_tokens() - dropped(task);
    state.keep_indices = values<int64_t>(outputs, t::kKeepIndices, Kind::kInt64, {kept});
  } else {
    state.keep_indices.resize(static_cast<std::size_t>(layout.image_tokens()));
    std::iota(state.keep_indices.begin(), state.keep_indices.end(), int64_t{0});
  }
  state.kept_layers = entry_.pruning.kept_layers.value_or(std::vector<int64_t>{});
  if (entry_.pruning.dynamic()) {
    const std::vector<uint8_t> mask = layer_mask(scores->layers, entry_.pruning);
    for (std::size_t layer = 0; layer < mask.size(); ++layer) {
      if (mask[layer] != 0) state.kept_layers.push_back(static_cast<int64_t>(layer));
    }
  }
  return state;
}

bool Engine::wants_scores(const PromptLayout& layout) const {
  return entry_.pruning.dynamic() || (!entry_.pruning.keep.everything() && layout.image_tokens() > 0);
}

std::vector<int64_t> Engine::counts(const Task& task) const {
  return keep_counts(task.layout, task.keep.value_or(entry_.pruning.keep));
}

int64_t Engine::dropped(const Task& task) const {
  const std::vector<int64_t> kept = counts(task);
  return task.layout.image_tokens() - std::accumulate(kept.begin(), kept.end(), int64_t{0});
}

Engine open_engine(const OpenBundle& bundle, const Entry& entry, const EngineOptions& options, bool with_text) {
  options.check();
  check_provider(entry, options);
  check_precision(entry, options);
  const auto session = [&](const std::string& graph, bool native_op = false) {
    return backend(entry.backend).open_session(bundle.path / graph, options, native_op);
  };
  const Manifest& manifest = bundle.manifest;
  const EntryGraphs& graphs = entry.graphs;
  EngineFacts facts{manifest.model, manifest.limits, with_text ? read_prompter(bundle) : nullptr};
  // The native op is in decoder graphs alone.
  Sessions sessions{session(graphs.vision), graphs.router ? session(*graphs.router) : nullptr,
                    session(graphs.decoder, entry.native_op)};
  return {entry, std::move(facts), std::move(sessions)};
}

}  // namespace ar
