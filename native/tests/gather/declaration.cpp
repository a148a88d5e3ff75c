// Prints the op's declaration as this library knows it, as one JSON object; a test compares it with allrounder.gather.
#include <cstdio>

#include "gather/gather.hpp"

namespace {

void print_list(const char* name, const std::array<const char*, 3>& values, const char* end) {
  std::printf("\"%s\": [\"%s\", \"%s\", \"%s\"]%s", name, values[0], values[1], values[2], end);
}

}  // namespace

int main() {
  using namespace ar::gather;
  std::printf("{\"domain\": \"%s\", \"name\": \"%s\", \"version\": \"%s\", ", kDomain, kName, kVersion);
  print_list("inputs", kInputs, ", ");
  print_list("outputs", kOutputs, ", ");
  print_list("attributes", kAttributes, "}\n");
  return 0;
}
