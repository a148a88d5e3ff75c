#include "contract/manifest.hpp"

#include "contract/error.hpp"
#include "contract/json_reader.hpp"

namespace ar {
namespace {

Machine read_machine(const JsonView& view) {
  JsonFields fields(view);
  Machine machine;
  fields.need("cpu", machine.cpu, read_text);
  fields.need("cores", machine.cores, read_positive);
  fields.need("threads", machine.threads, read_positive);
  fields.need("backend", machine.backend, read_text);
  fields.may("gpu", machine.gpu, read_text);
  fields.may("driver", machine.driver, read_text);
  fields.close();
  return machine;
}

Model read_model(const JsonView& view) {
  JsonFields fields(view);
  Model model;
  fields.need("name", model.name, read_text);
  fields.need("digest", model.digest, read_sha256);
  fields.need("router", model.router, nullable(read_sha256));
  fields.need("image_tokens", model.image_tokens, read_positive);
  fields.need("layers", model.layers, read_positive);
  fields.need("hidden", model.hidden, read_positive);
  fields.need("vocabulary", model.vocabulary, read_positive);
  fields.need("image_size", model.image_size, read_positive);
  fields.need("stop_ids", model.stop_ids, list(read_count));
  fields.close();
  return model;
}

PromptTemplate read_prompt(const JsonView& view) {
  JsonFields fields(view);
  PromptTemplate prompt;
  fields.need("before_image", prompt.before_image, read_text);
  fields.need("after_image", prompt.after_image, read_text);
  fields.need("after_question", prompt.after_question, read_text);
  fields.may("prefix_special", prompt.prefix_special, read_bool);
  fields.close();
  return prompt;
}

Limits read_limits(const JsonView& view) {
  JsonFields fields(view);
  Limits limits;
  fields.need("text_tokens", limits.text_tokens, read_positive);
  fields.need("new_tokens", limits.new_tokens, read_positive);
  fields.need("batch", limits.batch, read_positive);
  fields.close();
  return limits;
}

FileRecord read_file(const JsonView& view) {
  JsonFields fields(view);
  FileRecord file;
  fields.need("sha256", file.sha256, read_sha256);
  fields.need("bytes", file.bytes, read_count);
  fields.close();
  return file;
}

Estimate read_estimate(const JsonView& view) {
  JsonFields fields(view);
  Estimate estimate;
  fields.need("mean", estimate.mean, read_real);
  fields.need("low", estimate.low, read_real);
  fields.need("high", estimate.high, read_real);
  fields.close();
  return estimate;
}

Figures read_figures(const JsonView& view) {
  JsonFields fields(view);
  Figures figures;
  fields.need("questions", figures.questions, read_positive);
  fields.need("accuracy", figures.accuracy, nullable(read_estimate));
  fields.need("retention", figures.retention, nullable(read_estimate));
  fields.need("agreement", figures.agreement, read_estimate);
  fields.need("kl", figures.kl, read_estimate);
  fields.close();
  return figures;
}

Fidelity read_fidelity(const JsonView& view) {
  JsonFields fields(view);
  Fidelity fidelity;
  fields.need("retention", fidelity.retention, nullable(read_estimate));
  fields.need("agreement", fidelity.agreement, read_estimate);
  fields.need("kl", fidelity.kl, read_estimate);
  fields.need("questions", fidelity.questions, read_positive);
  fields.need("dataset", fidelity.dataset, read_text);
  fields.need("quick", fidelity.quick, read_bool);
  fields.may("accuracy", fidelity.accuracy, nullable(read_estimate));
  fields.may("kinds", fidelity.kinds, table(read_figures));
  fields.close();
  return fidelity;
}

Workload read_workload(const JsonView& view) {
  JsonFields fields(view);
  Workload workload;
  fields.need("text_tokens", workload.text_tokens, read_positive);
  fields.need("new_tokens", workload.new_tokens, read_positive);
  fields.need("batch", workload.batch, read_positive);
  fields.need("threads", workload.threads, read_positive);
  fields.need("image_size", workload.image_size, read_positive);
  fields.close();
  return workload;
}

Percentiles read_percentiles(const JsonView& view) {
  JsonFields fields(view);
  Percentiles percentiles;
  fields.need("p50", percentiles.p50, read_real);
  fields.need("p95", percentiles.p95, read_real);
  fields.need("p99", percentiles.p99, read_real);
  fields.close();
  return percentiles;
}

Latency read_latency(const JsonView& view) {
  JsonFields fields(view);
  Latency latency;
  fields.need("ttft_ms", latency.ttft_ms, read_percentiles);
  fields.need("tpot_ms", latency.tpot_ms, read_percentiles);
  fields.need("machine", latency.machine, read_machine);
  fields.need("workload", latency.workload, read_workload);
  fields.close();
  return latency;
}

EntryGraphs read_graphs(const JsonView& view) {
  JsonFields fields(view);
  EntryGraphs graphs;
  fields.need("preprocess", graphs.preprocess, read_text);
  fields.need("vision", graphs.vision, read_text);
  fields.need("router", graphs.router, nullable(read_text));
  fields.need("prefill", graphs.prefill, read_text);
  fields.need("decode", graphs.decode, read_text);
  fields.close();
  return graphs;
}

std::string read_precision(const JsonView& view) { return read_one_of(view, {"fp32", "fp16", "bf16"}); }

std::string read_policy(const JsonView& view) { return read_one_of(view, {"static", "dynamic"}); }

Pruning read_pruning(const JsonView& view) {
  JsonFields fields(view);
  Pruning pruning;
  fields.need("version", pruning.version, read_text);
  fields.need("keep", pruning.keep, read_positive);
  fields.need("layers", pruning.layers, read_positive);
  fields.need("prune_layer", pruning.prune_layer, read_count);
  fields.need("layer_policy", pruning.layer_policy, read_policy);
  fields.need("kept_layers", pruning.kept_layers, nullable(list(read_count)));
  fields.close();
  return pruning;
}

Entry read_entry(const JsonView& view) {
  JsonFields fields(view);
  Entry entry;
  fields.need("pruning", entry.pruning, read_pruning);
  fields.need("backend", entry.backend, read_text);
  fields.need("precision", entry.precision, read_precision);
  fields.need("graphs", entry.graphs, read_graphs);
  fields.need("fidelity", entry.fidelity, nullable(read_fidelity));
  fields.need("latency", entry.latency, nullable(read_latency));
  fields.may("native_op", entry.native_op, read_bool);
  fields.close();
  return entry;
}

Recommendation read_recommendation(const JsonView& view) {
  JsonFields fields(view);
  Recommendation recommendation;
  fields.need("version", recommendation.version, read_text);
  fields.need("layer_policy", recommendation.layer_policy, read_policy);
  fields.need("why", recommendation.why, read_text);
  fields.close();
  return recommendation;
}

int64_t read_schema(const JsonView& view) {
  const int64_t schema = read_count(view);
  if (schema != kSchema) view.refuse("Invalid schema " + std::to_string(schema));
  return schema;
}

Manifest read_manifest(const JsonView& view) {
  JsonFields fields(view);
  Manifest manifest;
  fields.need("schema", manifest.schema, read_schema);
  fields.need("producer", manifest.producer, read_text);
  fields.need("model", manifest.model, read_model);
  fields.need("prompt", manifest.prompt, read_prompt);
  fields.need("limits", manifest.limits, read_limits);
  fields.need("files", manifest.files, table(read_file));
  fields.need("entries", manifest.entries, list(read_entry));
  fields.may("recommendations", manifest.recommendations, list(read_recommendation));
  fields.close();
  return manifest;
}

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
  const std::optional<std::string> digits = schema_number(json);
  const std::string known = std::to_string(kSchema);
  // Numbers of JSON have no leading zeros, so the longer one is the larger one.
  if (!digits || std::make_pair(digits->size(), *digits) <= std::make_pair(known.size(), known)) return;
  throw Error(AR_BUNDLE_FROM_FUTURE, "the manifest is from the future",
              {where, "schema " + *digits, "schema " + known + " or older",
               "update allrounder, or build the bundle again with this one"});
}

Manifest decode_manifest(std::string_view json, const std::string& where) {
  check_schema(json, where);
  const Json root = parse_json(json, where);
  return read_manifest(JsonView(root, where));
}

std::vector<Entry> decode_entries(std::string_view json, const std::string& where) {
  const Json root = parse_json(json, where);
  return list(read_entry)(JsonView(root, where));
}

}  // namespace ar
