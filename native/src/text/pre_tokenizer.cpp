#include "text/pre_tokenizer.hpp"

#include <cstddef>

#include "text/byte_level.hpp"
#include "text/normalizer.hpp"

namespace ar {
namespace {

bool starts_with(std::string_view text, std::string_view beginning) {
  return text.substr(0, beginning.size()) == beginning;
}

// One step after the other on each piece, depth first, so that no list of pieces is ever held.
class Walk {
 public:
  Walk(const std::vector<PreTokenizerStep>& steps, const std::function<void(std::string_view)>& word)
      : steps_(steps), word_(word) {}

  void piece(std::size_t step, std::string_view text, bool begins) const {
    if (text.empty()) return;
    if (step == steps_.size()) return word_(text);
    std::visit([&](const auto& found) { apply(found, step + 1, text, begins); }, steps_[step]);
  }

 private:
  void apply(const Split& split, std::size_t next, std::string_view text, bool begins) const {
    for (std::size_t begin = 0, end; begin < text.size(); begin = end) {
      end = word_end(split.pattern, text, begin);
      piece(next, text.substr(begin, end - begin), begins && begin == 0);
    }
  }

  void apply(const ByteLevel& level, std::size_t next, std::string_view text, bool begins) const {
    const auto emit = [&](std::string_view part, bool first) { piece(next, to_byte_level(part), first); };
    std::string prefixed;
    if (level.add_prefix_space && text.front() != ' ') {
      prefixed = " " + std::string(text);
      text = prefixed;
    }
    if (!level.use_regex) return emit(text, begins);
    for (std::size_t begin = 0, end; begin < text.size(); begin = end) {
      end = word_end(SplitPattern::kGpt2, text, begin);
      emit(text.substr(begin, end - begin), begins && begin == 0);
    }
  }

  void apply(const Metaspace& space, std::size_t next, std::string_view text, bool begins) const {
    std::string marked = replace_all(text, {" ", space.mark});
    const bool wanted = space.prepend == Metaspace::Prepend::kAlways ||
                        (space.prepend == Metaspace::Prepend::kFirst && begins);
    if (wanted && !starts_with(marked, space.mark)) marked.insert(0, space.mark);
    if (!space.split) return piece(next, marked, begins);
    for (std::size_t begin = 0, end; begin < marked.size(); begin = end) {  // a mark begins a piece
      const bool at_mark = starts_with(std::string_view(marked).substr(begin), space.mark);
      end = marked.find(space.mark, begin + (at_mark ? space.mark.size() : 0));
      if (end == std::string::npos) end = marked.size();
      piece(next, std::string_view(marked).substr(begin, end - begin), begins && begin == 0);
    }
  }

  const std::vector<PreTokenizerStep>& steps_;
  const std::function<void(std::string_view)>& word_;
};

}  // namespace

void pre_tokenize(const std::vector<PreTokenizerStep>& steps, std::string_view text, bool begins,
                  const std::function<void(std::string_view)>& word) {
  Walk(steps, word).piece(0, text, begins);
}

}  // namespace ar
