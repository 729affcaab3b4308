#include "sha256.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu.h"

namespace aqd {
namespace {

constexpr std::size_t kBlock = 64;
constexpr std::uint32_t kStart[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

constexpr std::uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// A word of each of several messages.
using Eight = std::uint32_t __attribute__((vector_size(32)));
using Sixteen = std::uint32_t __attribute__((vector_size(64)));

#define AQD_INLINE inline __attribute__((always_inline))
AQD_INLINE std::uint32_t big_endian(const unsigned char* p) {
  std::uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return __builtin_bswap32(word);
}

// `Word` is one 32-bit number, or one for each of several messages.
template <typename Word>
AQD_INLINE Word rotate(const Word& x, int by) {
  return (x >> by) | (x << (32 - by));
}

// One round; the caller renames the eight variables instead of moving them.
template <typename Word>
AQD_INLINE void mix(const Word& a, const Word& b, const Word& c, Word& d, const Word& e, const Word& f,
                    const Word& g, Word& h, const Word& input) {
  const Word t = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + input;
  d += t;
  h = t + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));
}

// The schedule is kept as a ring of 16 words.
template <typename Word>
AQD_INLINE Word next_word(Word* w, int i) {
  if (i >= 16) {
    const Word x = w[(i + 1) & 15], y = w[(i + 14) & 15];
    w[i & 15] += (rotate(x, 7) ^ rotate(x, 18) ^ (x >> 3)) + w[(i + 9) & 15] +
                 (rotate(y, 17) ^ rotate(y, 19) ^ (y >> 10));
  }
  return w[i & 15] + kRound[i];
}

template <typename Word>
AQD_INLINE void compress_block(Word* state, Word* w) {
  Word a = state[0], b = state[1], c = state[2], d = state[3];
  Word e = state[4], f = state[5], g = state[6], h = state[7];
  for (int i = 0; i < 64; i += 8) {
    mix(a, b, c, d, e, f, g, h, next_word(w, i));
    mix(h, a, b, c, d, e, f, g, next_word(w, i + 1));
    mix(g, h, a, b, c, d, e, f, next_word(w, i + 2));
    mix(f, g, h, a, b, c, d, e, next_word(w, i + 3));
    mix(e, f, g, h, a, b, c, d, next_word(w, i + 4));
    mix(d, e, f, g, h, a, b, c, next_word(w, i + 5));
    mix(c, d, e, f, g, h, a, b, next_word(w, i + 6));
    mix(b, c, d, e, f, g, h, a, next_word(w, i + 7));
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d;
  state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void compress(std::uint32_t* state, const unsigned char* data, std::size_t blocks) {
  for (; blocks; --blocks, data += kBlock) {
    std::uint32_t w[16];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(data + 4 * i);
    compress_block(state, w);
  }
}

// The states of messages of `kChunk` bytes each, one in every lane of `Words`, to the columns of `states`
// from `first` on.
template <typename Words>
AQD_INLINE void compress_several(std::uint32_t (*states)[kLanes], const unsigned char* const* chunks,
                                 std::size_t first) {
  constexpr std::size_t count = sizeof(Words) / sizeof(std::uint32_t);
  Words state[8];
  for (int i = 0; i < 8; ++i) state[i] = Words{} + kStart[i];
  for (std::size_t at = 0; at < kChunk; at += kBlock) {
    // Through memory: not every compiler inserts elements in registers.
    std::uint32_t words[16][count];
    for (std::size_t lane = 0; lane < count; ++lane) {
      const unsigned char* block = chunks[first + lane] + at;
      for (int i = 0; i < 16; ++i) words[i][lane] = big_endian(block + 4 * i);
    }
    Words w[16];
    std::memcpy(w, words, sizeof w);
    compress_block(state, w);
  }
  // The last block: the end mark, zeros and the length in bits.
  Words w[16] = {};
  w[0] += 0x80000000u;
  w[15] += static_cast<std::uint32_t>(8 * kChunk);
  compress_block(state, w);
  for (int i = 0; i < 8; ++i) std::memcpy(states[i] + first, &state[i], sizeof state[i]);
}

using Compress = void (*)(std::uint32_t (*states)[kLanes], const unsigned char* const* chunks);

AQD_INLINE void compress_halves(std::uint32_t (*states)[kLanes], const unsigned char* const* chunks) {
  compress_several<Eight>(states, chunks, 0);
  compress_several<Eight>(states, chunks, kLanes / 2);
}

void compress_plain(std::uint32_t (*states)[kLanes], const unsigned char* const* chunks) {
  compress_halves(states, chunks);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void compress_avx2(std::uint32_t (*states)[kLanes],
                                                   const unsigned char* const* chunks) {
  compress_halves(states, chunks);
}

__attribute__((target("avx512f"))) void compress_avx512(std::uint32_t (*states)[kLanes],
                                                        const unsigned char* const* chunks) {
  compress_several<Sixteen>(states, chunks, 0);
}
#endif

// The widest of them that this CPU runs. Asked of the CPU itself: not every compiler's library knows.
Compress find_compress() {
#if defined(__x86_64__)
  if (missing_features({"avx512f"}).empty()) return compress_avx512;
  if (missing_features({"avx2"}).empty()) return compress_avx2;
#endif
  return compress_plain;
}

}  // namespace

Digest digest(const unsigned char* data, std::size_t bytes) {
  std::uint32_t state[8];
  std::copy(kStart, kStart + 8, state);
  compress(state, data, bytes / kBlock);
  unsigned char tail[2 * kBlock] = {};
  const std::size_t rest = bytes % kBlock;
  if (rest) std::memcpy(tail, data + bytes - rest, rest);
  tail[rest] = 0x80;
  const std::size_t blocks = rest + 9 <= kBlock ? 1 : 2;
  const std::uint64_t bits = static_cast<std::uint64_t>(bytes) * 8;
  for (int i = 0; i < 8; ++i) tail[blocks * kBlock - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
  compress(state, tail, blocks);
  Digest out;
  for (int i = 0; i < 32; ++i) out[i] = static_cast<unsigned char>(state[i / 4] >> (24 - 8 * (i % 4)));
  return out;
}

void digest_chunks(const unsigned char* const* chunks, Digest* digests) {
  std::uint32_t states[8][kLanes];
  static const Compress compress_chunks = find_compress();
  compress_chunks(states, chunks);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 32; ++i) {
      digests[lane][i] = static_cast<unsigned char>(states[i / 4][lane] >> (24 - 8 * (i % 4)));
    }
  }
}

std::string hex(const Digest& digest) {
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace aqd
