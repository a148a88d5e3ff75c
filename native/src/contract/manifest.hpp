// The manifest: what a bundle says about itself.
//
// What it is: of the records of allrounder/manifest.py what C++ needs, and their reading from JSON.
// What it knows: the schema number, which keys exist, and which values make sense alone: fields without a place here
// are checked too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace ar {

inline constexpr int64_t kSchema = 1;  // the only one; a newer one is from the future
inline constexpr const char* kFull = "full";

struct Machine {  // a machine as far as latency depends on it
  std::string cpu;
  int64_t cores = 0;
  int64_t threads = 0;
  std::string backend;  // "onnxruntime 1.31.1"
  std::string gpu;      // empty without one
  std::string driver;
  bool operator==(const Machine& other) const;
};

struct Model {
  std::optional<std::string> router;  // sha256
  int64_t image_tokens = 0;           // N
  int64_t layers = 0;                 // M
  int64_t vocabulary = 0;
  std::vector<int64_t> stop_ids;  // any of them ends an answer
};

struct PromptTemplate {
  std::string before_image;
  std::string after_image;
  std::string after_question;
  bool prefix_special = true;  // the tokenizer's own leading tokens come before `before_image`
};

struct Limits {
  int64_t text_tokens = 0;  // prefix and suffix ids together
  int64_t new_tokens = 0;
};

struct Fidelity {
  double kl = 0;  // the mean
};

struct Percentiles {  // milliseconds
  double p50 = 0, p95 = 0, p99 = 0;
};

struct Latency {
  Percentiles ttft_ms, tpot_ms;
  Machine machine;
};

struct EntryGraphs {  // paths relative to the bundle
  std::string preprocess, vision;
  std::optional<std::string> router;
  std::string prefill, decode;
};

struct Pruning {
  std::string version;
  int64_t keep = 0;                                 // T image tokens
  int64_t layers = 0;                               // L
  int64_t prune_layer = 0;                          // K
  std::string layer_policy;                         // "static" or "dynamic"
  std::optional<std::vector<int64_t>> kept_layers;  // where static

  bool dynamic() const { return layer_policy == "dynamic"; }
};

struct Entry {
  Pruning pruning;
  std::string backend;
  std::string precision;  // "fp32", "fp16" or "bf16"
  EntryGraphs graphs;
  std::optional<Fidelity> fidelity;
  std::optional<Latency> latency;
  bool native_op = false;  // the entry asks for the native gather op where it is there
  std::size_t index = 0;   // in the manifest

  using Key = std::tuple<std::string, std::string, std::string, int64_t, std::string>;
  Key key() const { return {pruning.version, backend, precision, pruning.prune_layer, pruning.layer_policy}; }
  std::string label() const;  // "par-lite (onnxruntime, fp32, dynamic, K=2)"
};

struct Manifest {
  std::string producer;
  Model model;
  PromptTemplate prompt;
  Limits limits;
  std::map<std::string, int64_t> files;  // their bytes, by path
  std::vector<Entry> entries;
};

// Reads the schema number alone. Throws AR_BUNDLE_FROM_FUTURE where it is newer than this program.
void check_schema(std::string_view json, const std::string& where);

// Reads a manifest; its schema number before anything else. Refuses exactly what msgspec refuses in Python: unknown or
// missing keys, wrong types, numbers out of range, NaN and infinities, invalid UTF-8, nesting beyond any record.
// Throws AR_BUNDLE_FROM_FUTURE or AR_BUNDLE_CORRUPT with the path of the offence ($.entries[0].backend).
Manifest decode_manifest(std::string_view json, const std::string& where);

// Checks what a manifest must be to make sense as a whole, by the rules of allrounder/consistency.py. Throws
// AR_BUNDLE_CORRUPT: no entry, an entry twice, an impossible pruning, or a graph that is not listed.
void check_manifest(const Manifest& manifest, const std::string& where);

}  // namespace ar
