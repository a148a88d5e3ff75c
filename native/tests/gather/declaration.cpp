// Prints the op's declaration as this library knows it, as one JSON object; a test compares it with allrounder.gather.
#include <cstdio>

#include "gather/gather.hpp"

namespace {

template <typename List>
void print_list(const char* name, const List& values, const char* end) {
  std::printf("\"%s\": [", name);
  for (const char* value : values) std::printf("%s\"%s\"", value == values.front() ? "" : ", ", value);
  std::printf("]%s", end);
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
