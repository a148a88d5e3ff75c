// The commands of allrounder-native; each takes the words after its name.
#pragma once

#include <string>
#include <vector>

namespace tool {

using Line = std::vector<std::string>;

void run(const Line& line);      // one question
void ask(const Line& line);      // many, as JSON lines
void inspect(const Line& line);  // what a bundle holds

}  // namespace tool
