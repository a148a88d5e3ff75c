// allrounder::TokenGather: declaration, shape checks and the CPU kernel.
//
// What it is: of `scores` [B, N] the k best per row are kept, ties going to the lower index and NaN counting as -inf;
// the kept indices are put in ascending order; rows of `hidden` [B, N, H] and `positions` [B, N] are gathered by them.
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
inline constexpr std::array<const char*, 3> kInputs = {"hidden", "scores", "positions"};
inline constexpr std::array<const char*, 3> kOutputs = {"gathered", "gathered_positions", "keep"};
inline constexpr char kBudget[] = "k";  // the one attribute that the op reads
inline constexpr std::array<const char*, 3> kAttributes = {kBudget, "plugin_namespace", "plugin_version"};

inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 30;  // indices are 32-bit inside the kernels

struct Shape {
  std::int64_t batch = 0;   // B, 0 or more
  std::int64_t tokens = 0;  // N, at least k
  std::int64_t keep = 0;    // k, at least 1
  std::int64_t hidden = 0;  // H, 0 or more
};

// A shape that passed, or why it did not.
struct Checked {
  Shape shape;
  std::string error;
};

// The one place that decides which shapes are right.
Checked check(const std::vector<std::int64_t>& hidden, const std::vector<std::int64_t>& scores,
              const std::vector<std::int64_t>& positions, std::int64_t k);

// Returns the sentence for a k that is wrong for every input, else nothing; for graphs whose N is not known yet.
std::string check_budget(std::int64_t k);

// Inputs and outputs, contiguous. Rows of `hidden` are moved as bytes, whatever their element type.
struct Tensors {
  const void* hidden;                // [B, N, H] T
  const float* scores;               // [B, N]
  const std::int64_t* positions;     // [B, N]
  void* gathered;                    // [B, k, H] T
  std::int64_t* gathered_positions;  // [B, k]
  std::int64_t* keep;                // [B, k]
};

// Computes the op on the CPU. `shape` has passed check(); `element_bytes` is the size of T.
void gather_cpu(const Shape& shape, std::size_t element_bytes, const Tensors& tensors);

}  // namespace ar::gather
