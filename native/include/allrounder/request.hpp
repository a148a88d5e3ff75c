// Requests of allrounder.hpp, which includes this: errors, what crosses the C interface, and what a program asks.
#ifndef ALLROUNDER_REQUEST_HPP
#define ALLROUNDER_REQUEST_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "allrounder/c_api.h"

namespace allrounder {
// Records change from version to version: code that was compiled with different ones may meet in one process.
inline namespace v0_1 {

// What went wrong. `what()` says what, where, got, wanted and the remedy.
class Error : public std::runtime_error {
 public:
  Error(ar_status status, std::string name, const std::string& message)
      : std::runtime_error(message), status_(status), name_(std::move(name)) {}
  ar_status status() const noexcept { return status_; }
  const std::string& name() const noexcept { return name_; }  // as in Python: "BundleCorrupt"

 private:
  ar_status status_;
  std::string name_;
};

namespace detail {

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* handle) const noexcept {
    Free(handle);
  }
};

[[noreturn]] inline void invalid(const std::string& what, const char* where) {
  throw Error(AR_INPUT_INVALID, "InputInvalid", what + "; where: " + where);
}

inline Error as_error(const ar_error* error) {
  return {ar_error_status(error), ar_error_name(error), ar_error_message(error)};
}

// What a callback of this thread threw, on its way across the C interface.
inline std::exception_ptr& thrown() noexcept {
  thread_local std::exception_ptr held;
  return held;
}

// Runs a callback; nothing escapes. After one threw, further ones are not run until the call is over.
template <class Callback>
bool guarded(Callback&& callback) noexcept {
  if (thrown()) return false;
  try {
    callback();
    return true;
  } catch (...) {
    thrown() = std::current_exception();
    return false;
  }
}

// Makes a call of the C interface. Throws what a callback threw in it, else the error it returned.
template <class Call>
void checked(Call&& call) {
  std::exception_ptr outer = std::exchange(thrown(), nullptr);  // a callback may make calls itself
  const std::unique_ptr<ar_error, Freed<ar_error_free>> error(call());
  const std::exception_ptr inner = std::exchange(thrown(), std::move(outer));
  if (inner) std::rethrow_exception(inner);
  if (error) throw as_error(error.get());
}

// Makes a handle by a call of the C interface, which writes it; where a callback threw it is freed.
template <auto Free, class Handle, class Call>
std::unique_ptr<Handle, Freed<Free>> made(Call&& call) {
  std::unique_ptr<Handle, Freed<Free>> owned;
  checked([&] {
    Handle* handle = nullptr;
    ar_error* error = call(&handle);
    owned.reset(handle);
    return error;
  });
  return owned;
}

// In the C interface a text ends at its first zero byte, and a zero means the default; neither is to happen unseen.
inline const char* text(const std::string& value, const char* where) {
  if (value.find('\0') != std::string::npos) invalid("the text holds a zero byte", where);
  return value.c_str();
}
inline const char* text(const std::optional<std::string>& value, const char* where) {
  return value ? text(*value, where) : nullptr;
}
template <class Number>
Number number(const std::optional<Number>& value, const char* where) {
  if (value && *value == Number{}) invalid("zero is no value; leave it out for the default", where);
  return value.value_or(Number{});
}

// Copies what an accessor returns.
template <class Handle>
std::vector<std::int64_t> ids(const std::int64_t* (*get)(const Handle*, std::size_t*), const Handle* handle) {
  std::size_t count = 0;
  const std::int64_t* first = get(handle, &count);
  return {first, first + count};
}

}  // namespace detail

// Ends the requests that it was given to; stays cancelled.
class Cancellation {
 public:
  Cancellation() : handle_(detail::made<ar_cancellation_free, ar_cancellation>(ar_cancellation_new)) {}
  void cancel() const noexcept { ar_cancellation_cancel(handle_.get()); }  // from any thread; returns at once
  ar_cancellation* get() const noexcept { return handle_.get(); }

 private:
  std::unique_ptr<ar_cancellation, detail::Freed<ar_cancellation_free>> handle_;
};

// Pixels of the program. They are read before the first piece is given, and not kept; until then nobody may change them.
struct Image {
  const std::uint8_t* rgb = nullptr;  // height rows of width pixels of 3 bytes: red, green, blue
  std::int64_t width = 0, height = 0;
  std::int64_t row_bytes = 0;  // from one row to the next; 0: 3 * width
};

using Part = std::variant<std::string, Image>;  // plain text: what spells a control token in it stays text

struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::vector<Part> parts;
};

// A prompt and how it is to be answered. The prompt is messages, or rendered text with its images, or ids with them.
struct Request {
  // A question about an image: one user turn. Throws InputInvalid: it is empty.
  static Request ask(const Image& image, std::string question) {
    if (question.find_first_not_of(" \t\n\v\f\r") == std::string::npos) {
      detail::invalid("the question is empty; ask something", "question");
    }
    Request request;
    request.messages = {{"user", {image, std::move(question)}}};
    return request;
  }

  std::vector<Message> messages;
  std::string text;  // rendered, the image token once per image; control tokens in it are control tokens
  std::vector<std::int64_t> ids;               // the placeholder's id once per image
  std::vector<Image> images;                   // of `text` or `ids`
  std::optional<double> keep;                  // how much of each image stays; default: as the entry's version says
  std::optional<std::int64_t> max_new_tokens;  // default: 128, or the bundle's limit where that is lower
  double temperature = 0;                      // 0: the best token
  std::int64_t top_k = 0;                      // 0: all
  double top_p = 1;
  std::optional<std::uint64_t> seed;  // same seed, same draws; they are not those of Python's runtime
  std::vector<std::string> stop;      // texts that end the answer and are not part of it
  const Cancellation* cancel = nullptr;
  // Called with each piece of text as it comes, in the thread of `generate`, and how many tokens were drawn so far.
  // What it throws ends the request and comes out of `generate`.
  std::function<void(std::string_view text, std::int64_t token_count)> piece;
};

namespace detail {

// Messages and images as the C interface takes them; they point into those that they are made of.
inline ar_part part_of(const Image& image) {
  return {sizeof(ar_part), nullptr, 0, image.rgb, image.width, image.height, image.row_bytes};
}
inline ar_part part_of(const Part& part) {
  if (const auto* image = std::get_if<Image>(&part)) return part_of(*image);
  const auto& text = std::get<std::string>(part);
  return {sizeof(ar_part), text.c_str(), text.size(), nullptr, 0, 0, 0};
}
template <class Given>
std::vector<ar_part> parts_of(const std::vector<Given>& given) {
  std::vector<ar_part> parts;
  for (const Given& each : given) parts.push_back(part_of(each));
  return parts;
}

class Messages {
 public:
  explicit Messages(const std::vector<Message>& given) {
    parts_.reserve(given.size());
    for (const Message& message : given) {
      const std::vector<ar_part>& parts = parts_.emplace_back(parts_of(message.parts));
      raw_.push_back({sizeof(ar_message), text(message.role, "role"), parts.data(), parts.size()});
    }
  }
  const ar_message* data() const { return raw_.empty() ? nullptr : raw_.data(); }
  std::size_t size() const { return raw_.size(); }

 private:
  std::vector<std::vector<ar_part>> parts_;
  std::vector<ar_message> raw_;
};

class Lowered {  // a request
 public:
  explicit Lowered(const Request& request) : messages_(request.messages), images_(parts_of(request.images)) {
    for (const std::string& stop : request.stop) stops_.push_back(detail::text(stop, "stop"));
    raw_.size = sizeof raw_;
    raw_.messages = messages_.data();
    raw_.message_count = messages_.size();
    raw_.text = request.text.empty() ? nullptr : request.text.c_str();
    raw_.text_bytes = request.text.size();
    raw_.ids = request.ids.empty() ? nullptr : request.ids.data();
    raw_.id_count = request.ids.size();
    raw_.images = images_.data();
    raw_.image_count = images_.size();
    raw_.keep = number(request.keep, "keep");
    raw_.max_new_tokens = number(request.max_new_tokens, "max_new_tokens");
    raw_.temperature = request.temperature;
    raw_.top_k = request.top_k;
    raw_.top_p = number(std::optional(request.top_p), "top_p");
    raw_.seeded = request.seed ? 1 : 0;
    raw_.seed = request.seed.value_or(0);
    raw_.stop = stops_.data();
    raw_.stop_count = stops_.size();
    raw_.cancel = request.cancel ? request.cancel->get() : nullptr;
    if (request.piece) raw_.piece = on_piece;
    raw_.user = const_cast<Request*>(&request);
  }
  Lowered(const Lowered&) = delete;
  Lowered& operator=(const Lowered&) = delete;
  const ar_request& raw() const { return raw_; }

 private:
  static int on_piece(void* user, const char* text, std::size_t bytes, std::int64_t token_count) {
    return guarded([&] { static_cast<Request*>(user)->piece({text, bytes}, token_count); }) ? 0 : 1;
  }

  Messages messages_;
  std::vector<ar_part> images_;
  std::vector<const char*> stops_;
  ar_request raw_{};
};

}  // namespace detail

}  // namespace v0_1
}  // namespace allrounder

#endif  // ALLROUNDER_REQUEST_HPP
