// allrounder-native run: one question about one image.
#include <iostream>

#include "arguments.hpp"
#include "commands.hpp"

namespace tool {
namespace {

allrounder::Request request_of(const Arguments& arguments, const Image& image) {
  allrounder::Request request = allrounder::Request::ask(view(image), arguments.word(2));
  request.keep = arguments.real("keep");
  request.max_new_tokens = arguments.whole("max-new-tokens", 1);
  request.temperature = arguments.real("temperature").value_or(0);
  request.top_k = arguments.whole("top-k", 0).value_or(0);
  request.top_p = arguments.real("top-p").value_or(1);
  if (const auto seed = arguments.whole("seed", 0)) request.seed = static_cast<std::uint64_t>(*seed);
  if (const auto stop = arguments.text("stop")) request.stop = {*stop};
  return request;
}

}  // namespace

void run(const Line& line) {
  Line options = {"size", "keep", "max-new-tokens", "temperature", "top-k", "top-p", "seed", "stop"};
  options.insert(options.end(), kLoadOptions.begin(), kLoadOptions.end());
  const Arguments arguments(line, {"BUNDLE", "IMAGE", "QUESTION"}, options, {"stream"});
  const auto size = arguments.text("size");
  const Image image = size ? read_raw(arguments.word(1), *size) : read_ppm(arguments.word(1));
  allrounder::Request request = request_of(arguments, image);
  if (arguments.flag("stream")) {
    request.piece = [](std::string_view text, std::int64_t) { std::cout << text << std::flush; };
  }
  const auto runtime = allrounder::Runtime::load(arguments.word(0), load_options(arguments));
  const allrounder::Answer answer = runtime.generate(request);
  if (!arguments.flag("stream")) std::cout << answer.text();
  Json json = {{"version", runtime.version()}};
  json.update(report(answer));
  std::cout << "\n" << tool::line(json) << "\n";
}

}  // namespace tool
