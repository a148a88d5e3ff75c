#include "gather/gather.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <numeric>

#include "gather/rule.hpp"

namespace ar::gather {
namespace {

std::string text(const Dims& dims) {
  std::string out = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  return out + "]";
}

std::string sentence(const std::string& what, const std::string& got, const std::string& wanted) {
  return std::string(kName) + ": " + what + "; got: " + got + "; wanted: " + wanted;
}

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

// Images out of range are found here, before anything is counted by image.
std::string check_index(const Shape& shape, const Candidates& candidates) {
  std::int64_t least = 0;
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const std::string where = "[" + std::to_string(token) + "]";
    const std::int64_t row = candidates.image_index[token];
    if (row < least || row >= shape.rows) {
      return sentence("image_index is not ascending below S", "image_index" + where + " = " + std::to_string(row),
                      std::to_string(least) + " to " + std::to_string(shape.rows - 1));
    }
    least = row + 1;
    const std::int64_t image = candidates.image_of[token];
    if (image < 0 || image >= shape.images) {
      return sentence("image_of names no image", "image_of" + where + " = " + std::to_string(image),
                      "0 or more, below I = " + std::to_string(shape.images));
    }
  }
  return "";
}

std::string check_counts(const Shape& shape, const Candidates& candidates, const std::vector<std::int64_t>& tokens_of) {
  for (std::int64_t image = 0; image < shape.images; ++image) {
    const std::int64_t count = candidates.keep_counts[image];
    if (count >= 0 && count <= tokens_of[size(image)]) continue;
    return sentence("keep_counts does not fit the image",
                    "keep_counts[" + std::to_string(image) + "] = " + std::to_string(count),
                    "0 to " + std::to_string(tokens_of[size(image)]) + ", the image's tokens");
  }
  return "";
}

// A score and its index as one integer: the larger is the better, ties going to the lower index.
std::uint64_t rank(float score, std::int64_t index) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return std::uint64_t{score_key(bits)} << 32 | static_cast<std::uint32_t>(~static_cast<std::uint32_t>(index));
}

// Returns the kept tokens, ascending: a partial sort of each image's tokens.
std::vector<std::int64_t> best(const Shape& shape, const Candidates& candidates,
                               const std::vector<std::int64_t>& tokens_of) {
  std::vector<std::size_t> ends(size(shape.images));  // of each image's part of `ranks`
  std::size_t begin = 0;
  for (std::size_t image = 0; image < ends.size(); ++image) {
    ends[image] = begin;
    begin += size(tokens_of[image]);
  }
  std::vector<std::uint64_t> ranks(size(shape.tokens));
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    ranks[ends[size(candidates.image_of[token])]++] = rank(candidates.scores[token], token);
  }
  std::vector<std::int64_t> keep;
  for (std::size_t image = 0; image < ends.size(); ++image) {
    const auto end = ranks.begin() + static_cast<std::ptrdiff_t>(ends[image]);
    const auto first = end - static_cast<std::ptrdiff_t>(tokens_of[image]);
    const auto last = first + static_cast<std::ptrdiff_t>(candidates.keep_counts[image]);
    if (last != end) std::nth_element(first, last, end, std::greater<>());
    std::transform(first, last, std::back_inserter(keep),
                   [](std::uint64_t value) { return static_cast<std::int64_t>(~static_cast<std::uint32_t>(value)); });
  }
  std::sort(keep.begin(), keep.end());
  return keep;
}

// Returns the rows that stay: all but the image tokens that are not kept.
std::vector<std::int64_t> staying(const Shape& shape, const std::int64_t* image_index,
                                  const std::vector<std::int64_t>& keep) {
  std::vector<std::int64_t> rows;
  rows.reserve(size(shape.rows));
  std::int64_t token = 0;
  std::size_t kept = 0;
  for (std::int64_t row = 0; row < shape.rows; ++row) {
    const bool is_image = token < shape.tokens && image_index[token] == row;
    const bool stays = !is_image || (kept < keep.size() && keep[kept] == token);
    if (stays) rows.push_back(row);
    if (is_image && stays) ++kept;
    if (is_image) ++token;
  }
  return rows;
}

// Copies the rows that `rows` names, neighbours in one piece.
void copy_rows(const std::byte* from, std::byte* to, std::size_t row_bytes, const std::vector<std::int64_t>& rows) {
  for (std::size_t first = 0; first < rows.size();) {
    std::size_t end = first + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
    std::memcpy(to + first * row_bytes, from + size(rows[first]) * row_bytes, (end - first) * row_bytes);
    first = end;
  }
}

}  // namespace

Checked check(const std::array<Dims, kInputs.size()>& inputs) {
  const auto wrong = [](const std::string& what, const std::string& got, const std::string& wanted) {
    return Checked{{}, sentence(what, got, wanted)};
  };
  constexpr std::size_t ranks[] = {3, 3, 1, 1, 1, 1};
  constexpr const char* names[] = {"[B, S, H]", "[A, B, S]", "[N]", "[N]", "[N]", "[I]"};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].size() != ranks[i]) {
      return wrong(std::string(kInputs[i]) + " has a wrong rank", text(inputs[i]), names[i]);
    }
  }
  const auto& [hidden, position_ids, scores, image_index, image_of, keep_counts] = inputs;
  const Shape shape{hidden[0], hidden[1], hidden[2], position_ids[0], scores[0], keep_counts[0]};
  if (const Dims fitting = {shape.axes, shape.batch, shape.rows}; position_ids != fitting) {
    return wrong("position_ids do not fit hidden " + text(hidden), text(position_ids), text(fitting));
  }
  for (const std::size_t i : {std::size_t{3}, std::size_t{4}}) {
    if (inputs[i] != scores) {
      return wrong(std::string(kInputs[i]) + " does not fit scores " + text(scores), text(inputs[i]), text(scores));
    }
  }
  if (shape.tokens > 0 && shape.batch != 1) {
    return wrong("image tokens in a batch", "N = " + std::to_string(shape.tokens) + ", B = " + std::to_string(shape.batch),
                 "B = 1, or N = 0");
  }
  if (shape.rows > kMaxRows || shape.tokens > shape.rows) {
    return wrong("too many rows", "S = " + std::to_string(shape.rows) + ", N = " + std::to_string(shape.tokens),
                 "N <= S <= " + std::to_string(kMaxRows));
  }
  return {shape, ""};
}

Choice choose(const Shape& shape, const Candidates& candidates) {
  if (std::string error = check_index(shape, candidates); !error.empty()) return {{}, {}, error};
  std::vector<std::int64_t> tokens_of(size(shape.images));
  for (std::int64_t token = 0; token < shape.tokens; ++token) ++tokens_of[size(candidates.image_of[token])];
  if (std::string error = check_counts(shape, candidates, tokens_of); !error.empty()) return {{}, {}, error};
  if (shape.tokens == 0) return {};
  Choice choice{best(shape, candidates, tokens_of), {}, ""};
  choice.rows = staying(shape, candidates.image_index, choice.keep);
  return choice;
}

Choice choose_first(const Shape& shape, std::int64_t tokens) {
  if (shape.tokens == 0) return {};
  Choice choice{Dims(size(tokens)), Dims(size(shape.rows - shape.tokens + tokens)), ""};
  std::iota(choice.keep.begin(), choice.keep.end(), 0);
  std::iota(choice.rows.begin(), choice.rows.end(), 0);
  return choice;
}

std::int64_t kept_rows(const Shape& shape, const Choice& choice) {
  return shape.rows - shape.tokens + static_cast<std::int64_t>(choice.keep.size());
}

void gather_cpu(const Shape& shape, const Choice& choice, std::size_t element_bytes, const Tensors& tensors) {
  const std::size_t row_bytes = size(shape.hidden) * element_bytes;
  const auto* hidden = static_cast<const std::byte*>(tensors.hidden);
  auto* gathered = static_cast<std::byte*>(tensors.gathered);
  if (shape.tokens == 0) {
    const std::size_t rows = size(shape.batch * shape.rows);
    if (rows * row_bytes != 0) std::memcpy(gathered, hidden, rows * row_bytes);
    std::copy_n(tensors.position_ids, size(shape.axes) * rows, tensors.gathered_position_ids);
    return;
  }
  if (row_bytes != 0) copy_rows(hidden, gathered, row_bytes, choice.rows);  // else nothing is there to point to
  const std::int64_t* positions = tensors.position_ids;
  std::int64_t* gathered_positions = tensors.gathered_position_ids;
  for (std::int64_t axis = 0; axis < shape.axes; ++axis, positions += shape.rows) {
    gathered_positions = std::transform(choice.rows.begin(), choice.rows.end(), gathered_positions,
                                        [positions](std::int64_t row) { return positions[row]; });
  }
  std::copy(choice.keep.begin(), choice.keep.end(), tensors.keep_indices);
}

}  // namespace ar::gather
