// Planning: sizes at the border, and images that would cost too much.
#include "images/planning.hpp"

#include "small_plans.hpp"

namespace {

using namespace small;

TEST(Planning, AnImageOfOnePixelIsPlannedByEveryPlan) {
  EXPECT_EQ(planned(kFixed, {1, 1}).tokens(), 9);
  EXPECT_EQ(planned(kCropped, {1, 1}).tiles(), 1);
  EXPECT_EQ(planned(kCanvases, {1, 1}).tiles(), 3);  // all canvases show all of it, the first one wastes least
  EXPECT_EQ(planned(kAspect, {1, 1}).content, (Content{"<img>", int64_t{9}, "</img>"}));
  EXPECT_EQ(planned(kEdge, {1, 1}).tiles(), 10);
}

TEST(Planning, AnImageOf200To1IsPlannedOrTooNarrow) {
  const PlannedImage cropped = planned(kCropped, {1, 200});
  EXPECT_EQ(std::get<Resize>(cropped.views[0].steps[0]).to, (Extent{24, 4800}));
  EXPECT_EQ(std::get<Crop>(cropped.views[0].steps[1]).left, 2388);
  EXPECT_EQ(planned(kAspect, {200, 1}).views[0].rows, 6);
  EXPECT_EQ(planned(kEdge, {1, 200}).content[0], Content::value_type("|<row_1_col_1>"));
  const ImagePlan few = plan(Canvases{{{24, 96}}, 1, {}});
  EXPECT_GT(planned(few, {24, 96}).tokens(), 9);
  invalid("too narrow for this model; got: 200 x 1", [&] { planned(few, {1, 200}); });
}

TEST(Planning, AnImageOfTheRightSizeIsNotCut) {
  const PlannedImage image = planned(kCropped, {24, 24});
  ASSERT_EQ(image.views[0].steps.size(), 1u);
  EXPECT_EQ(std::get<Resize>(image.views[0].steps[0]).to, (Extent{24, 24}));
}

TEST(Planning, MarksStandBetweenTiles) {
  const PlannedImage image = planned(kEdge, {30, 72});
  const Content wanted{"|<row_1_col_1>",   int64_t{9}, "|<row_1_col_2>",   int64_t{9}, "|<row_1_col_3>", int64_t{9},
                       "\n|<row_2_col_1>", int64_t{9}, "|<row_2_col_2>",   int64_t{9}, "|<row_2_col_3>", int64_t{9},
                       "\n\n|<whole>",     int64_t{9}, "|"};
  EXPECT_EQ(image.content, wanted);
  EXPECT_EQ(image.tokens(), 63);
}

TEST(Planning, SeveralImagesAreOneTileEachWhereThePlanSaysSo) {
  const std::vector<PlannedImage> images = plan_images(kCanvases, {{48, 48}, {20, 30}});
  EXPECT_EQ(images[0].tiles(), 1);
  EXPECT_EQ(images[1].tokens(), 10);
  EXPECT_EQ(std::get<Pad>(images[1].views[0].steps[0]).top, 5);
}

TEST(Planning, WhatOneImageMayCostIsBounded) {
  EXPECT_EQ(planned(kFixed, {100, 16384}).tiles(), 1);
  invalid("which becomes 16385 x 16385", [] { planned(kFixed, {100, 16385}); });
  const ImagePlan huge = plan(Canvases{{{1 << 15, 1 << 16}}, {}, {}}, 1 << 15);
  check_image_plan(huge, "here");
  invalid("which becomes 32768 x 32768", [&] { planned(huge, {48, 48}); });
  const ImagePlan tiny = plan(LongestEdge{4096, true, "", ""}, 1);
  check_image_plan(tiny, "here");
  invalid("16777217 tiles of 9 tokens", [&] { planned(tiny, {48, 48}); });
  const ImagePlan many = plan(NearestAspect{1, 1024, "", ""}, 24, kMostTokens);
  check_image_plan(many, "here");
  invalid("up to 1048576 tokens", [&] { planned(many, {48, 96}); });
}

}  // namespace
