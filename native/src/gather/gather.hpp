// allrounder::TokenGather: declaration, shape checks, the choice of tokens, and the CPU kernel.
//
// What it is: of each image's tokens the `keep_counts[i]` best by `scores` stay, ties going to the lower index and NaN
// counting as -inf; the other image tokens leave `hidden` [B, S, H] and `position_ids` [A, B, S].
// What it knows: the signature as in src/allrounder/gather.py, the rule, contiguous memory.
// What it does not know: ONNX Runtime and TensorRT, whose adapters hold no arithmetic; any GPU (gather_cuda.hpp).
//
// Failures are sentences, empty where all is well: the adapters live inside other frameworks, each with its own errors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ar::gather {

// The declaration. native/tests/gather/declaration.cpp prints it; a test compares it with allrounder.gather.
inline constexpr char kDomain[] = "allrounder";
inline constexpr char kName[] = "TokenGather";
inline constexpr char kVersion[] = "1";
inline constexpr std::array<const char*, 6> kInputs = {"hidden",      "position_ids", "scores",
                                                       "image_index", "image_of",     "keep_counts"};
inline constexpr std::array<const char*, 3> kOutputs = {"gathered", "gathered_position_ids", "keep_indices"};
inline constexpr std::array<const char*, 2> kAttributes = {"plugin_namespace", "plugin_version"};

inline constexpr std::int64_t kMaxRows = std::int64_t{1} << 30;  // indices are 32-bit inside the kernels

using Dims = std::vector<std::int64_t>;

struct Shape {
  std::int64_t batch = 0;   // B; 1 where there are image tokens
  std::int64_t rows = 0;    // S
  std::int64_t hidden = 0;  // H
  std::int64_t axes = 0;    // A
  std::int64_t tokens = 0;  // N, at most S
  std::int64_t images = 0;  // I
};

// A shape that passed, or why it did not.
struct Checked {
  Shape shape;
  std::string error;
};

// The one place that decides which shapes are right; one entry for each of kInputs.
Checked check(const std::array<Dims, kInputs.size()>& inputs);

// The inputs by which tokens are chosen, in main memory. Null where they are empty.
struct Candidates {
  const float* scores;              // [N]
  const std::int64_t* image_index;  // [N]
  const std::int64_t* image_of;     // [N]
  const std::int64_t* keep_counts;  // [I]
};

// What stays, or why nothing can be chosen.
struct Choice {
  std::vector<std::int64_t> keep;  // [T], ascending, into the N tokens
  std::vector<std::int64_t> rows;  // [R], ascending, into the S rows; empty where N = 0, as all stay
  std::string error;
};

// Checks the values and chooses. `shape` has passed check().
Choice choose(const Shape& shape, const Candidates& candidates);

// A choice of the first `tokens` tokens and the first rows: it needs no values. `tokens` is at most N.
Choice choose_first(const Shape& shape, std::int64_t tokens);

// How many rows stay.
std::int64_t kept_rows(const Shape& shape, const Choice& choice);

// What is moved, contiguous; rows of `hidden` as bytes, whatever their element type.
struct Tensors {
  const void* hidden;                   // [B, S, H] T
  const std::int64_t* position_ids;     // [A, B, S]
  void* gathered;                       // [B, R, H] T
  std::int64_t* gathered_position_ids;  // [A, B, R]
  std::int64_t* keep_indices;           // [T]
};

// Moves what was chosen, on the CPU; `element_bytes` is the size of T.
void gather_cpu(const Shape& shape, const Choice& choice, std::size_t element_bytes, const Tensors& tensors);

}  // namespace ar::gather
