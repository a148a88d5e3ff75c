// What the images' tests share: plans of small tiles.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "contract/error.hpp"
#include "images/planning.hpp"

namespace small {

using namespace ar::images;

template <class Layout>
ImagePlan plan(Layout layout, int64_t size = 24, int64_t tokens = 9) {
  return {size, tokens, Filter::kBicubic, 1, {0, 0, 0}, {1, 1, 1}, std::move(layout)};
}

inline const ImagePlan kFixed = plan(Fixed{Color{9, 8, 7}, {}});
inline const ImagePlan kCropped = plan(Fixed{{}, 24});
inline const ImagePlan kCanvases = plan(Canvases{{{24, 48}, {48, 24}, {48, 48}}, 3, Color{9, 8, 7}});
inline const ImagePlan kAspect = plan(NearestAspect{1, 6, "<img>", "</img>"});
inline const ImagePlan kEdge = plan(LongestEdge{72, true, "|", "<whole>"});

inline PlannedImage planned(const ImagePlan& plan, const Extent& size) { return plan_images(plan, {size}).front(); }

template <class Call>
void invalid(const std::string& part, Call call) {
  try {
    call();
    ADD_FAILURE() << "nothing was refused, wanted: " << part;
  } catch (const ar::Error& error) {
    EXPECT_EQ(error.status(), AR_IMAGE_INVALID);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nwanted: " << part;
  }
}

}  // namespace small
