#include "contract/manifest.hpp"

#include "contract/error.hpp"
#include "contract/json_reader.hpp"

namespace ar {
namespace {

struct Checked {};  // a record that is checked, and not kept: nobody here needs it

std::string read_precision(const JsonView& view) { return read_one_of(view, {"fp32", "fp16", "bf16"}); }

std::string read_policy(const JsonView& view) { return read_one_of(view, {"static", "dynamic"}); }

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
  fields.need("image_tokens", model.image_tokens, read_positive);
  fields.need("layers", model.layers, read_positive);
  fields.need("vocabulary", model.vocabulary, read_positive);
  fields.check({"hidden", "image_size"}, read_positive);
  fields.need("stop_ids", model.stop_ids, list(read_count));
});

constexpr auto read_prompt = record<PromptTemplate>([](JsonFields& fields, PromptTemplate& prompt) {
  fields.need("before_image", prompt.before_image, read_text);
  fields.need("after_image", prompt.after_image, read_text);
  fields.need("after_question", prompt.after_question, read_text);
  fields.may("prefix_special", prompt.prefix_special, read_bool);
});

constexpr auto read_limits = record<Limits>([](JsonFields& fields, Limits& limits) {
  fields.need("text_tokens", limits.text_tokens, read_positive);
  fields.need("new_tokens", limits.new_tokens, read_positive);
  fields.check({"batch"}, read_positive);
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
  fields.need("preprocess", graphs.preprocess, read_text);
  fields.need("vision", graphs.vision, read_text);
  fields.need("router", graphs.router, nullable(read_text));
  fields.need("prefill", graphs.prefill, read_text);
  fields.need("decode", graphs.decode, read_text);
});

constexpr auto read_pruning = record<Pruning>([](JsonFields& fields, Pruning& pruning) {
  fields.need("version", pruning.version, read_text);
  fields.need("keep", pruning.keep, read_positive);
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
  fields.need("prompt", manifest.prompt, read_prompt);
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
  if (!schema || (schema->fits && schema->magnitude <= uint64_t{kSchema})) return;
  const std::string got = schema->fits ? std::to_string(schema->magnitude) : "beyond 2^64";
  throw Error(AR_BUNDLE_FROM_FUTURE, "the manifest is from the future",
              {where, "schema " + got, "schema " + std::to_string(kSchema) + " or older",
               "update allrounder, or build the bundle again with this one"});
}

Manifest decode_manifest(std::string_view json, const std::string& where) {
  check_schema(json, where);
  const Json root = parse_json(json, where);
  return read_manifest(JsonView(root, where));
}

}  // namespace ar
