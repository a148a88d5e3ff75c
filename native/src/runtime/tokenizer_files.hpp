// A bundle's tokenizer: its files read, and checked against their golden prompts.
#pragma once

#include <memory>

#include "contract/bundle.hpp"
#include "text/prompter.hpp"

namespace ar {

// Throws AR_BUNDLE_CORRUPT (unreadable, or it gives other ids than when the bundle was built) or
// AR_ENGINE_UNAVAILABLE (a family that this library does not speak).
std::shared_ptr<const Prompter> read_prompter(const OpenBundle& bundle);

}  // namespace ar
