// Answers as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "allrounder/allrounder.hpp"

namespace tool {

// Keys as in Python: text, token_ids, prompt_ids, keep_indices, kept_layers, finish, timing.
nlohmann::ordered_json report(const allrounder::Answer& answer);

// One line; what is not UTF-8 in it is replaced.
std::string line(const nlohmann::ordered_json& json);

}  // namespace tool
