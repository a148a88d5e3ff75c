// Image plans: what is read, and everything that is refused.
#include "contract/image_plan.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "contract/error.hpp"

namespace {

using namespace ar::images;
using Plain = nlohmann::ordered_json;

Plain fixed() {
  return Plain::parse(R"({"size": 24, "tokens": 9, "filter": "bicubic", "scale": 1, "mean": [0.5, 0.25, 0],
    "std": [1, 2, 4], "layout": {"kind": "fixed", "square": [255, 0, 7], "shortest": 24}})");
}

Plain with_layout(const char* layout) {
  Plain plan = fixed();
  plan["layout"] = Plain::parse(layout);
  return plan;
}

ImagePlan read(const Plain& plan) {
  const std::string where = "here";
  const ar::Json json = ar::parse_json(plan.dump(), where);
  return read_image_plan(ar::JsonView(json, where));
}

void refused(const std::string& part, const Plain& plan) {
  try {
    check_image_plan(read(plan), "here");
    ADD_FAILURE() << "nothing was refused, wanted: " << part;
  } catch (const ar::Error& error) {
    EXPECT_EQ(error.status(), AR_BUNDLE_CORRUPT);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nwanted: " << part;
  }
}

TEST(ImagePlan, IsRead) {
  const ImagePlan plan = read(fixed());
  EXPECT_EQ(plan.size, 24);
  EXPECT_EQ(plan.filter, Filter::kBicubic);
  EXPECT_EQ(plan.mean[1], 0.25);
  EXPECT_EQ(plan.std[2], 4);
  EXPECT_EQ(std::get<Fixed>(plan.layout).square, (Color{255, 0, 7}));
  EXPECT_EQ(std::get<Fixed>(plan.layout).shortest, 24);
}

TEST(ImagePlan, LayoutsAreReadByTheirKind) {
  const ImagePlan canvases = read(with_layout(R"({"canvases": [[24, 48]], "several": null, "kind": "canvases"})"));
  EXPECT_EQ(std::get<Canvases>(canvases.layout).canvases[0], (Extent{24, 48}));
  EXPECT_EQ(std::get<Canvases>(canvases.layout).most, std::nullopt);
  const ImagePlan aspect =
      read(with_layout(R"({"kind": "nearest-aspect", "least": 1, "most": 12, "before": "<img>", "after": ""})"));
  EXPECT_EQ(std::get<NearestAspect>(aspect.layout).before, "<img>");
  const ImagePlan edge =
      read(with_layout(R"({"kind": "longest-edge", "edge": 48, "split": true, "around": "a", "whole": "w"})"));
  EXPECT_TRUE(std::get<LongestEdge>(edge.layout).split);
  EXPECT_EQ(std::get<Fixed>(read(with_layout(R"({"kind": "fixed"})")).layout).square, std::nullopt);
}

struct Offence {
  const char *pointer, *json, *part;
};

const Offence kOffences[] = {
    {"/size", "0", "$.size"},
    {"/tokens", "-1", "$.tokens"},
    {"/filter", "\"box\"", "$.filter"},
    {"/mean", "[1, 2]", "length 3 - at `$.mean`"},
    {"/std/1", "null", "$.std[1]"},
    {"/other", "1", "unknown field 'other'"},
    {"/layout/kind", "\"box\"", "$.layout.kind"},
    {"/layout/square", "[1, 2, 256]", "$.layout.square[2]"},
    {"/layout/shortest", "0", "$.layout.shortest"},
    {"/layout/edge", "1", "unknown field 'edge'"},
};

TEST(ImagePlan, WhatIsMalformedIsRefusedByName) {
  for (const Offence& offence : kOffences) {
    SCOPED_TRACE(offence.pointer);
    Plain plan = fixed();
    plan[Plain::json_pointer(offence.pointer)] = Plain::parse(offence.json);
    refused(offence.part, plan);
  }
  refused("`kind`", with_layout("{}"));
  refused("$.layout.canvases[0][1]", with_layout(R"({"kind": "canvases", "canvases": [[24, 0]]})"));
}

TEST(ImagePlan, WhatIsImpossibleIsRefusedByName) {
  check_image_plan(read(fixed()), "here");
  for (const char* name : {"size", "tokens"}) {
    Plain plan = fixed();
    plan[name] = INT64_MAX;
    refused(std::string("image plan, ") + name, plan);
  }
  refused("got: 23; wanted: 24 to", with_layout(R"({"kind": "fixed", "shortest": 23})"));
  refused("got: none", with_layout(R"({"kind": "canvases", "canvases": []})"));
  refused("multiples of 24", with_layout(R"({"kind": "canvases", "canvases": [[24, 47]]})"));
  refused("layout.canvases", with_layout(R"({"kind": "canvases", "canvases": [[24, 2400000]]})"));
  Plain canvas = with_layout(R"({"kind": "canvases", "canvases": [[24, 24]]})");
  canvas["tokens"] = 8;
  refused("wanted: a square", canvas);
  refused("layout.most",
          with_layout(R"({"kind": "nearest-aspect", "least": 1, "most": 9999, "before": "", "after": ""})"));
  refused("layout.least",
          with_layout(R"({"kind": "nearest-aspect", "least": 3, "most": 2, "before": "", "after": ""})"));
  refused("layout.edge",
          with_layout(R"({"kind": "longest-edge", "edge": 9000000, "split": true, "around": "", "whole": ""})"));
}

}  // namespace
