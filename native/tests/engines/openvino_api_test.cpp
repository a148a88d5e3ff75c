// Holds engines/openvino/api.hpp against OpenVINO's own headers, while it is compiled.
#include <gtest/gtest.h>
#include <openvino/c/openvino.h>

#include <cstddef>
#include <type_traits>

#include "engines/openvino/api.hpp"

namespace ar {
namespace {

namespace ov = openvino;

// Whether a call passes both in the same way: opaque records have other names there, and enumerations are numbers here.
template <class Theirs, class Ours>
constexpr bool alike = std::is_pointer_v<Theirs> == std::is_pointer_v<Ours> &&
                       std::is_class_v<Theirs> == std::is_class_v<Ours> && sizeof(Theirs) == sizeof(Ours);
template <>
constexpr bool alike<void, void> = true;
template <class Theirs, class... TheirArguments, class Ours, class... OurArguments>
constexpr bool alike<Theirs (*)(TheirArguments...), Ours (*)(OurArguments...)> =
    alike<Theirs, Ours> && (alike<TheirArguments, OurArguments> && ...);
template <class Theirs, class... TheirArguments, class Ours, class... OurArguments>
constexpr bool alike<Theirs (*)(TheirArguments..., ...), Ours (*)(OurArguments..., ...)> =
    alike<Theirs, Ours> && (alike<TheirArguments, OurArguments> && ...);

#define ALLROUNDER_ALIKE(name, result, arguments) \
  static_assert(alike<decltype(&::name), decltype(ov::Api::name)>, #name);
ALLROUNDER_OPENVINO_FUNCTIONS(ALLROUNDER_ALIKE)

static_assert(offsetof(ov_shape_t, dims) == offsetof(ov::Extents, values));
static_assert(offsetof(ov_partial_shape_t, dims) == offsetof(ov::Spans, values));
static_assert(offsetof(ov_dimension_t, max) == offsetof(ov::Span, most));
static_assert(sizeof(ov_dimension_t) == sizeof(ov::Span));
static_assert(offsetof(ov_version_t, buildNumber) == offsetof(ov::Version, build));
static_assert(sizeof(ov_version_t) == sizeof(ov::Version));

TEST(OpenVinoApi, TypesHaveTheNumbersOfTheHeaders) {
  EXPECT_EQ(static_cast<ov::ElementType>(BOOLEAN), ov::kBoolean);
  EXPECT_EQ(static_cast<ov::ElementType>(BF16), ov::kBf16);
  EXPECT_EQ(static_cast<ov::ElementType>(F16), ov::kF16);
  EXPECT_EQ(static_cast<ov::ElementType>(F32), ov::kF32);
  EXPECT_EQ(static_cast<ov::ElementType>(I64), ov::kI64);
  EXPECT_EQ(static_cast<ov::ElementType>(U8), ov::kU8);
  EXPECT_EQ(static_cast<ov::Status>(OK), 0);
}

}  // namespace
}  // namespace ar
