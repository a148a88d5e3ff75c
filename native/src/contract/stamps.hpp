// Stamps: this user has already hashed those files on this machine. The files of allrounder/stamps.py: what one
// language stamps, the other believes.
//
// What it is: a small file per bundle in the user's cache that holds, for every file that was hashed, its digest beside
// device, inode, size, mtime and ctime.
// What it knows: that a file of the same state has the same content (ctime cannot be set back). It guards against
// accident, not against someone who can write your files. What it does not know: how a bundle is verified.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "contract/hashing.hpp"
#include "contract/progress.hpp"

namespace ar {

using Digests = std::map<std::string, std::string>;

// Returns the digests of those files below `root` that are still what this user has hashed before.
Digests read_stamp(const std::filesystem::path& root, const FileStats& found);

// Remembers the files below `root` that have these digests in this state; says so in the log where it cannot. A path
// that is no UTF-8 gets no stamp.
void write_stamp(const std::filesystem::path& root, const Digests& digests, const FileStats& found, const Log& log);

}  // namespace ar
