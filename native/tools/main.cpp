// allrounder-native: the C++ runtime on the command line, over its public header alone.
#include <exception>
#include <iostream>
#include <map>

#include "allrounder/allrounder.hpp"
#include "arguments.hpp"
#include "commands.hpp"

namespace {

constexpr const char* kUsage = R"(usage: allrounder-native COMMAND ...

  run BUNDLE IMAGE QUESTION  answer one question; the last line is a JSON object
      [--size WxH] [--keep X] [--max-new-tokens N] [--temperature X] [--top-k N] [--top-p X] [--seed N] [--stop TEXT]
      [--stream]
  ask BUNDLE [--jobs N]        answer conversations that come as JSON lines (native/README.md)
  inspect BUNDLE               list a bundle's entries
  version

  run and ask take [--version NAME | --ttft-ms X --tpot-ms X [--percentile 50|95|99] [--fallback fastest]]
  [--threads N] [--weights fast|shared] [--device cpu|cuda|cuda:1] [--provider cuda|tensorrt].
  IMAGE is a binary PPM (P6), or raw RGB with --size.
  ONNX Runtime's library is found as c_api.h says; ALLROUNDER_ORT_LIBRARY names it.
)";

int dispatch(const std::string& name, const tool::Line& line) {
  static const std::map<std::string, void (*)(const tool::Line&)> commands = {
      {"run", tool::run}, {"ask", tool::ask}, {"inspect", tool::inspect}};
  if (name == "version") {
    std::cout << allrounder::library_version() << "\n";
    return 0;
  }
  const auto found = commands.find(name);
  if (found == commands.end()) {
    const bool wanted = name == "--help" || name == "help";
    (wanted ? std::cout : std::cerr) << kUsage;
    return wanted ? 0 : 2;
  }
  found->second(line);
  std::cout.flush();
  return 0;
}

}  // namespace

int main(int count, char** words) try {
  const tool::Line line(words + 1, words + count);
  return dispatch(line.empty() ? "" : line.front(), line.empty() ? line : tool::Line(line.begin() + 1, line.end()));
} catch (const tool::UsageError& error) {
  std::cerr << error.what() << "\n" << kUsage;
  return 2;
} catch (const allrounder::Error& error) {
  std::cerr << error.name() << ": " << error.what() << "\n";
  return 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
