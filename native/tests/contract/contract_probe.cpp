// Answers questions about the contract: JSON lines in, JSON lines out, so that Python can compare both languages.
//
//   {"op": "choose", "entries": [...], "target": {...} or null, "machine": {...} or null, "fastest": false}
//   {"op": "order", "entries": [...]}
//   {"op": "table", "entries": [...], "target": {...}, "machine": {...} or null}
//   {"op": "decode", "hex": "7b7d"}             a manifest's bytes: decode_manifest and check_manifest
//   {"op": "open", "path": "..."}               open_bundle: its path, and its manifest's digest
//   {"op": "layout", "ids": [...], "image_token_id": 9, "images": [[...]]}   sequential_layout
//   {"op": "keep", "rule": "1/4", "tokens": 576}   T of a manifest's keep rule
//   {"op": "requested", "keep": 0.4}               requested_keep, as a manifest writes it
//   {"op": "machine", "backend": "...", "threads": 0}
//   {"op": "plan", "name": "...", "version": "10.16.1.11", "sm": 90}   parse_tensorrt_version and check_plan_target
//
// An answer is {"ok": ...} or {"error": "BundleCorrupt", "message": "..."}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "contract/bundle.hpp"
#include "contract/choice.hpp"
#include "contract/error.hpp"
#include "contract/fingerprint.hpp"
#include "contract/layout.hpp"
#include "contract/manifest.hpp"
#include "engines/tensorrt/plans.hpp"
#include "contract/sha256.hpp"

namespace {

using nlohmann::json;

std::string bytes_of(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::optional<double> figure(const json& target, const char* name) {
  return target.contains(name) && !target[name].is_null() ? std::optional<double>(target[name].get<double>())
                                                          : std::nullopt;
}

std::optional<ar::LatencyTarget> target_of(const json& question) {
  const json& target = question.at("target");
  if (target.is_null()) return std::nullopt;
  return ar::LatencyTarget{figure(target, "ttft_ms"), figure(target, "tpot_ms"), target.value("percentile", 95)};
}

std::optional<ar::Machine> machine_of(const json& question) {
  const json& machine = question.at("machine");
  if (machine.is_null()) return std::nullopt;
  return ar::Machine{machine.at("cpu"),     machine.at("cores"), machine.at("threads"),
                     machine.at("backend"), machine.at("gpu"),   machine.at("driver")};
}

std::vector<ar::Entry> entries_of(const json& question) {
  const std::string digest(64, '0');
  json model = {{"name", ""}, {"digest", digest}, {"router", nullptr}, {"stop_ids", json::array()}};
  for (const char* size : {"image_token_id", "layers", "hidden", "vocabulary", "max_positions"}) model[size] = 1;
  const json three = {0.5, 0.5, 0.5};
  model["images"] = {{"size", 1},    {"tokens", 1}, {"filter", "bicubic"},
                     {"scale", 1.0}, {"mean", three}, {"std", three},
                     {"layout", {{"kind", "fixed"}}}};
  const json chat = {{"template", ""}, {"special_tokens", json::object()}, {"image_token", ""}};
  json limits;
  for (const char* most : {"images", "image_tokens", "text_tokens", "new_tokens", "batch"}) limits[most] = 1;
  const json manifest = {{"schema", ar::kSchema}, {"producer", ""},   {"model", model},
                         {"chat", chat},          {"limits", limits}, {"files", json::object()},
                         {"entries", question.at("entries")}};
  return ar::decode_manifest(manifest.dump(), "entries").entries;
}

json choose(const json& question) {
  const std::optional<ar::Machine> machine = machine_of(question);
  return ar::choose(entries_of(question), target_of(question), machine ? &*machine : nullptr,
                    question.value("fastest", false));
}

json table(const json& question) {
  const std::optional<ar::Machine> machine = machine_of(question);
  return ar::latency_table(entries_of(question), target_of(question).value(), machine ? &*machine : nullptr);
}

json decode(const json& question) {
  const ar::Manifest manifest = ar::decode_manifest(bytes_of(question.at("hex")), "probe");
  ar::check_manifest(manifest, "probe");
  return manifest.entries.size();
}

json open(const json& question) {
  const ar::OpenBundle opened = ar::open_bundle(question.at("path").get<std::string>());
  return {{"digest", ar::sha256_hex(opened.json)}, {"path", opened.path.string()}};
}

json layout(const json& question) {
  const ar::PromptLayout made = ar::sequential_layout(question.at("ids"), question.at("image_token_id"),
                                                      question.at("images").get<std::vector<std::vector<int64_t>>>());
  return {{"input_ids", made.input_ids},       {"image_index", made.image_index},     {"image_of", made.image_of},
          {"position_ids", made.position_ids}, {"next_position", made.next_position}, {"text_ids", made.text_ids()},
          {"tokens_by_image", made.tokens_by_image}};
}

// The manifest's own reader reads the rule.
json keep(const json& question) {
  const json pruning = {{"version", ""},     {"keep", question.at("rule")}, {"layers", 1},
                        {"prune_layer", 0}, {"layer_policy", "dynamic"},   {"kept_layers", nullptr}};
  const json graphs = {{"vision", ""}, {"router", nullptr}, {"decoder", ""}};
  const json entry = {{"pruning", pruning}, {"backend", ""},       {"precision", "fp32"},
                      {"graphs", graphs},   {"fidelity", nullptr}, {"latency", nullptr}};
  return entries_of({{"entries", json::array({entry})}}).at(0).pruning.keep.of(question.at("tokens"));
}

json requested(const json& question) {
  const ar::Keep asked = ar::requested_keep(question.at("keep").get<double>());
  return std::to_string(asked.numerator) + (asked.denominator > 1 ? "/" + std::to_string(asked.denominator) : "");
}

json machine(const json& question) {
  const ar::Machine here = ar::machine(question.at("backend"), question.value("threads", 0));
  return {{"cpu", here.cpu},         {"cores", here.cores}, {"threads", here.threads},
          {"backend", here.backend}, {"gpu", here.gpu},     {"driver", here.driver}};
}

json plan(const json& question) {
  const ar::PlanTarget target = ar::check_plan_target(
      question.at("name"), ar::parse_tensorrt_version(question.at("version")), question.at("sm").get<int64_t>());
  return {target.version, target.sm, target.newer, target.ampere ? "ampere" : "same", target.plugin};
}

json answer(const json& question) {
  const std::string op = question.at("op");
  if (op == "choose") return choose(question);
  if (op == "order") return ar::by_faithfulness(entries_of(question));
  if (op == "table") return table(question);
  if (op == "decode") return decode(question);
  if (op == "open") return open(question);
  if (op == "layout") return layout(question);
  if (op == "keep") return keep(question);
  if (op == "requested") return requested(question);
  if (op == "machine") return machine(question);
  if (op == "plan") return plan(question);
  throw std::runtime_error("there is no question " + op);
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    json said;
    try {
      said["ok"] = answer(json::parse(line));
    } catch (const ar::Error& error) {
      said = {{"error", ar::error_name(error.status())}, {"message", error.what()}};
    } catch (const std::exception& error) {
      said = {{"error", "std::exception"}, {"message", error.what()}};
    }
    std::cout << said.dump(-1, ' ', true, json::error_handler_t::replace) << std::endl;
  }
}
