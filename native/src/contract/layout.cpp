#include "contract/layout.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr int64_t kShares = 1'000'000'000;  // a share has nine digits; a count is below it

// Returns a share in (0, 1] in billionths: those of its exact value, rounded as Python's "%.9f" does.
int64_t billionths(double share) {
  std::array<char, 16> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), share, std::chars_format::fixed, 9).ptr;
  std::remove(text.data(), end, '.');
  int64_t value = 0;
  std::from_chars(text.data(), end - 1, value);
  return value;
}

std::string shown(double value) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

void check_placeholders(const std::vector<int64_t>& ids, int64_t image_token_id, std::size_t images) {
  const auto places = static_cast<std::size_t>(std::count(ids.begin(), ids.end(), image_token_id));
  if (places != images) {
    throw Error(AR_INPUT_INVALID, "images and their placeholders in the prompt do not match",
                {"messages", std::to_string(images) + " images, " + std::to_string(places) + " placeholders",
                 "one placeholder per image", "write the image token once for each image"});
  }
  if (ids.empty() || ids.back() == image_token_id) {
    throw Error(AR_INPUT_INVALID, "a prompt ends with text, from which the answer goes on",
                {"messages", ids.empty() ? "nothing" : "an image at its end", "", "write where the answer begins"});
  }
}

}  // namespace

int64_t Keep::of(int64_t tokens) const {
  if (denominator == 1 && numerator > 1) return std::min(numerator, tokens);
  // Of N = q d + r tokens n / d are n q + n r / d: n is below 2^30 and d below 2^34.
  const auto part = static_cast<uint64_t>(numerator) * static_cast<uint64_t>(tokens % denominator);
  const auto whole = static_cast<uint64_t>(denominator);
  const auto rounded = part / whole + (part % whole >= whole - part % whole ? 1 : 0);
  const int64_t share = numerator * (tokens / denominator) + static_cast<int64_t>(rounded);
  return std::min(tokens, std::max<int64_t>(share, 1));
}

std::vector<int64_t> PromptLayout::text_ids() const {
  std::vector<int64_t> ids;
  auto image = image_index.begin();
  for (int64_t row = 0; row < rows(); ++row) {
    if (image != image_index.end() && *image == row) {
      ++image;
    } else {
      ids.push_back(input_ids[static_cast<std::size_t>(row)]);
    }
  }
  return ids;
}

PromptLayout sequential_layout(const std::vector<int64_t>& ids, int64_t image_token_id,
                               const std::vector<std::vector<int64_t>>& images) {
  check_placeholders(ids, image_token_id, images.size());
  PromptLayout layout;
  for (const int64_t id : ids) {
    if (id != image_token_id) {
      layout.input_ids.push_back(id);
      continue;
    }
    const auto image = static_cast<int64_t>(layout.tokens_by_image.size());
    const std::vector<int64_t>& block = images[layout.tokens_by_image.size()];
    for (const int64_t inner : block) {
      if (inner == image_token_id) {
        layout.image_index.push_back(layout.rows());
        layout.image_of.push_back(image);
      }
      layout.input_ids.push_back(inner);
    }
    layout.tokens_by_image.push_back(std::count(block.begin(), block.end(), image_token_id));
  }
  layout.next_position = layout.rows();
  layout.position_ids.emplace_back(layout.input_ids.size());
  std::iota(layout.position_ids[0].begin(), layout.position_ids[0].end(), 0);
  return layout;
}

std::vector<int64_t> keep_counts(const PromptLayout& layout, const Keep& keep) {
  std::vector<int64_t> counts;
  for (const int64_t tokens : layout.tokens_by_image) counts.push_back(keep.of(tokens));
  return counts;
}

Keep requested_keep(double value) {
  const bool share = value > 0 && value <= 1;
  const bool count = value > 1 && value < static_cast<double>(kShares) && value == std::floor(value);
  const int64_t numerator = share ? billionths(value) : count ? static_cast<int64_t>(value) : 0;
  if (numerator == 0) {
    throw Error(AR_INVALID_BUDGET, "impossible keep rule",
                {"keep", shown(value),
                 "a share between 0 and 1 (0.25), a count of image tokens from 2 on (144), or 1 for all of them", ""});
  }
  if (count) return {numerator, 1};
  const int64_t divisor = std::gcd(numerator, kShares);
  return {numerator / divisor, kShares / divisor};
}

}  // namespace ar
