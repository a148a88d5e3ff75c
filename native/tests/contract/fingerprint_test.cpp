// The machine's fingerprint, read from imagined /proc and cgroup files; the cases are those of
// tests/allrounder/test_fingerprint.py.
#include "contract/fingerprint.hpp"

#include <sys/utsname.h>

#include "scratch.hpp"

namespace {

namespace fs = std::filesystem;

class Fingerprint : public scratch::Scratch {
 protected:
  int64_t cores() const { return ar::quota_cores(8, ar::cgroup_quota(root_)); }
  std::string cpu(const std::string& cpuinfo) {
    scratch::write(root_ / "proc/cpuinfo", cpuinfo);
    return ar::cpu_model(root_);
  }
};

TEST_F(Fingerprint, CgroupV2) {
  const std::pair<const char*, int64_t> kCases[] = {{"max 100000\n", 8},
                                                    {"200000 100000\n", 2},
                                                    {"250000 100000", 2},
                                                    {"50000 100000", 1},
                                                    {"99999999 100000", 8},
                                                    {"100000 0", 8},
                                                    {"", 8},
                                                    {"nonsense", 8},
                                                    {"0 100000", 8},
                                                    {"1 2 3", 8}};
  for (const auto& [text, wanted] : kCases) {
    scratch::write(root_ / "sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(cores(), wanted) << text;
  }
}

TEST_F(Fingerprint, CgroupV1) {
  const std::tuple<const char*, const char*, int64_t> kCases[] = {
      {"-1\n", "100000\n", 8}, {"300000\n", "100000\n", 3}, {"1", "0", 8}, {"x", "1", 8}, {"100000", "", 8}};
  for (const auto& [quota, period, wanted] : kCases) {
    scratch::write(root_ / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota);
    scratch::write(root_ / "sys/fs/cgroup/cpu/cpu.cfs_period_us", period);
    EXPECT_EQ(cores(), wanted) << quota;
  }
}

TEST_F(Fingerprint, WithoutCgroupTheAffinityCounts) {
  EXPECT_EQ(cores(), 8);
  EXPECT_EQ(ar::quota_cores(0, std::nullopt), 1);
}

TEST_F(Fingerprint, TheFirstModelNameIsTheCpu) {
  EXPECT_EQ(cpu("processor : 0\nmodel name\t: Some CPU @ 2 GHz \xff\nmodel name : other\n"),
            "Some CPU @ 2 GHz \xef\xbf\xbd");
  EXPECT_EQ(cpu("model name :\nmodel name: second: part"), "second: part");
}

TEST_F(Fingerprint, ElseTheMachineType) {
  utsname names{};
  uname(&names);
  for (const char* text : {"", "model name :\n", "Features : asimd\n", "model name"})
    EXPECT_EQ(cpu(text), names.machine);
}

TEST_F(Fingerprint, TheRealMachine) {
  const ar::Machine here = ar::machine("onnxruntime 1.31.1", 0);
  EXPECT_FALSE(here.cpu.empty());
  EXPECT_GE(here.cores, 1);
  EXPECT_EQ(here.threads, here.cores);
  EXPECT_EQ(here, ar::machine("onnxruntime 1.31.1", 0));
  EXPECT_FALSE(here == ar::machine("onnxruntime 1.31.0", 0));
  EXPECT_EQ(ar::machine("b", 3, "gpu", "570").threads, 3);
  EXPECT_FALSE(here == ar::machine("onnxruntime 1.31.1", 0, "gpu", "570"));
}

}  // namespace
