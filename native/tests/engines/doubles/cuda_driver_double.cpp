// Stands in for the NVIDIA driver's library: two GPUs, of different architectures.
#include <cstring>

#define AR_EXPORTED extern "C" __attribute__((visibility("default")))

AR_EXPORTED int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }
AR_EXPORTED int cuDeviceGetCount(int* count) {
  *count = 2;
  return 0;
}
AR_EXPORTED int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}
AR_EXPORTED int cuDeviceGet(int* device, int index) {
  *device = 7 + index;
  return 0;
}
AR_EXPORTED int cuDeviceGetName(char* name, int size, int device) {
  std::strncpy(name, device == 7 ? "NVIDIA H100 80GB" : "NVIDIA A10", static_cast<std::size_t>(size));
  return 0;
}
AR_EXPORTED int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int sm = device == 7 ? 90 : 86;
  *value = attribute == 75 ? sm / 10 : attribute == 76 ? sm % 10 : -1;
  return 0;
}
