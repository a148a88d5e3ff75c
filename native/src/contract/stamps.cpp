#include "contract/stamps.hpp"

#include <chrono>
#include <fstream>
#include <iterator>

#include "contract/error.hpp"
#include "contract/json_reader.hpp"
#include "contract/sha256.hpp"
#include "contract/user_dirs.hpp"
#include "text/utf8.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

// The kernel's clock for file times ticks every few milliseconds: two writes within one tick look alike. A file younger
// than this is not stamped, so that a second write in the same tick cannot hide behind it.
constexpr int64_t kSettledNs = 200'000'000;

struct Seen {
  std::string sha256;
  FileStat state;
};

struct Stamp {
  std::string path;
  std::map<std::string, Seen> files;
};

const Json::Items& items(const JsonView& view, std::size_t count) {
  if (view.items().size() != count) view.refuse("Expected `array` of length " + std::to_string(count));
  return view.items();
}

FileStat read_state(const JsonView& view) {
  const Json::Items& values = items(view, 5);
  return {read_uint64(view.item(0, values[0])), read_uint64(view.item(1, values[1])),
          read_int64(view.item(2, values[2])), read_int64(view.item(3, values[3])),
          read_int64(view.item(4, values[4]))};
}

Seen read_seen(const JsonView& view) {
  const Json::Items& values = items(view, 2);
  return {read_text(view.item(0, values[0])), read_state(view.item(1, values[1]))};
}

// Reads a stamp. Throws AR_BUNDLE_CORRUPT where it is none.
Stamp decode(const fs::path& place) {
  std::ifstream file(place, std::ios::binary);
  const std::string data(std::istreambuf_iterator<char>(file), {});
  const std::string where = place.string();
  const Json root = parse_json(data, where);
  const JsonView view(root, where);
  JsonFields fields(view);
  Stamp stamp;
  fields.need("path", stamp.path, read_text);
  fields.need("files", stamp.files, table(read_seen));
  fields.close();
  return stamp;
}

std::string encode(const fs::path& root, const Digests& digests, const FileStats& found) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  std::string files;
  for (const auto& [path, digest] : digests) {
    const FileStat& state = found.at(path);
    if (state.ctime_ns > now_ns - kSettledNs) continue;
    std::string numbers = std::to_string(state.device) + "," + std::to_string(state.inode);
    for (const int64_t number : {state.size, state.mtime_ns, state.ctime_ns}) numbers += "," + std::to_string(number);
    files += (files.empty() ? "" : ",") + json_string(path) + ":[" + json_string(digest) + ",[" + numbers + "]]";
  }
  return "{\"path\":" + json_string(root.string()) + ",\"files\":{" + files + "}}";
}

fs::path place_of(const fs::path& cache, const fs::path& root) {
  return cache / "stamps" / (sha256_hex(root.string()) + ".json");
}

bool of_a_bundle_that_is_there(const fs::path& place) {
  try {
    std::error_code ignored;
    return fs::is_directory(decode(place).path, ignored);
  } catch (const Error&) {
    return false;
  }
}

// Removes the stamps of bundles that are gone.
void sweep(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator file(folder, error), end; !error && file != end; file.increment(error)) {
    std::error_code ignored;  // another process may have removed it
    if (file->path().extension() == ".json" && !of_a_bundle_that_is_there(file->path()))
      fs::remove(file->path(), ignored);
  }
}

}  // namespace

Digests read_stamp(const fs::path& root, const FileStats& found) {
  const std::optional<fs::path> cache = cache_dir();
  Digests digests;
  if (!cache || !utf8::valid(root.string())) return digests;
  try {
    const Stamp stamp = decode(place_of(*cache, root));
    if (stamp.path != root.string()) return digests;
    for (const auto& [path, seen] : stamp.files) {
      const auto now = found.find(path);
      if (now != found.end() && now->second == seen.state) digests[path] = seen.sha256;
    }
  } catch (const Error&) {
    digests.clear();  // no stamp, or none that can be read: everything is hashed
  }
  return digests;
}

void write_stamp(const fs::path& root, const Digests& digests, const FileStats& found, const Log& log) {
  const std::optional<fs::path> cache = cache_dir();
  const std::string hashed = quoted(root.string(), 1000) + " is hashed at every load: ";
  if (!cache) return tell(log, Level::kInfo, hashed + "this user has no home directory for its stamp");
  if (!utf8::valid(root.string())) return tell(log, Level::kInfo, hashed + "its path is not UTF-8");
  const fs::path place = place_of(*cache, root);
  if (!write_whole(place, encode(root, digests, found)))
    return tell(log, Level::kInfo, hashed + "its stamp cannot be written to " + place.string());
  sweep(place.parent_path());
}

}  // namespace ar
