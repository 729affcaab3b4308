// The folder that the runner lies in: its manifest, and the check that every file is what `package` wrote.
#pragma once

#include <string>
#include <vector>

#include "tensor.h"

namespace aqd {

struct BundleFile {
  std::string path;  // relative to the folder
  std::string sha256;
  std::string tree;  // the SHA-256 of the SHA-256 of its chunks of `kChunk` bytes
  std::uint64_t bytes;
  int descriptor;  // of the open file, once it was checked
};

// One launch of a function of a card. Pointers are bytes of the program's memory, -1 for none.
struct Launch {
  std::size_t function;
  unsigned grid, threads, shared;
  std::vector<std::int64_t> pointers;
  std::vector<std::int32_t> numbers;
};

// What a program for a card does: its memory begins with what it stores, behind its code in program.so;
// `prepare` runs once.
struct Launches {
  std::uint64_t code_bytes = 0, stored_bytes = 0, memory_bytes = 0;
  std::vector<std::string> functions;
  std::vector<Launch> prepare, run;
  std::vector<std::uint64_t> inputs, outputs;  // where they begin
};

struct Bundle {
  std::string folder;
  std::string card;  // the architecture of a card, empty where the CPU runs the program
  Launches launches;
  std::string target, architecture;
  std::vector<std::string> features;
  std::vector<std::string> libraries;  // in the order in which they are loaded
  std::vector<TensorInfo> inputs, outputs;
  std::vector<BundleFile> files;
  int threads = 1;
};

// Reads manifest.json in `folder` after comparing it with manifest.sha256. Throws Failure.
Bundle read_bundle(const std::string& folder);

// Throws Failure unless the bundle is for this runner's architecture and this CPU.
void check_cpu(const Bundle& bundle);

// Throws Failure, naming the file, unless every file of the bundle has its size and hash. They stay open.
void check_files(Bundle& bundle, int threads);

// The name of a checked file of the bundle, whatever lies at `path` by now. Throws Failure for any other file.
std::string checked_path(const Bundle& bundle, const std::string& path);

}  // namespace aqd
