// Records written as JSON: the keys of allrounder/manifest.py, in its order, as msgspec writes them.
#include "contract/json.hpp"
#include "contract/manifest.hpp"

namespace ar {
namespace {

// Puts one object together, key by key.
class Object {
 public:
  Object& add(const char* key, const std::string& json) {
    text_.append(text_.size() > 1 ? ",\"" : "\"").append(key).append("\":").append(json);
    return *this;
  }
  Object& text(const char* key, const std::string& value) { return add(key, json_string(value)); }
  Object& whole(const char* key, int64_t value) { return add(key, std::to_string(value)); }
  Object& real(const char* key, double value) { return add(key, json_number(value)); }
  Object& flag(const char* key, bool value) { return add(key, value ? "true" : "false"); }
  template <class Value, class Encode>
  Object& nullable(const char* key, const std::optional<Value>& value, Encode encode) {
    return add(key, value ? encode(*value) : "null");
  }
  std::string close() const { return text_ + "}"; }

 private:
  std::string text_ = "{";
};

std::string encode_estimate(const Estimate& estimate) {
  return Object().real("mean", estimate.mean).real("low", estimate.low).real("high", estimate.high).close();
}

std::string encode_figures(const Figures& figures) {
  return Object()
      .whole("questions", figures.questions)
      .nullable("accuracy", figures.accuracy, encode_estimate)
      .nullable("retention", figures.retention, encode_estimate)
      .add("agreement", encode_estimate(figures.agreement))
      .add("kl", encode_estimate(figures.kl))
      .close();
}

std::string encode_kinds(const std::map<std::string, Figures>& kinds) {
  std::string text = "{";
  for (const auto& [name, figures] : kinds)
    text.append(text.size() > 1 ? "," : "").append(json_string(name)).append(":").append(encode_figures(figures));
  return text + "}";
}

std::string encode_fidelity(const Fidelity& fidelity) {
  return Object()
      .nullable("retention", fidelity.retention, encode_estimate)
      .add("agreement", encode_estimate(fidelity.agreement))
      .add("kl", encode_estimate(fidelity.kl))
      .whole("questions", fidelity.questions)
      .text("dataset", fidelity.dataset)
      .flag("quick", fidelity.quick)
      .nullable("accuracy", fidelity.accuracy, encode_estimate)
      .add("kinds", encode_kinds(fidelity.kinds))
      .close();
}

std::string encode_percentiles(const Percentiles& percentiles) {
  return Object().real("p50", percentiles.p50).real("p95", percentiles.p95).real("p99", percentiles.p99).close();
}

std::string encode_workload(const Workload& workload) {
  return Object()
      .whole("text_tokens", workload.text_tokens)
      .whole("new_tokens", workload.new_tokens)
      .whole("batch", workload.batch)
      .whole("threads", workload.threads)
      .whole("image_size", workload.image_size)
      .close();
}

std::string encode_graphs(const EntryGraphs& graphs) {
  return Object()
      .text("preprocess", graphs.preprocess)
      .text("vision", graphs.vision)
      .nullable("router", graphs.router, json_string)
      .text("prefill", graphs.prefill)
      .text("decode", graphs.decode)
      .close();
}

std::string encode_layers(const std::vector<int64_t>& layers) {
  std::string text = "[";
  for (const int64_t layer : layers) text.append(text.size() > 1 ? "," : "").append(std::to_string(layer));
  return text + "]";
}

std::string encode_pruning(const Pruning& pruning) {
  return Object()
      .text("version", pruning.version)
      .whole("keep", pruning.keep)
      .whole("layers", pruning.layers)
      .whole("prune_layer", pruning.prune_layer)
      .text("layer_policy", pruning.layer_policy)
      .nullable("kept_layers", pruning.kept_layers, encode_layers)
      .close();
}

std::string encode_latency(const Latency& latency) {
  return Object()
      .add("ttft_ms", encode_percentiles(latency.ttft_ms))
      .add("tpot_ms", encode_percentiles(latency.tpot_ms))
      .add("machine", encode_machine(latency.machine))
      .add("workload", encode_workload(latency.workload))
      .close();
}

}  // namespace

std::string encode_machine(const Machine& machine) {
  return Object()
      .text("cpu", machine.cpu)
      .whole("cores", machine.cores)
      .whole("threads", machine.threads)
      .text("backend", machine.backend)
      .text("gpu", machine.gpu)
      .text("driver", machine.driver)
      .close();
}

std::string encode_entry(const Entry& entry) {
  return Object()
      .add("pruning", encode_pruning(entry.pruning))
      .text("backend", entry.backend)
      .text("precision", entry.precision)
      .add("graphs", encode_graphs(entry.graphs))
      .nullable("fidelity", entry.fidelity, encode_fidelity)
      .nullable("latency", entry.latency, encode_latency)
      .flag("native_op", entry.native_op)
      .close();
}

}  // namespace ar
