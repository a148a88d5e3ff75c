// A library that says it is the OpenVINO that ALLROUNDER_OLD_OPENVINO names, and has nothing else of it.
#include <cstdlib>

#include "engines/openvino/api.hpp"

extern "C" ar::openvino::Status ov_get_openvino_version(ar::openvino::Version* version) {
  version->build = std::getenv("ALLROUNDER_OLD_OPENVINO");
  return 0;
}
extern "C" void ov_version_free(ar::openvino::Version*) {}
