// The one catch point of the C interface.
#include <gtest/gtest.h>

#include <functional>
#include <new>

#include "c_api/handles.hpp"

namespace ar {
namespace {

TEST(Guard, TurnsEveryExceptionIntoAnError) {
  const auto status_of = [](const std::function<void()>& work) {
    ar_error* error = guard(work);
    const ar_status status = ar_error_status(error);
    ar_error_free(error);
    return status;
  };
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
