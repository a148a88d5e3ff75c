#include "gather/gather.hpp"

#include <algorithm>
#include <cstring>
#include <functional>

#include "gather/rule.hpp"

namespace ar::gather {
namespace {

using Dims = std::vector<std::int64_t>;

std::string text(const Dims& dims) {
  std::string out = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  return out + "]";
}

std::string sentence(const std::string& what, const std::string& got, const std::string& wanted) {
  return std::string(kName) + ": " + what + "; got: " + got + "; wanted: " + wanted;
}

// A score and its index as one integer: the larger is the better, ties going to the lower index.
std::uint64_t candidate(float score, std::uint32_t index) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return std::uint64_t{score_key(bits)} << 32 | static_cast<std::uint32_t>(~index);
}

// Writes the k kept indices of one row, ascending.
void keep_indices(const float* scores, const Shape& shape, std::vector<std::uint64_t>* candidates, std::int64_t* keep) {
  candidates->resize(static_cast<std::size_t>(shape.tokens));
  for (std::int64_t i = 0; i < shape.tokens; ++i) {
    (*candidates)[static_cast<std::size_t>(i)] = candidate(scores[i], static_cast<std::uint32_t>(i));
  }
  const auto last = candidates->begin() + shape.keep - 1;
  std::nth_element(candidates->begin(), last, candidates->end(), std::greater<>());
  std::transform(candidates->begin(), last + 1, keep,
                 [](std::uint64_t value) { return static_cast<std::int64_t>(~static_cast<std::uint32_t>(value)); });
  std::sort(keep, keep + shape.keep);
}

// Copies the rows `keep` names, neighbours in one piece.
void copy_rows(const std::byte* from, std::byte* to, std::size_t row_bytes, const std::int64_t* keep, std::int64_t k) {
  for (std::int64_t first = 0; first < k;) {
    std::int64_t end = first + 1;
    while (end < k && keep[end] == keep[end - 1] + 1) ++end;
    const auto bytes = [row_bytes](std::int64_t rows) { return static_cast<std::size_t>(rows) * row_bytes; };
    std::memcpy(to + bytes(first), from + bytes(keep[first]), bytes(end - first));
    first = end;
  }
}

}  // namespace

std::string check_budget(std::int64_t k) {
  return k >= 1 ? "" : sentence("no token would be kept", "k = " + std::to_string(k), "k of at least 1");
}

Checked check(const Dims& hidden, const Dims& scores, const Dims& positions, std::int64_t k) {
  const auto wrong = [](const std::string& what, const std::string& got, const std::string& wanted) {
    return Checked{{}, sentence(what, got, wanted)};
  };
  if (hidden.size() != 3) return wrong("hidden has a wrong rank", text(hidden), "[B, N, H]");
  const Dims rows = {hidden[0], hidden[1]};
  if (scores != rows) return wrong("scores do not fit hidden " + text(hidden), text(scores), text(rows));
  if (positions != rows) return wrong("positions do not fit hidden " + text(hidden), text(positions), text(rows));
  if (std::string error = check_budget(k); !error.empty()) return {{}, error};
  if (k > hidden[1]) {
    const std::string got = "k = " + std::to_string(k) + " of N = " + std::to_string(hidden[1]);
    return wrong("more tokens to keep than there are", got, "1 <= k <= N");
  }
  if (hidden[1] > kMaxTokens) return wrong("too many tokens", text(hidden), "N <= " + std::to_string(kMaxTokens));
  return {{hidden[0], hidden[1], k, hidden[2]}, ""};
}

void gather_cpu(const Shape& shape, std::size_t element_bytes, const Tensors& tensors) {
  const std::size_t row_bytes = static_cast<std::size_t>(shape.hidden) * element_bytes;
  const std::size_t tokens = static_cast<std::size_t>(shape.tokens);
  const std::size_t kept = static_cast<std::size_t>(shape.keep);
  std::vector<std::uint64_t> candidates;
  for (std::size_t row = 0; row < static_cast<std::size_t>(shape.batch); ++row) {
    std::int64_t* keep = tensors.keep + row * kept;
    keep_indices(tensors.scores + row * tokens, shape, &candidates, keep);
    const std::int64_t* positions = tensors.positions + row * tokens;
    std::transform(keep, keep + kept, tensors.gathered_positions + row * kept,
                   [positions](std::int64_t token) { return positions[token]; });
    if (row_bytes == 0) continue;  // nothing is there to point to
    copy_rows(static_cast<const std::byte*>(tensors.hidden) + row * tokens * row_bytes,
              static_cast<std::byte*>(tensors.gathered) + row * kept * row_bytes, row_bytes, keep, shape.keep);
  }
}

}  // namespace ar::gather
