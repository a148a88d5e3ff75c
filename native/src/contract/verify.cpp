// verify_files: two threads that hash, and the caller's that waits for them and tells how far they are.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "contract/error.hpp"
#include "contract/hashing.hpp"
#include "contract/sha256.hpp"
#include "contract/unique_file.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kThreads = 2;  // more than this wait for the disk
constexpr std::size_t kChunk = 1 << 20;
constexpr uint64_t kMiB = 1 << 20;

using Job = std::map<std::string, FileRecord>::const_pointer;

class Verification {
 public:
  Verification(const fs::path& root, const std::map<std::string, FileRecord>& files, const FileStats& found)
      : root_(root), found_(found) {
    for (const auto& file : files) jobs_.push_back(&file);
    std::stable_sort(jobs_.begin(), jobs_.end(), [](Job a, Job b) { return a->second.bytes > b->second.bytes; });
    for (const Job job : jobs_) bytes_ += static_cast<uint64_t>(job->second.bytes);
  }

  std::set<std::string> run(const Progress& progress) {
    Threads threads(*this);
    for (std::size_t i = 0; i < std::min(kThreads, jobs_.size()); ++i) threads.start();
    wait(progress);
    if (error_) std::rethrow_exception(error_);
    return std::move(unchanged_);
  }

 private:
  // Started threads; whatever happens to the caller, they are stopped and awaited.
  class Threads {
   public:
    explicit Threads(Verification& work) : work_(work) {}
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;
    ~Threads() {
      work_.stop();
      for (std::thread& thread : threads_) thread.join();
    }
    void start() {
      work_.enter();
      threads_.emplace_back([this] { work_.work(); });
    }

   private:
    Verification& work_;
    std::vector<std::thread> threads_;
  };

  void enter() {
    const std::lock_guard lock(mutex_);
    ++working_;
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }

  void work() noexcept {
    std::exception_ptr error;
    try {
      std::vector<uint8_t> buffer(kChunk);
      while (const Job job = next()) verify(*job, buffer);
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    if (error && !error_) error_ = error;
    if (error) stopped_ = true;
    --working_;
    changed_.notify_one();
  }

  Job next() {
    const std::lock_guard lock(mutex_);
    return stopped_ || taken_ == jobs_.size() ? nullptr : jobs_[taken_++];
  }

  // Counts what was read; returns whether to go on.
  bool advance(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    changed_.notify_one();
    return !stopped_;
  }

  void verify(const std::pair<const std::string, FileRecord>& job, std::vector<uint8_t>& buffer) {
    const fs::path path = root_ / job.first;
    const UniqueFile file(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!file) throw system_error(path);
    Sha256 digest;
    for (;;) {
      const ssize_t count = read(file.get(), buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw system_error(path);
      if (count == 0) break;
      digest.update(buffer.data(), static_cast<std::size_t>(count));
      if (!advance(static_cast<std::size_t>(count))) return;
    }
    struct stat status{};
    if (fstat(file.get(), &status) != 0) throw system_error(path);
    const std::string hex = digest.hex();
    if (hex != job.second.sha256) {
      throw Error(AR_BUNDLE_CORRUPT, "a file has changed",
                  {path.string(), "sha256 " + hex, "sha256 " + job.second.sha256, "copy or build the bundle again"});
    }
    if (!(FileStat::of(status) == found_.at(job.first))) return;
    const std::lock_guard lock(mutex_);
    unchanged_.insert(job.first);
  }

  // Returns when nothing works any more. The last step is told once all of it is done.
  void wait(const Progress& progress) {
    const auto total = static_cast<int64_t>((bytes_ + kMiB - 1) / kMiB);
    std::unique_lock lock(mutex_);
    for (uint64_t told = 0; working_ > 0;) {
      changed_.wait(lock, [&] { return working_ == 0 || done_ != told; });
      told = done_;
      lock.unlock();
      if (total > 0) tell(progress, kTask, std::min(static_cast<int64_t>(told / kMiB), total - 1), total);
      lock.lock();
    }
    if (total > 0 && !error_) tell(progress, kTask, total, total);
  }

  static constexpr const char* kTask = "verifying (MiB)";
  const fs::path& root_;
  const FileStats& found_;
  std::vector<Job> jobs_;
  uint64_t bytes_ = 0;

  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::size_t working_ = 0, taken_ = 0;
  uint64_t done_ = 0;
  bool stopped_ = false;
  std::set<std::string> unchanged_;
  std::exception_ptr error_;
};

}  // namespace

std::set<std::string> verify_files(const fs::path& root, const std::map<std::string, FileRecord>& files,
                                   const FileStats& found, const Progress& progress) {
  return Verification(root, files, found).run(progress);
}

}  // namespace ar
