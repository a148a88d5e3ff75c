#include "contract/manifest.hpp"

#include <charconv>
#include <numeric>

#include "contract/error.hpp"
#include "contract/json_reader.hpp"

namespace ar {
namespace {

struct Checked {};  // a record that is checked, and not kept: nobody here needs it

std::string read_precision(const JsonView& view) { return read_one_of(view, {"fp32", "fp16", "bf16"}); }

std::string read_policy(const JsonView& view) { return read_one_of(view, {"static", "dynamic"}); }

// Reads 1 to `digits` digits, the first no zero, from `at` on and moves behind them; else 0.
int64_t read_digits(const std::string& text, std::size_t& at, std::size_t digits) {
  const std::size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
  int64_t number = 0;
  if (end == at || end - at > digits || text[at] == '0') return 0;
  std::from_chars(text.data() + at, text.data() + end, number);
  at = end;
  return number;
}

Keep read_keep(const JsonView& view) {
  const std::string text = read_text(view);
  std::size_t at = 0;
  Keep keep{read_digits(text, at, 9), 1};
  if (keep.numerator > 0 && at < text.size() && text[at] == '/') keep.denominator = read_digits(text, ++at, 10);
  if (keep.numerator == 0 || keep.denominator == 0 || at < text.size())
    view.refuse("Expected a share as '1/4', a count as '144', or '1', got " + quoted(text, 80));
  const int64_t divisor = std::gcd(keep.numerator, keep.denominator);
  return {keep.numerator / divisor, keep.denominator / divisor};
}

int64_t read_schema(const JsonView& view) {
  const int64_t schema = read_count(view);
  if (schema != kSchema) view.refuse("Invalid schema " + std::to_string(schema));
  return schema;
}

constexpr auto read_machine = record<Machine>([](JsonFields& fields, Machine& machine) {
  fields.need("cpu", machine.cpu, read_text);
  fields.need("cores", machine.cores, read_positive);
  fields.need("threads", machine.threads, read_positive);
  fields.need("backend", machine.backend, read_text);
  fields.may("gpu", machine.gpu, read_text);
  fields.may("driver", machine.driver, read_text);
});

constexpr auto read_model = record<Model>([](JsonFields& fields, Model& model) {
  fields.check({"name"}, read_text);
  fields.check({"digest"}, read_sha256);
  fields.need("router", model.router, nullable(read_sha256));
  fields.need("images", model.images, images::read_image_plan);
  fields.need("image_token_id", model.image_token_id, read_count);
  fields.need("layers", model.layers, read_positive);
  fields.need("vocabulary", model.vocabulary, read_positive);
  fields.need("max_positions", model.max_positions, read_positive);
  fields.check({"hidden"}, read_positive);
  fields.need("stop_ids", model.stop_ids, list(read_count));
});

constexpr auto read_role = record<RoleLiterals>([](JsonFields& fields, RoleLiterals& role) {
  fields.need("empty", role.empty, nullable(read_text));
  fields.need("before_text", role.before_text, read_text);
  fields.need("before_image", role.before_image, read_text);
  fields.need("text_text", role.text_text, read_text);
  fields.need("text_image", role.text_image, read_text);
  fields.need("image_text", role.image_text, read_text);
  fields.need("image_image", role.image_image, read_text);
  fields.need("after_text", role.after_text, read_text);
  fields.need("after_image", role.after_image, read_text);
});

constexpr auto read_literals = record<ChatLiterals>([](JsonFields& fields, ChatLiterals& literals) {
  fields.need("begin", literals.begin, read_text);
  fields.need("begin_without_system", literals.begin_without_system, read_text);
  fields.need("generation", literals.generation, read_text);
  fields.need("images_first", literals.images_first, read_bool);
  fields.need("trims", literals.trims, read_bool);
  fields.need("roles", literals.roles, table(read_role));
});

constexpr auto read_chat = record<ChatTemplate>([](JsonFields& fields, ChatTemplate& chat) {
  std::map<std::string, std::string> special_tokens;
  fields.check({"template"}, read_text);
  fields.need("special_tokens", special_tokens, table(read_text));
  fields.need("image_token", chat.image_token, read_text);
  fields.may("literals", chat.literals, nullable(read_literals));
  chat.begin_token = special_tokens["bos_token"];
});

constexpr auto read_limits = record<Limits>([](JsonFields& fields, Limits& limits) {
  fields.need("images", limits.images, read_count);
  fields.need("image_tokens", limits.image_tokens, read_count);
  fields.need("text_tokens", limits.text_tokens, read_positive);
  fields.need("new_tokens", limits.new_tokens, read_positive);
  fields.need("batch", limits.batch, read_positive);
});

constexpr auto read_bytes = record<int64_t>([](JsonFields& fields, int64_t& bytes) {
  fields.check({"sha256"}, read_sha256);
  fields.need("bytes", bytes, read_count);
});

constexpr auto read_mean = record<double>([](JsonFields& fields, double& mean) {
  fields.need("mean", mean, read_real);
  fields.check({"low", "high"}, read_real);
});

constexpr auto check_figures = record<Checked>([](JsonFields& fields, Checked&) {
  fields.check({"questions"}, read_positive);
  fields.check({"accuracy", "retention"}, nullable(read_mean));
  fields.check({"agreement", "kl"}, read_mean);
});

constexpr auto read_fidelity = record<Fidelity>([](JsonFields& fields, Fidelity& fidelity) {
  fields.need("kl", fidelity.kl, read_mean);
  fields.check({"retention"}, nullable(read_mean));
  fields.check({"agreement"}, read_mean);
  fields.check({"questions"}, read_positive);
  fields.check({"dataset"}, read_text);
  fields.check({"quick"}, read_bool);
  fields.may_check("accuracy", nullable(read_mean));
  fields.may_check("kinds", table(check_figures));
});

constexpr auto check_workload = record<Checked>([](JsonFields& fields, Checked&) {
  fields.check({"text_tokens", "new_tokens", "batch", "threads", "image_size"}, read_positive);
});

constexpr auto read_percentiles = record<Percentiles>([](JsonFields& fields, Percentiles& percentiles) {
  fields.need("p50", percentiles.p50, read_real);
  fields.need("p95", percentiles.p95, read_real);
  fields.need("p99", percentiles.p99, read_real);
});

constexpr auto read_latency = record<Latency>([](JsonFields& fields, Latency& latency) {
  fields.need("ttft_ms", latency.ttft_ms, read_percentiles);
  fields.need("tpot_ms", latency.tpot_ms, read_percentiles);
  fields.need("machine", latency.machine, read_machine);
  fields.check({"workload"}, check_workload);
});

constexpr auto read_graphs = record<EntryGraphs>([](JsonFields& fields, EntryGraphs& graphs) {
  fields.need("vision", graphs.vision, read_text);
  fields.need("router", graphs.router, nullable(read_text));
  fields.need("decoder", graphs.decoder, read_text);
});

constexpr auto read_pruning = record<Pruning>([](JsonFields& fields, Pruning& pruning) {
  fields.need("version", pruning.version, read_text);
  fields.need("keep", pruning.keep, read_keep);
  fields.need("layers", pruning.layers, read_positive);
  fields.need("prune_layer", pruning.prune_layer, read_count);
  fields.need("layer_policy", pruning.layer_policy, read_policy);
  fields.need("kept_layers", pruning.kept_layers, nullable(list(read_count)));
});

constexpr auto read_entry = record<Entry>([](JsonFields& fields, Entry& entry) {
  fields.need("pruning", entry.pruning, read_pruning);
  fields.need("backend", entry.backend, read_text);
  fields.need("precision", entry.precision, read_precision);
  fields.need("graphs", entry.graphs, read_graphs);
  fields.need("fidelity", entry.fidelity, nullable(read_fidelity));
  fields.need("latency", entry.latency, nullable(read_latency));
  fields.may("native_op", entry.native_op, read_bool);
});

constexpr auto check_recommendation = record<Checked>([](JsonFields& fields, Checked&) {
  fields.check({"version", "why"}, read_text);
  fields.check({"layer_policy"}, read_policy);
});

constexpr auto read_manifest = record<Manifest>([](JsonFields& fields, Manifest& manifest) {
  fields.check({"schema"}, read_schema);
  fields.need("producer", manifest.producer, read_text);
  fields.need("model", manifest.model, read_model);
  fields.need("chat", manifest.chat, read_chat);
  fields.need("limits", manifest.limits, read_limits);
  fields.need("files", manifest.files, table(read_bytes));
  fields.need("entries", manifest.entries, list(read_entry));
  fields.may_check("recommendations", list(check_recommendation));
  for (std::size_t index = 0; index < manifest.entries.size(); ++index) manifest.entries[index].index = index;
});

}  // namespace

bool Machine::operator==(const Machine& other) const {
  return std::tie(cpu, cores, threads, backend, gpu, driver) ==
         std::tie(other.cpu, other.cores, other.threads, other.backend, other.gpu, other.driver);
}

std::string Entry::label() const {
  return pruning.version + " (" + backend + ", " + precision + ", " + pruning.layer_policy +
         ", K=" + std::to_string(pruning.prune_layer) + ")";
}

void check_schema(std::string_view json, const std::string& where) {
  const std::optional<JsonInteger> schema = schema_number(json);
  if (!schema || (schema->fits && schema->magnitude == uint64_t{kSchema})) return;
  const std::string got = "schema " + (schema->fits ? std::to_string(schema->magnitude) : "beyond 2^64");
  const std::string wanted = "schema " + std::to_string(kSchema);
  if (schema->fits && schema->magnitude < uint64_t{kSchema}) {
    throw Error(AR_BUNDLE_CORRUPT, "the bundle is of an older allrounder, which this one does not read",
                {where, got, wanted,
                 "build it again into an empty directory: python build_engine.py --version par-lite --out DIRECTORY"});
  }
  throw Error(AR_BUNDLE_FROM_FUTURE, "the manifest is from the future",
              {where, got, wanted, "update allrounder, or build the bundle again with this one"});
}

Manifest decode_manifest(std::string_view json, const std::string& where) {
  check_schema(json, where);
  const Json root = parse_json(json, where);
  return read_manifest(JsonView(root, where));
}

}  // namespace ar
