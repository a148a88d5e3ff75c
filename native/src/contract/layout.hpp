// The prompt layout: what a prompt is once its images are there; allrounder/layout.py.
#pragma once

#include <cstdint>
#include <vector>

#include "contract/manifest.hpp"

namespace ar {

// A prompt of R rows, N of which are image tokens of I images.
struct PromptLayout {
  std::vector<int64_t> input_ids;                  // [R], the placeholder's id where image tokens stand
  std::vector<int64_t> image_index;                // [N], ascending: the rows of the image tokens
  std::vector<int64_t> image_of;                   // [N]: whose they are, in the order of the images
  std::vector<std::vector<int64_t>> position_ids;  // [A][R]: A = 1, or 3 for M-RoPE
  std::vector<int64_t> tokens_by_image;            // [I]: N_i
  int64_t next_position = 0;                       // of the first new token

  int64_t rows() const { return static_cast<int64_t>(input_ids.size()); }
  int64_t image_tokens() const { return static_cast<int64_t>(image_index.size()); }
  int64_t text_tokens() const { return rows() - image_tokens(); }
  std::vector<int64_t> text_ids() const;  // those that are no placeholders, in order
};

// Returns the layout of a prompt whose positions count 0, 1, 2, ... `ids` has one placeholder per image, and `images`
// what stands in the place of each: ids, the placeholder's for each image token. Throws AR_INPUT_INVALID: another number
// of images than placeholders, or no text behind the last image.
PromptLayout sequential_layout(const std::vector<int64_t>& ids, int64_t image_token_id,
                               const std::vector<std::vector<int64_t>>& images);

// Returns T_i, how many tokens of each image are kept.
std::vector<int64_t> keep_counts(const PromptLayout& layout, const Keep& keep);

// Returns what a request asks for: a share in (0, 1], rounded to nine digits, a count from 2 on, or 1 for everything.
// Throws AR_INVALID_BUDGET.
Keep requested_keep(double value);

}  // namespace ar
