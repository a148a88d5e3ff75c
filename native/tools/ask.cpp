// allrounder-native ask: many requests in one process, as JSON lines; what the parity tests of both languages use.
//
// A request is an object: `messages` as in Python, or `text` (rendered) or `ids`, with `images`; and optionally `id`,
// `keep`, `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed`, `stop`, `stream`. An image is the path of a PPM, or
// `{"raw": path, "size": "640x480"}`. Its answer is an object with that `id` (the line's number where it has none) and
// what `run` prints, `pieces` where streamed; or with `error`: its name and message. With --jobs, answers come as they
// are ready, not in the order of the requests.
#include <deque>
#include <iostream>
#include <mutex>
#include <set>
#include <thread>

#include "arguments.hpp"
#include "commands.hpp"

namespace tool {
namespace {

constexpr std::int64_t kMostJobs = 1024;

struct Asked {
  std::deque<Image> pixels;  // what the request's images point to
  allrounder::Request request;
  bool stream = false;
};

template <class T>
void read(const Json& json, const char* key, T& into) {
  if (json.contains(key)) into = json.at(key).get<typename std::decay<T>::type>();
}

template <class T>
void read(const Json& json, const char* key, std::optional<T>& into) {
  if (json.contains(key)) into = json.at(key).get<T>();
}

allrounder::Image image_of(const Json& json, Asked& asked) {
  asked.pixels.push_back(json.is_string() ? read_ppm(json) : read_raw(json.at("raw"), json.at("size")));
  return view(asked.pixels.back());
}

allrounder::Message message_of(const Json& json, Asked& asked) {
  const Json& content = json.at("content");
  allrounder::Message message{json.at("role"), {}};
  if (content.is_string()) message.parts.emplace_back(content.get<std::string>());
  if (content.is_string()) return message;
  for (const Json& part : content) {
    if (part.at("type") == "image") message.parts.emplace_back(image_of(part.at("image"), asked));
    if (part.at("type") == "text") message.parts.emplace_back(part.at("text").get<std::string>());
  }
  return message;
}

Asked asked_of(const Json& json) {
  static const std::set<std::string> known = {"id",   "messages", "text",           "ids",         "images",
                                              "keep", "stop",     "max_new_tokens", "temperature", "top_k",
                                              "seed", "top_p",    "stream"};
  for (const auto& [key, value] : json.items()) {
    if (known.count(key) == 0) throw UsageError("unknown key of a request: " + key);
  }
  Asked asked;
  allrounder::Request& request = asked.request;
  for (const Json& each : json.value("messages", Json::array())) request.messages.push_back(message_of(each, asked));
  for (const Json& each : json.value("images", Json::array())) request.images.push_back(image_of(each, asked));
  read(json, "text", request.text);
  read(json, "ids", request.ids);
  read(json, "keep", request.keep);
  read(json, "max_new_tokens", request.max_new_tokens);
  read(json, "temperature", request.temperature);
  read(json, "top_k", request.top_k);
  read(json, "top_p", request.top_p);
  read(json, "seed", request.seed);
  read(json, "stop", request.stop);
  read(json, "stream", asked.stream);
  return asked;
}

Json answered(const allrounder::Runtime& runtime, const Json& json) {
  Asked asked = asked_of(json);
  std::vector<std::string> pieces;
  if (asked.stream) {
    asked.request.piece = [&pieces](std::string_view text, std::int64_t) { pieces.emplace_back(text); };
  }
  Json out = report(runtime.generate(asked.request));
  if (asked.stream) out["pieces"] = pieces;
  return out;
}

Json error(const std::string& name, const std::string& message) {
  return {{"error", {{"name", name}, {"message", message}}}};
}

Json reply(const allrounder::Runtime& runtime, const std::string& text, std::size_t number) {
  Json out = {{"id", number}};
  try {
    const Json json = Json::parse(text);
    if (json.contains("id")) out["id"] = json.at("id");
    out.update(answered(runtime, json));
  } catch (const allrounder::Error& failed) {
    out.update(error(failed.name(), failed.what()));
  } catch (const std::exception& failed) {  // no JSON, no such image
    out.update(error("RequestUnreadable", failed.what()));
  }
  return out;
}

}  // namespace

void ask(const Line& line) {
  Line options = {"jobs"};
  options.insert(options.end(), kLoadOptions.begin(), kLoadOptions.end());
  const Arguments arguments(line, {"BUNDLE"}, options, {});
  const std::int64_t jobs = arguments.whole("jobs", 1, kMostJobs).value_or(1);
  const auto runtime = allrounder::Runtime::load(arguments.word(0), load_options(arguments));
  std::mutex reading, writing;
  std::size_t number = 0;
  const auto work = [&] {
    while (true) {
      std::string text;
      std::size_t mine = 0;
      {
        const std::lock_guard lock(reading);
        if (!std::getline(std::cin, text)) return;
        mine = ++number;
      }
      const std::string out = tool::line(reply(runtime, text, mine));
      const std::lock_guard lock(writing);
      std::cout << out << std::endl;  // flushed: who asks waits for it
    }
  };
  std::vector<std::thread> threads;
  for (std::int64_t job = 1; job < jobs; ++job) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace tool
