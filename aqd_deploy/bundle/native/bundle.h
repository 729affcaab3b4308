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
};

struct Bundle {
  std::string folder;
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

// Throws Failure, naming the file, unless every file of the bundle has its size and hash.
void check_files(const Bundle& bundle, int threads);

}  // namespace aqd
