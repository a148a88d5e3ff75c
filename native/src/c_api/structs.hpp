// Structs that a program fills, read by their leading size: what makes the C interface able to grow.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

#include "contract/error.hpp"

namespace ar {

// Returns the program's struct as this library knows it. Fields that an older program does not have are zero, which
// means their default. `first` is the struct's size in the first release: nothing shorter was ever compiled. Fields
// that only a newer program has must be zero: this library cannot do what they ask. Throws AR_INPUT_INVALID.
template <class T>
T taken(const T* given, std::size_t first, const char* name) {
  std::size_t size = 0;
  std::memcpy(&size, given, sizeof size);
  if (size < first) {
    throw Error(AR_INPUT_INVALID, "this is not a struct of this interface",
                {std::string(name) + ".size", std::to_string(size), "sizeof(" + std::string(name) + ")",
                 "zero it, and set size"});
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (size > sizeof(T) && std::any_of(bytes + sizeof(T), bytes + size, [](unsigned char byte) { return byte != 0; })) {
    throw Error(
        AR_INPUT_INVALID, "the program is newer than this library, and asks for what it does not know",
        {name, std::to_string(size) + " bytes", "up to " + std::to_string(sizeof(T)), "install the newer library"});
  }
  T known{};
  std::memcpy(&known, given, std::min(size, sizeof(T)));
  return known;
}

// Fills as much of the program's struct as it has room for; its `size` stays.
template <class T>
void give(const T& value, T* into) {
  std::size_t size = 0;
  std::memcpy(&size, into, sizeof size);
  if (size <= sizeof size) return;
  const auto* from = reinterpret_cast<const unsigned char*>(&value);
  std::memcpy(reinterpret_cast<unsigned char*>(into) + sizeof size, from + sizeof size,
              std::min(size, sizeof(T)) - sizeof size);
}

}  // namespace ar
