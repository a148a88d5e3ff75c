// A service in C++: one bundle, one latency target, questions by HTTP. Its counterpart is ../python_service.py.
//
//     service bundles/demo 8080 [TTFT_MS]
//     curl --data-binary @image.rgb
//     'http://127.0.0.1:8080/ask?width=640&height=480&question=what+is+the+red+object%3F'
//
// The body holds the image's bytes, row by row: red, green, blue. Port 0 takes a free one; the first line says which.
#include <httplib.h>

#include <allrounder/allrounder.hpp>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace {

constexpr std::int64_t kMaxPixels = 16384;  // along one side

// Everything that embedding takes: a request out of what came in, and an answer.
nlohmann::json ask(const allrounder::Runtime& runtime, const httplib::Request& http) {
  allrounder::Image image;
  image.width = std::stoll(http.get_param_value("width"));
  image.height = std::stoll(http.get_param_value("height"));
  const bool possible = 0 < image.width && image.width <= kMaxPixels && 0 < image.height && image.height <= kMaxPixels;
  if (!possible || http.body.size() != static_cast<std::size_t>(image.width * image.height * 3)) {
    throw std::invalid_argument("the body must hold width x height x 3 bytes");
  }
  image.rgb = reinterpret_cast<const std::uint8_t*>(http.body.data());
  const auto answer = runtime.generate(allrounder::Request::ask(image, http.get_param_value("question")));
  return {{"version", runtime.version()},
          {"text", answer.text()},
          {"token_ids", answer.token_ids()},
          {"ttft_ms", answer.timing().ttft_ms}};
}

void reply(httplib::Response& response, int status, const nlohmann::json& body) {
  response.status = status;
  response.set_content(body.dump() + "\n", "application/json");
}

void serve(const allrounder::Runtime& runtime, int port) {
  httplib::Server server;  // answers on several threads at once, as the runtime may be asked
  server.set_payload_max_length(static_cast<std::size_t>(kMaxPixels) * kMaxPixels * 3);
  server.Post("/ask", [&](const httplib::Request& request, httplib::Response& response) {
    try {
      reply(response, 200, ask(runtime, request));
    } catch (const allrounder::Error& error) {
      const bool theirs = error.status() >= AR_INPUT_INVALID && error.status() < AR_BUNDLE_ERROR;
      reply(response, theirs ? 400 : 500, {{"error", error.name()}, {"message", error.what()}});
    } catch (const std::logic_error& error) {  // no number, or not that many bytes
      reply(response, 400, {{"error", "BadRequest"}, {"message", error.what()}});
    }
  });
  if (port == 0)
    port = server.bind_to_any_port("127.0.0.1");
  else if (!server.bind_to_port("127.0.0.1", port))
    throw std::runtime_error("port " + std::to_string(port) + " is taken");
  std::cout << "listening on 127.0.0.1:" << port << std::endl;
  server.listen_after_bind();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) throw std::invalid_argument("usage: service BUNDLE PORT [TTFT_MS]");
  allrounder::LoadOptions options;
  if (argc > 3) options.ttft_ms = std::stod(argv[3]);
  options.log = [](ar_level, std::string_view message) { std::cerr << message << "\n"; };
  serve(allrounder::Runtime::load(argv[1], options), std::stoi(argv[2]));
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return EXIT_FAILURE;
}
