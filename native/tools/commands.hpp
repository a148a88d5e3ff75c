// The commands of allrounder-native, and what they share: images, and answers as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "allrounder/allrounder.hpp"

namespace tool {

using Json = nlohmann::ordered_json;
using Line = std::vector<std::string>;  // what follows a command's name

void run(const Line& line);      // one question about one image
void ask(const Line& line);      // many, as JSON lines
void inspect(const Line& line);  // what a bundle holds

struct Image {
  std::vector<std::uint8_t> rgb;
  std::int64_t width = 0, height = 0;
};

// Returns an image as a request takes it: it points to these pixels.
inline allrounder::Image view(const Image& image) { return {image.rgb.data(), image.width, image.height, 0}; }

// Reads a binary PPM (P6). Throws std::runtime_error: no such file, another format, too few bytes.
Image read_ppm(const std::string& path);
// Reads raw RGB bytes; `size` is "640x480". Throws the same.
Image read_raw(const std::string& path, const std::string& size);

// Returns an answer; keys as in Python: text, token_ids, prompt_ids, keep_indices, kept_layers, usage, finish,
// timing.
Json report(const allrounder::Answer& answer);
// Returns one line; what is not UTF-8 in it is replaced.
std::string line(const Json& json);

}  // namespace tool
