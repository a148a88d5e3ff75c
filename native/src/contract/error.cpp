#include "contract/error.hpp"

#include <cstdio>

namespace ar {
namespace {

std::string message(const std::string& what, const Facts& facts) {
  std::string text = what;
  const auto add = [&text](const char* name, const std::string& value) {
    if (!value.empty()) text.append("; ").append(name).append(": ").append(value);
  };
  add("where", facts.where);
  add("got", facts.got);
  add("wanted", facts.wanted);
  add("remedy", facts.remedy);
  return text;
}

}  // namespace

Error::Error(ar_status status, const std::string& what, const Facts& facts)
    : std::runtime_error(message(what, facts)), status_(status) {}

const char* error_name(ar_status status) noexcept {
  switch (status) {
    case AR_OK: return "";
    case AR_INTERNAL: return "InternalError";
    case AR_INPUT_INVALID: return "InputInvalid";
    case AR_UNKNOWN_VERSION: return "UnknownVersion";
    case AR_IMAGE_INVALID: return "ImageInvalid";
    case AR_PROMPT_TOO_LONG: return "PromptTooLong";
    case AR_INVALID_BUDGET: return "InvalidBudget";
    case AR_BUNDLE_ERROR: return "BundleError";
    case AR_BUNDLE_CORRUPT: return "BundleCorrupt";
    case AR_BUNDLE_FROM_FUTURE: return "BundleFromFuture";
    case AR_BACKEND_ERROR: return "BackendError";
    case AR_ENGINE_UNAVAILABLE: return "EngineUnavailable";
    case AR_NO_ENGINE_MEETS_TARGET: return "NoEngineMeetsTarget";
    case AR_REQUEST_CANCELLED: return "RequestCancelled";
    case AR_RUNTIME_CLOSED: return "RuntimeClosed";
  }
  return "AllRounderError";
}

std::string quoted(const std::string& text, std::size_t limit) {
  std::string out = "'";
  for (const char byte : text.substr(0, limit)) {
    const auto value = static_cast<unsigned char>(byte);
    if (value >= 0x20 && value < 0x7f) {
      out += byte;
      continue;
    }
    char escaped[5];
    std::snprintf(escaped, sizeof escaped, "\\x%02x", value);
    out += escaped;
  }
  return out + (text.size() > limit ? "...'" : "'");
}

}  // namespace ar
