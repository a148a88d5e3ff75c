#include <allrounder/allrounder.hpp>
#include <iostream>

int main() try {
  allrounder::Runtime::load("/no/such/bundle");
} catch (const allrounder::Error& error) {
  std::cout << allrounder::library_version() << " " << error.name() << "\n";
}
