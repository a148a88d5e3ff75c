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

#include "contract/image_plan.hpp"

namespace ar {

inline constexpr int64_t kSchema = 3;  // the only one; a newer one is from the future
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
  images::ImagePlan images;
  int64_t image_token_id = 0;         // the placeholder of an image in a prompt
  int64_t layers = 0;                 // M
  int64_t vocabulary = 0;
  int64_t max_positions = 0;      // the longest sequence that the model takes
  std::vector<int64_t> stop_ids;  // any of them ends an answer
};

// What a chat template writes in messages of one role. Of an image it writes the image token between these.
struct RoleLiterals {
  std::optional<std::string> empty;       // for a message without a part; none: the template refuses it
  std::string before_text, before_image;  // where a text or an image is the first part
  std::string text_text, text_image, image_text, image_image;  // between two parts
  std::string after_text, after_image;                         // where one is the last part
};

// A chat template that is literal strings alone.
struct ChatLiterals {
  std::string begin;                 // before a first message of the role system
  std::string begin_without_system;  // before another one
  std::string generation;            // where the answer begins
  bool images_first = false;         // all images of a message before its texts
  bool trims = false;                // texts without the white space at their ends
  std::map<std::string, RoleLiterals> roles;
};

struct ChatTemplate {
  std::string begin_token;  // the model's own, or empty
  std::string image_token;  // what the template writes where an image stands
  std::optional<ChatLiterals> literals;  // none: the template is a program, which this runtime does not run
};

struct Limits {
  int64_t images = 0;        // of one request
  int64_t image_tokens = 0;  // of all images of one request
  int64_t text_tokens = 0;   // of one prompt, the template's included
  int64_t new_tokens = 0;
  int64_t batch = 0;  // requests that are decoded together
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
  std::string vision;
  std::optional<std::string> router;
  std::string decoder;
};

// Which image tokens of an image are kept: a share, or a count; the rule of allrounder/versions.py.
struct Keep {
  int64_t numerator = 1, denominator = 1;  // in lowest terms; a count from 2 on has denominator 1

  bool everything() const { return numerator == denominator; }
  // Returns T of an image of N tokens: a share rounded half up, at least 1; a count, at most N.
  int64_t of(int64_t tokens) const;
};

struct Pruning {
  std::string version;
  Keep keep;
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
  ChatTemplate chat;
  Limits limits;
  std::map<std::string, int64_t> files;  // their bytes, by path
  std::vector<Entry> entries;
};

// Reads the schema number alone. Throws AR_BUNDLE_FROM_FUTURE where it is newer than this program, AR_BUNDLE_CORRUPT
// where it is older.
void check_schema(std::string_view json, const std::string& where);

// Reads a manifest; its schema number before anything else. Refuses exactly what msgspec refuses in Python: unknown or
// missing keys, wrong types, numbers out of range, NaN and infinities, invalid UTF-8, nesting beyond any record.
// Throws AR_BUNDLE_FROM_FUTURE or AR_BUNDLE_CORRUPT with the path of the offence ($.entries[0].backend).
Manifest decode_manifest(std::string_view json, const std::string& where);

// Checks what a manifest must be to make sense as a whole, by the rules of allrounder/consistency.py. Throws
// AR_BUNDLE_CORRUPT: no entry, an entry twice, an impossible pruning, or a graph that is not listed.
void check_manifest(const Manifest& manifest, const std::string& where);

}  // namespace ar
