// How many threads this process has use for, as aqd_deploy/targets/threads.py reads it.
#pragma once

#include <string>

namespace aqd {

struct ThreadLimits {
  int affinity = 1;  // CPUs to run on
  double quota = 0;  // CPUs' time that the control groups grant; 0: no limit
  int openmp = 0;    // what OMP_NUM_THREADS says; 0: not set, or no number

  // The most threads that are of use: the quota counts rounded up.
  int available() const;

  // A JSON object.
  std::string json() const;
};

// The limits of this process. `root` is the folder of `proc` and of what is mounted.
ThreadLimits thread_limits(const std::string& root = "");

// The number in OMP_NUM_THREADS, of a list the first; 0 for anything else, and for nullptr.
int parse_openmp(const char* text);

}  // namespace aqd
