// SHA-256 (FIPS 180-4) of a file.
#pragma once

#include <cstdint>
#include <string>

namespace aqd {

struct Digest {
  std::string hex;
  std::uint64_t bytes;
};

// Lower-case hexadecimal digest and size of the file. Throws Failure where it cannot be read.
Digest digest_of_file(const std::string& path);

}  // namespace aqd
