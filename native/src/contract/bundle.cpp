#include "contract/bundle.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <system_error>
#include <tuple>

#include "contract/consistency.hpp"
#include "contract/error.hpp"
#include "contract/hashing.hpp"
#include "contract/sha256.hpp"
#include "contract/stamps.hpp"
#include "contract/unique_file.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr const char *kManifest = "manifest.json", *kDigest = "manifest.sha256", *kJournal = "manifest.sha256.next";
constexpr int kAttempts = 5;  // more publishes than this during one opening are not an accident
constexpr const char* kAgain = "copy or build the bundle again";

// The content of the three files that say what a bundle is; nothing where there is none.
struct Heads {
  std::optional<std::string> manifest, digest, journal;
  bool operator==(const Heads& other) const {
    return std::tie(manifest, digest, journal) == std::tie(other.manifest, other.digest, other.journal);
  }
};

// A publish that has begun: the next manifest's digest, and the files that come or go.
struct Journal {
  std::string digest;
  std::vector<std::string> files;
};

std::optional<std::string> read_small(const fs::path& path) {
  // Without waiting, as a pipe in its place has no writer.
  const UniqueFile file(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!file && errno == ENOENT) return std::nullopt;
  if (!file) throw system_error(path);
  struct stat status{};
  if (fstat(file.get(), &status) != 0) throw system_error(path);
  if (S_ISDIR(status.st_mode)) return std::nullopt;
  if (!S_ISREG(status.st_mode)) refuse_special(path, false);
  std::string data;
  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ssize_t count = read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw system_error(path);
    if (count == 0) return data;
    data.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

Heads read_heads(const fs::path& root) {
  struct stat status{};
  const bool there = stat(root.c_str(), &status) == 0;
  if (!there && errno != ENOENT && errno != ENOTDIR) throw system_error(root);
  if (!there || !S_ISDIR(status.st_mode)) {
    throw Error(AR_BUNDLE_ERROR, there ? "a bundle is a directory" : "there is no such directory",
                {root.string(), "", "", "give the directory that `allrounder build` wrote"});
  }
  return {read_small(root / kManifest), read_small(root / kDigest), read_small(root / kJournal)};
}

bool is_hex(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string read_digest(const fs::path& root, const std::optional<std::string>& data) {
  const std::string where = (root / kDigest).string();
  if (!data) throw Error(AR_BUNDLE_CORRUPT, "the manifest's digest is missing", {where, "", "", kAgain});
  const bool spaced =
      data->size() == 65 && std::string_view(" \t\n\r\f\v").find(data->back()) != std::string_view::npos;
  const std::string digest = data->substr(0, spaced ? 64 : data->size());
  if (is_hex(digest)) return digest;
  throw Error(AR_BUNDLE_CORRUPT, "the manifest's digest is not one",
              {where, quoted(*data, 100), "64 lower-case hex digits", kAgain});
}

std::optional<Journal> read_journal(const fs::path& root, const std::optional<std::string>& data) {
  if (!data) return std::nullopt;
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t end; (end = data->find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(data->substr(begin, end - begin));
  const std::string where = (root / kJournal).string();
  if (lines.empty() || !is_hex(lines[0]) || begin != data->size())
    throw Error(AR_BUNDLE_CORRUPT, "the journal of a publish is damaged", {where, "", "", kAgain});
  Journal journal{lines[0], {lines.begin() + 1, lines.end()}};
  for (const std::string& path : journal.files) check_path(path, where);
  return journal;
}

// Returns the digest of the manifest, which one of those that speak of it says.
std::string accept(const fs::path& root, const std::string& manifest, const std::string& digest,
                   const std::optional<Journal>& journal) {
  const std::string is = sha256_hex(manifest);
  if (is == digest || (journal && is == journal->digest)) return is;
  throw Error(AR_BUNDLE_CORRUPT, "the manifest has changed",
              {(root / kManifest).string(), "sha256 " + is,
               "sha256 " + digest + (journal ? " or " + journal->digest : ""), kAgain});
}

void refuse_unlisted(const fs::path& root, const Manifest& manifest, const FileStats& found,
                     const std::optional<Journal>& journal) {
  std::vector<std::string> known = {kManifest, kDigest, kJournal};
  if (journal) known.insert(known.end(), journal->files.begin(), journal->files.end());
  std::sort(known.begin(), known.end());
  std::string names;
  int count = 0;
  for (const auto& [path, state] : found) {
    if (manifest.files.count(path) || std::binary_search(known.begin(), known.end(), path)) continue;
    if (++count > 5) break;
    names += (names.empty() ? "" : ", ") + quoted(path);
  }
  if (count == 0) return;
  throw Error(AR_BUNDLE_CORRUPT, "there are files that the manifest does not list",
              {root.string(), names + (count > 5 ? " ..." : ""), "", "move them out of the bundle"});
}

// Returns what lies in the directory, after refusing missing, misshapen and unlisted files.
FileStats list_checked(const fs::path& root, const Manifest& manifest, const std::optional<Journal>& journal) {
  const std::string where = (root / kManifest).string();
  for (const auto& [path, record] : manifest.files) {
    check_path(path, where);
    if (path == kManifest || path == kDigest || path == kJournal)
      throw Error(AR_BUNDLE_CORRUPT, "the manifest lists itself", {where, path, "", ""});
  }
  FileStats found = list_files(root);
  check_files(root, manifest.files, found);
  refuse_unlisted(root, manifest, found, journal);
  return found;
}

// Hashes the files that this user has not hashed in this state before.
void verify(const fs::path& root, const Manifest& manifest, const FileStats& found, const Progress& progress,
            const Log& log) {
  Digests known = read_stamp(root, found);
  std::map<std::string, FileRecord> unknown;
  for (const auto& [path, record] : manifest.files) {
    const auto stamped = known.find(path);
    if (stamped == known.end() || stamped->second != record.sha256) unknown.emplace(path, record);
  }
  if (unknown.empty()) return;
  const std::set<std::string> unchanged = verify_files(root, unknown, found, progress);
  Digests digests;
  for (const auto& [path, record] : manifest.files) {
    if (unknown.count(path) == 0 || unchanged.count(path) > 0) digests[path] = record.sha256;
  }
  write_stamp(root, digests, found, log);
}

OpenBundle open(const fs::path& root, const Heads& heads, const Progress& progress, const Log& log) {
  const std::string where = (root / kManifest).string();
  if (!heads.manifest) {
    throw Error(AR_BUNDLE_CORRUPT, "this is not a bundle: it has no manifest",
                {where, "", "", "give the directory that `allrounder build` wrote"});
  }
  check_schema(*heads.manifest, where);
  const std::string said = read_digest(root, heads.digest);
  const std::optional<Journal> journal = read_journal(root, heads.journal);
  const std::string digest = accept(root, *heads.manifest, said, journal);
  Manifest manifest = decode_manifest(*heads.manifest, where);
  check_manifest(manifest, where);
  const FileStats found = list_checked(root, manifest, journal);
  verify(root, manifest, found, progress, log);
  return {root, std::move(manifest), *heads.manifest, digest};
}

// Returns whether an attempt may have failed because a publish ran beside it.
bool may_be_a_publish(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return error.status() == AR_BUNDLE_CORRUPT;
  } catch (const std::system_error& error) {
    return error.code() == std::errc::no_such_file_or_directory;
  } catch (...) {
    return false;
  }
}

OpenBundle open_settled(const fs::path& root, const Progress& progress, const Log& log) {
  Heads heads = read_heads(root);
  for (int attempt = 1; attempt < kAttempts; ++attempt) {
    std::exception_ptr failure;
    try {
      return open(root, heads, progress, log);
    } catch (...) {
      failure = std::current_exception();
    }
    if (!may_be_a_publish(failure)) std::rethrow_exception(failure);
    Heads now = read_heads(root);
    if (now == heads) std::rethrow_exception(failure);
    heads = std::move(now);
  }
  return open(root, heads, progress, log);
}

}  // namespace

OpenBundle open_bundle(const fs::path& path, const Progress& progress, const Log& log) {
  std::error_code unresolved;
  fs::path root = fs::weakly_canonical(fs::absolute(path, unresolved), unresolved);
  if (unresolved) root = path;
  try {
    return open_settled(root, progress, log);
  } catch (const std::system_error& error) {
    throw Error(AR_BUNDLE_ERROR, "the bundle cannot be read", {root.string(), error.what(), "", ""});
  }
}

}  // namespace ar
