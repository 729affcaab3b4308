// What the CPU can do, asked of the CPU itself or of the kernel's auxiliary vector: under user-mode emulation
// /proc/cpuinfo describes the machine outside.
#pragma once

#include <string>
#include <vector>

namespace aqd {

// The architecture that this runner was compiled for, as programs name it.
const char* architecture();

// Those of `features` (in the spelling of /proc/cpuinfo) that this CPU, or the kernel, does not offer. A name
// that the runner does not know counts as missing.
std::vector<std::string> missing_features(const std::vector<std::string>& features);

// Why this process may not use the feature `name`, which the CPU has; "" where that is not so.
std::string withheld(const std::string& name);

}  // namespace aqd
