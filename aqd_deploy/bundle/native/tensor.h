// Tensors in memory and as files: numpy's .npy (versions 1 to 3, C order, little-endian) or raw bytes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace aqd {

// What the manifest says of an input or output. `dtype` is numpy's name, for example uint8.
struct TensorInfo {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

// An element type: bytes of an element, and .npy's code of it.
struct ElementType {
  const char* name;
  char kind;  // i signed, u unsigned, f floating point
  unsigned bytes;
};

// Throws Failure for a dtype that programs do not have.
const ElementType& element_type(const std::string& dtype);

std::size_t bytes_of(const TensorInfo& info);

// "uint8 [1, 3, 320, 320]"
std::string describe(const std::string& dtype, const std::vector<std::int64_t>& shape);

// Memory that starts where generated code and the runtime expect it.
constexpr std::size_t kAlignment = 64;
using Storage = std::unique_ptr<unsigned char, decltype(&std::free)>;
Storage zeros(std::size_t bytes);

// The contents of `path`, which must have exactly the dtype and shape of `info`; a file that is not .npy must
// have exactly its bytes. Throws Failure.
Storage read_tensor(const std::string& path, const TensorInfo& info);

// Writes a .npy file under a temporary name and renames it. Throws Failure.
void write_npy(const std::string& path, const std::string& dtype, const std::vector<std::int64_t>& shape,
               const void* data);

}  // namespace aqd
