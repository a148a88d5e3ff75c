// allrounder-native ask: many questions in one process, as JSON lines; what the parity tests of both languages use.
//
// A request is an object: `image` (path of a PPM) or `raw` (path) with `size` ("640x480"); `question`, or
// `prefix_ids` and `suffix_ids`; and optionally `id`, `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed`,
// `stop`, `stream`. Its answer is an object with that `id` (the line's number where it has none) and what `run` prints,
// `pieces` where streamed; or with `error`: its name and message. With --jobs, answers come as they are ready, not in
// the order of the questions.
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
  Image image;
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

Asked asked_of(const Json& json) {
  static const std::set<std::string> known = {
      "id",          "image", "raw",   "size", "question", "prefix_ids", "suffix_ids", "max_new_tokens",
      "temperature", "top_k",   "top_p", "seed", "stop",     "stream"};
  for (const auto& [key, value] : json.items()) {
    if (known.count(key) == 0) throw UsageError("unknown key of a request: " + key);
  }
  Asked asked;
  asked.image = json.contains("raw") ? read_raw(json.at("raw"), json.at("size")) : read_ppm(json.at("image"));
  read(json, "question", asked.request.question);
  read(json, "prefix_ids", asked.request.prefix_ids);
  read(json, "suffix_ids", asked.request.suffix_ids);
  read(json, "max_new_tokens", asked.request.max_new_tokens);
  read(json, "temperature", asked.request.temperature);
  read(json, "top_k", asked.request.top_k);
  read(json, "top_p", asked.request.top_p);
  read(json, "seed", asked.request.seed);
  read(json, "stop", asked.request.stop);
  read(json, "stream", asked.stream);
  return asked;
}

Json answered(const allrounder::Runtime& runtime, const Json& json) {
  Asked asked = asked_of(json);
  asked.request.rgb = asked.image.rgb.data();
  asked.request.width = asked.image.width;
  asked.request.height = asked.image.height;
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
