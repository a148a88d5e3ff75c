// The two mechanisms of the C interface: structs read by their size, and the one catch point.
#include "c_api/structs.hpp"

#include <gtest/gtest.h>

#include <new>

#include "c_api/handles.hpp"

namespace ar {
namespace {

struct First {  // as an old program knows it
  std::size_t size;
  int64_t one;
};
struct Today {  // as this library knows it
  std::size_t size;
  int64_t one;
  double two;
  const char* three;
};
struct Tomorrow {  // as a newer program knows it; without padding, which nobody zeroes
  Today today;
  int64_t four;
  int64_t five;
};

ar_status status_of(const std::function<void()>& work) {
  ar_error* error = guard(work);
  const ar_status status = ar_error_status(error);
  ar_error_free(error);
  return status;
}

const Today* as_today(const void* given) { return static_cast<const Today*>(given); }

TEST(Structs, WhatAnOldProgramDoesNotHaveIsItsDefault) {
  const First given{sizeof(First), 7};
  const Today got = taken(as_today(&given), sizeof(First), "x");
  EXPECT_EQ(got.one, 7);
  EXPECT_EQ(got.two, 0);
  EXPECT_EQ(got.three, nullptr);
}

TEST(Structs, WhatANewerProgramLeavesZeroIsIgnored) {
  Tomorrow given{{sizeof(Tomorrow), 7, 2.5, "x"}, 0, 0};
  const Today got = taken(as_today(&given), sizeof(First), "x");
  EXPECT_EQ(got.one, 7);
  EXPECT_EQ(got.two, 2.5);
  for (const bool last : {false, true}) {
    given.four = last ? 0 : 1;
    given.five = last ? 1 : 0;
    EXPECT_EQ(status_of([&] { taken(as_today(&given), sizeof(First), "x"); }), AR_INPUT_INVALID);
  }
}

TEST(Structs, WhatWasNeverCompiledIsRefused) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, sizeof(std::size_t), sizeof(First) - 1}) {
    const First given{size, 7};
    EXPECT_EQ(status_of([&] { taken(as_today(&given), sizeof(First), "x"); }), AR_INPUT_INVALID) << size;
  }
}

TEST(Structs, GivesAsMuchAsThereIsRoomFor) {
  const Today value{sizeof(Today), 7, 2.5, "x"};
  struct {
    First first;
    int64_t guard;
  } old{{sizeof(First), 0}, 42};
  give(value, reinterpret_cast<Today*>(&old.first));
  EXPECT_EQ(old.first.size, sizeof(First));
  EXPECT_EQ(old.first.one, 7);
  EXPECT_EQ(old.guard, 42);
  Tomorrow newer{{sizeof(Tomorrow), 0, 0, nullptr}, 5, 6};
  give(value, &newer.today);
  EXPECT_EQ(newer.today.size, sizeof(Tomorrow));
  EXPECT_EQ(newer.today.two, 2.5);
  EXPECT_EQ(newer.four, 5);
  std::size_t nothing = 0;  // a struct that was zeroed and never sized
  give(value, reinterpret_cast<Today*>(&nothing));
  EXPECT_EQ(nothing, 0u);
}

TEST(Guard, TurnsEveryExceptionIntoAnError) {
  EXPECT_EQ(status_of([] {}), AR_OK);
  EXPECT_EQ(status_of([] { throw Error(AR_PROMPT_TOO_LONG, "long"); }), AR_PROMPT_TOO_LONG);
  EXPECT_EQ(status_of([] { throw std::bad_alloc(); }), AR_INTERNAL);
  EXPECT_EQ(status_of([] { throw std::runtime_error("what"); }), AR_INTERNAL);
  EXPECT_EQ(status_of([] { throw 3; }), AR_INTERNAL);
}

TEST(Guard, TellsWhatHappened) {
  ar_error* error = guard([] { throw Error(AR_BUNDLE_CORRUPT, "it is broken", {"here", "", "", "mend it"}); });
  EXPECT_STREQ(ar_error_name(error), "BundleCorrupt");
  EXPECT_STREQ(ar_error_message(error), "it is broken; where: here; remedy: mend it");
  ar_error_free(error);
  error = guard([] { throw std::bad_alloc(); });
  EXPECT_STREQ(ar_error_name(error), "InternalError");
  EXPECT_STREQ(ar_error_message(error), "no memory");
  ar_error_free(error);  // it is not on the heap
  ar_error_free(error);
}

}  // namespace
}  // namespace ar
