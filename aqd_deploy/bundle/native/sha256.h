// SHA-256 (FIPS 180-4) of memory, and of several equally long pieces at once: that is several times as fast,
// also on CPUs without instructions for it.
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace aqd {

using Digest = std::array<unsigned char, 32>;

constexpr std::size_t kChunk = 1 << 14, kLanes = 16;

Digest digest(const unsigned char* data, std::size_t bytes);

// The digests of `kLanes` pieces of `kChunk` bytes.
void digest_chunks(const unsigned char* const* chunks, Digest* digests);

// Lower-case hexadecimal.
std::string hex(const Digest& digest);

}  // namespace aqd
