// Where this library lies: its companions are looked for beside it.
#pragma once

#include <filesystem>

namespace ar {

// Returns the file that holds the code or data at an address, links resolved; empty where the loader does not know.
std::filesystem::path file_of(const void* address);

// Returns the folder of the library (or program) that this code is part of.
std::filesystem::path own_folder();

}  // namespace ar
