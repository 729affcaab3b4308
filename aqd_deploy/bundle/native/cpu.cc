#include "cpu.h"

#include <cerrno>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#else
#include <sys/auxv.h>
#endif

// An architecture is one section here: its name, as in targets/architectures.py, and the features that
// programs for it may demand.

namespace aqd {
namespace {

#if defined(__x86_64__)

constexpr char kArchitecture[] = "x86_64";

enum Register { eax, ebx, ecx, edx };
// Registers that the operating system must save, as bits of XCR0.
constexpr std::uint64_t kNone = 0, kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;

struct Feature {
  const char* name;
  unsigned leaf, subleaf;
  Register where;
  unsigned bit;
  std::uint64_t state;
};

constexpr Feature kFeatures[] = {
    {"sse", 1, 0, edx, 25, kNone},
    {"sse2", 1, 0, edx, 26, kNone},
    {"pni", 1, 0, ecx, 0, kNone},
    {"ssse3", 1, 0, ecx, 9, kNone},
    {"fma", 1, 0, ecx, 12, kYmm},
    {"cx16", 1, 0, ecx, 13, kNone},
    {"sse4_1", 1, 0, ecx, 19, kNone},
    {"sse4_2", 1, 0, ecx, 20, kNone},
    {"movbe", 1, 0, ecx, 22, kNone},
    {"popcnt", 1, 0, ecx, 23, kNone},
    {"avx", 1, 0, ecx, 28, kYmm},
    {"f16c", 1, 0, ecx, 29, kYmm},
    {"bmi1", 7, 0, ebx, 3, kNone},
    {"avx2", 7, 0, ebx, 5, kYmm},
    {"bmi2", 7, 0, ebx, 8, kNone},
    {"avx512f", 7, 0, ebx, 16, kZmm},
    {"avx512dq", 7, 0, ebx, 17, kZmm},
    {"avx512ifma", 7, 0, ebx, 21, kZmm},
    {"avx512cd", 7, 0, ebx, 28, kZmm},
    {"avx512bw", 7, 0, ebx, 30, kZmm},
    {"avx512vl", 7, 0, ebx, 31, kZmm},
    {"avx512vbmi", 7, 0, ecx, 1, kZmm},
    {"avx512_vbmi2", 7, 0, ecx, 6, kZmm},
    {"gfni", 7, 0, ecx, 8, kNone},
    {"vaes", 7, 0, ecx, 9, kYmm},
    {"vpclmulqdq", 7, 0, ecx, 10, kYmm},
    {"avx512_vnni", 7, 0, ecx, 11, kZmm},
    {"avx512_bitalg", 7, 0, ecx, 12, kZmm},
    {"avx512_vpopcntdq", 7, 0, ecx, 14, kZmm},
    {"avx512_fp16", 7, 0, edx, 23, kZmm},
    {"amx_tile", 7, 0, edx, 24, kTiles},
    {"amx_int8", 7, 0, edx, 25, kTiles},
    {"avx_vnni", 7, 1, eax, 4, kYmm},
    {"avx512_bf16", 7, 1, eax, 5, kZmm},
    {"lahf_lm", 0x80000001, 0, ecx, 0, kNone},
    {"abm", 0x80000001, 0, ecx, 5, kNone},
};

// What the operating system saves at a context switch; 0 where it does not say.
std::uint64_t saved_state() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
  std::uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

// Linux lets a process use tile registers only once it has asked, and then all its threads, for good. Why it
// refuses, "" where it does not.
std::string ask_for_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return "";
  if (errno == ENOSPC) return "AMX: a thread's signal stack has no room for the tile registers";
  return std::string("AMX: the kernel refused (") + std::strerror(errno) + ")";
#else
  return "AMX: this operating system does not lend it";
#endif
}

const std::string& tiles_refusal() {
  static const std::string refusal = ask_for_tiles();
  return refusal;
}

// Whether the CPU and the operating system have it.
bool offered(const Feature& feature) {
  unsigned values[4] = {};
  if (!__get_cpuid_count(feature.leaf, feature.subleaf, &values[eax], &values[ebx], &values[ecx],
                         &values[edx])) {
    return false;
  }
  return (values[feature.where] >> feature.bit & 1) && (saved_state() & feature.state) == feature.state;
}

std::string refusal(const Feature& feature) { return feature.state == kTiles ? tiles_refusal() : ""; }

#else

// Bits of the auxiliary vector, as <asm/hwcap.h> of the kernel numbers them.
struct Feature {
  const char* name;
  unsigned long vector;
  unsigned bit;
};

#if defined(__aarch64__)

constexpr char kArchitecture[] = "aarch64";

constexpr Feature kFeatures[] = {
    {"fp", AT_HWCAP, 0},       {"asimd", AT_HWCAP, 1},     {"aes", AT_HWCAP, 3},
    {"pmull", AT_HWCAP, 4},    {"sha1", AT_HWCAP, 5},      {"sha2", AT_HWCAP, 6},
    {"crc32", AT_HWCAP, 7},    {"atomics", AT_HWCAP, 8},   {"fphp", AT_HWCAP, 9},
    {"asimdhp", AT_HWCAP, 10}, {"asimdrdm", AT_HWCAP, 12}, {"jscvt", AT_HWCAP, 13},
    {"fcma", AT_HWCAP, 14},    {"lrcpc", AT_HWCAP, 15},    {"dcpop", AT_HWCAP, 16},
    {"asimddp", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22},      {"asimdfhm", AT_HWCAP, 23},
    {"flagm", AT_HWCAP, 27},   {"sb", AT_HWCAP, 29},
    {"sve2", AT_HWCAP2, 1},    {"svei8mm", AT_HWCAP2, 9},  {"i8mm", AT_HWCAP2, 13},
    {"bf16", AT_HWCAP2, 14},
};

#elif defined(__arm__)

constexpr char kArchitecture[] = "armv7";

constexpr Feature kFeatures[] = {
    {"half", AT_HWCAP, 1},  {"thumb", AT_HWCAP, 2},  {"vfp", AT_HWCAP, 6},    {"edsp", AT_HWCAP, 7},
    {"neon", AT_HWCAP, 12}, {"vfpv3", AT_HWCAP, 13}, {"vfpv4", AT_HWCAP, 16}, {"idiva", AT_HWCAP, 17},
    {"idivt", AT_HWCAP, 18}, {"vfpd32", AT_HWCAP, 19}, {"asimddp", AT_HWCAP, 24},
};

#else
#error "aqd-run does not know this architecture: it needs a section in cpu.cc"
#endif

bool offered(const Feature& feature) { return getauxval(feature.vector) >> feature.bit & 1; }

std::string refusal(const Feature&) { return ""; }

#endif

}  // namespace

const char* architecture() { return kArchitecture; }

std::vector<std::string> missing_features(const std::vector<std::string>& features) {
  std::vector<std::string> missing;
  for (const std::string& name : features) {
    bool found = false;
    for (const Feature& feature : kFeatures) {
      found |= name == feature.name && offered(feature) && refusal(feature).empty();
    }
    if (!found) missing.push_back(name);
  }
  return missing;
}

std::string withheld(const std::string& name) {
  for (const Feature& feature : kFeatures) {
    if (name == feature.name && offered(feature)) return refusal(feature);
  }
  return "";
}

}  // namespace aqd
