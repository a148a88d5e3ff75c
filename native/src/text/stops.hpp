// Stop texts: ending an answer at a given string; the rule of runtime/text.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ar {

class StopTexts {
 public:
  explicit StopTexts(std::vector<std::string> texts);  // throws AR_INPUT_INVALID: an empty one
  std::string add(std::string_view piece);             // what is certain to stay
  std::string finish();                                // what was held back and did not become a stop text
  bool reached() const { return reached_; }

 private:
  std::vector<std::string> texts_;
  std::string held_;
  bool reached_ = false;
};

}  // namespace ar
