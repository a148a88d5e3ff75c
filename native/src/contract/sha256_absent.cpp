// Processors of which no SHA-256 instructions are known here.
#include "contract/sha256_compress.hpp"

namespace ar {

Sha256Compress accelerated_compress() { return nullptr; }

}  // namespace ar
