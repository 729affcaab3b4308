#include "sha256.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "failure.h"

namespace aqd {
namespace {

constexpr std::size_t kBlock = 64;
constexpr std::size_t kBuffer = 1 << 18;

constexpr std::uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

inline std::uint32_t rotate(std::uint32_t x, int by) { return (x >> by) | (x << (32 - by)); }

inline std::uint32_t big_endian(const unsigned char* p) {
  std::uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return __builtin_bswap32(word);
}

// One round; the caller renames the eight variables instead of moving them.
inline void mix(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t& d, std::uint32_t e,
                std::uint32_t f, std::uint32_t g, std::uint32_t& h, std::uint32_t input) {
  const std::uint32_t t =
      h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + input;
  d += t;
  h = t + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));
}

// The schedule is kept as a ring of 16 words.
inline std::uint32_t extend(std::uint32_t* w, int i) {
  const std::uint32_t x = w[(i + 1) & 15], y = w[(i + 14) & 15];
  w[i & 15] += (rotate(x, 7) ^ rotate(x, 18) ^ (x >> 3)) + w[(i + 9) & 15] +
               (rotate(y, 17) ^ rotate(y, 19) ^ (y >> 10));
  return w[i & 15];
}

void compress(std::uint32_t* state, const unsigned char* data, std::size_t blocks) {
  for (; blocks; --blocks, data += kBlock) {
    std::uint32_t w[16];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(data + 4 * i);
    std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    std::uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i += 8) {
      const auto word = [&](int j) { return kRound[i + j] + (i < 16 ? w[i + j] : extend(w, i + j)); };
      mix(a, b, c, d, e, f, g, h, word(0));
      mix(h, a, b, c, d, e, f, g, word(1));
      mix(g, h, a, b, c, d, e, f, word(2));
      mix(f, g, h, a, b, c, d, e, word(3));
      mix(e, f, g, h, a, b, c, d, word(4));
      mix(d, e, f, g, h, a, b, c, word(5));
      mix(c, d, e, f, g, h, a, b, word(6));
      mix(b, c, d, e, f, g, h, a, word(7));
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

std::string finish(std::uint32_t* state, const unsigned char* rest, std::size_t count, std::uint64_t bytes) {
  unsigned char tail[2 * kBlock] = {};
  std::memcpy(tail, rest, count);
  tail[count] = 0x80;
  const std::size_t blocks = count + 9 <= kBlock ? 1 : 2;
  const std::uint64_t bits = bytes * 8;
  for (int i = 0; i < 8; ++i) tail[blocks * kBlock - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
  compress(state, tail, blocks);
  char hex[65];
  for (int i = 0; i < 8; ++i) std::snprintf(hex + 8 * i, 9, "%08x", static_cast<unsigned>(state[i]));
  return hex;
}

}  // namespace

Digest digest_of_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw Failure("cannot read " + path + ": " + std::strerror(errno));
  std::uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::vector<unsigned char> buffer(kBuffer);
  std::uint64_t bytes = 0;
  for (;;) {
    const std::size_t count = std::fread(buffer.data(), 1, kBuffer, file.get());
    bytes += count;
    compress(state, buffer.data(), count / kBlock);
    if (count < kBuffer) {
      if (std::ferror(file.get())) throw Failure("cannot read " + path + ": " + std::strerror(errno));
      return {finish(state, buffer.data() + count / kBlock * kBlock, count % kBlock, bytes), bytes};
    }
  }
}

}  // namespace aqd
