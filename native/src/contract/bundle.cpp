#include "contract/bundle.hpp"

#include <optional>
#include <string_view>
#include <system_error>

#include "contract/error.hpp"
#include "contract/files.hpp"
#include "contract/json_reader.hpp"
#include "contract/sha256.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPointer = "bundle.json";
constexpr std::string_view kBefore = "manifest-", kAfter = ".json";  // around the digest in a manifest's name
constexpr int kAttempts = 5;  // more publishes than this during one opening are not an accident
constexpr const char* kAgain = "copy or build the bundle again";
constexpr const char* kGive = "give the directory that `allrounder build` wrote";

std::string read_pointer(const fs::path& root) {
  const fs::file_status status = fs::status(root);
  if (!fs::is_directory(status)) {
    throw Error(AR_BUNDLE_ERROR, fs::exists(status) ? "a bundle is a directory" : "there is no such directory",
                {root.string(), "", "", kGive});
  }
  const fs::path path = root / kPointer;
  if (std::optional<std::string> pointer = read_regular(path)) return *std::move(pointer);
  throw Error(AR_BUNDLE_CORRUPT, "this is not a bundle: it has no bundle.json", {path.string(), "", "", kGive});
}

// Returns the digest in a manifest's name.
std::string read_digest(const JsonView& view) {
  const std::string name = read_text(view);
  const std::size_t around = kBefore.size() + kAfter.size();
  if (name.size() == around + 64 && name.compare(0, kBefore.size(), kBefore) == 0 &&
      name.compare(name.size() - kAfter.size(), kAfter.size(), kAfter) == 0) {
    std::string digest = name.substr(kBefore.size(), 64);
    if (digest.find_first_not_of("0123456789abcdef") == std::string::npos) return digest;
  }
  view.refuse("Expected manifest-DIGEST.json with 64 lower-case hex digits, got " + quoted(name, 100));
}

std::string digest_in(const std::string& pointer, const std::string& where) {
  const Json json = parse_json(pointer, where);
  const JsonView view(json, where);
  JsonFields fields(view);
  std::string digest;
  fields.need("manifest", digest, read_digest);
  fields.close();
  return digest;
}

OpenBundle open(const fs::path& root, const std::string& pointer) {
  const std::string digest = digest_in(pointer, (root / kPointer).string());
  const fs::path path = root / std::string(kBefore).append(digest).append(kAfter);
  const std::string where = path.string();
  std::optional<std::string> json = read_regular(path);
  if (!json) throw Error(AR_BUNDLE_CORRUPT, "the manifest is missing", {where, "", "", kAgain});
  check_schema(*json, where);
  const std::string is = sha256_hex(*json);
  if (is != digest) {
    throw Error(AR_BUNDLE_CORRUPT, "the manifest has changed", {where, "sha256 " + is, "sha256 " + digest, kAgain});
  }
  Manifest manifest = decode_manifest(*json, where);
  check_manifest(manifest, where);
  check_files(root, manifest.files);
  return {root, std::move(manifest), *std::move(json)};
}

// Opens what the pointer says. Where that is damaged and the pointer is another by now, a publish has replaced the
// bundle meanwhile, and it starts again.
OpenBundle open_settled(const fs::path& root) {
  std::string pointer = read_pointer(root);
  for (int attempt = 1;; ++attempt) {
    try {
      return open(root, pointer);
    } catch (const Error& error) {
      if (error.status() != AR_BUNDLE_CORRUPT || attempt == kAttempts) throw;
      std::string now = read_pointer(root);
      if (now == pointer) throw;
      pointer = std::move(now);
    }
  }
}

}  // namespace

OpenBundle open_bundle(const fs::path& path) {
  std::error_code unresolved;
  fs::path root = fs::weakly_canonical(fs::absolute(path, unresolved), unresolved);
  if (unresolved) root = path;
  try {
    return open_settled(root);
  } catch (const std::system_error& error) {
    throw Error(AR_BUNDLE_ERROR, "the bundle cannot be read", {root.string(), error.what(), "", ""});
  }
}

}  // namespace ar
