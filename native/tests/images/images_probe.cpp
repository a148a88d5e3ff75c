// Answers questions about images, for tests/native/test_image_parity.py: an object a line, a JSON value back.
//
// {"plan": JSON text}               -> null; the plan of what follows
// {"sizes": [[height, width], ...]} -> {"contents": ..., "tiles": ..., "rows": ..., "weights": ...} of one prompt
// {"cut": hex, "size": [height, width], "alone": flag} -> the tiles, hex
// {"resize": hex, "size": ..., "to": [height, width]}  -> the resized image, hex
// What fails gives {"error": name, "message": text}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "contract/error.hpp"
#include "images/pixels.hpp"
#include "images/sources.hpp"

namespace {

using nlohmann::json;
using namespace ar::images;

Extent extent(const json& pair) { return {pair.at(0), pair.at(1)}; }

std::vector<uint8_t> bytes_of(const std::string& hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::vector<uint8_t> bytes;
  for (std::size_t at = 0; at < hex.size(); at += 2)
    bytes.push_back(static_cast<uint8_t>(digit(hex[at]) * 16 + digit(hex[at + 1])));
  return bytes;
}

std::string hex_of(const std::vector<uint8_t>& bytes) {
  std::string hex;
  for (const uint8_t byte : bytes) hex += {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
  return hex;
}

class Probe {
 public:
  json answer(const json& asked) {
    if (asked.contains("plan")) return load(asked.at("plan"));
    if (asked.contains("sizes")) return planned(asked.at("sizes"));
    const Extent size = extent(asked.at("size"));
    if (asked.contains("resize")) {
      const std::vector<uint8_t> bytes = bytes_of(asked.at("resize"));
      return hex_of(resized({size, bytes.data()}, extent(asked.at("to")), plan_.filter).bytes);
    }
    const std::vector<uint8_t> bytes = bytes_of(asked.at("cut"));
    const std::vector<Extent> sizes(asked.at("alone") ? 1 : 2, size);
    return hex_of(cut_tiles(plan_, plan_images(plan_, sizes).front(), {size, bytes.data()}));
  }

 private:
  json load(const std::string& text) {
    const std::string where = "stdin";
    const ar::Json read = ar::parse_json(text, where);
    plan_ = read_image_plan(ar::JsonView(read, where));
    check_image_plan(plan_, where);
    return nullptr;
  }

  json planned(const json& pairs) const {
    std::vector<Extent> sizes;
    for (const json& pair : pairs) sizes.push_back(extent(pair));
    const std::vector<PlannedImage> images = plan_images(plan_, sizes);
    const TokenSources sources = token_sources(plan_, images);
    json answer{{"contents", json::array()}, {"tiles", json::array()}};
    for (const PlannedImage& image : images) {
      json content = json::array();
      for (const auto& part : image.content)
        std::visit([&content](const auto& known) { content.push_back(known); }, part);
      answer["contents"].push_back(content);
      answer["tiles"].push_back(image.tiles());
    }
    answer["rows"] = sources.rows;
    answer["weights"] = sources.weights;
    return answer;
  }

  ImagePlan plan_;
};

}  // namespace

int main() {
  Probe probe;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << probe.answer(json::parse(line)) << std::endl;
    } catch (const ar::Error& error) {
      std::cout << json{{"error", ar::error_name(error.status())}, {"message", error.what()}} << std::endl;
    }
  }
}
