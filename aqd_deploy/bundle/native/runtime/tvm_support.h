// What the runtime's sources use of TVM's `support` folder, which its packages do not carry: streams of bytes,
// the serialized form of a few types (little-endian, sizes as 64 bits), and names of things that a device does
// not need.
#pragma once

#include <dlpack/dlpack.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace tvm {
namespace support {

template <typename T, typename = void>
struct Serializer;

class Stream {
 public:
  virtual ~Stream() = default;
  // Both return the number of bytes that were moved.
  virtual std::size_t Read(void* data, std::size_t size) = 0;
  virtual std::size_t Write(const void* data, std::size_t size) = 0;

  template <typename T>
  bool Read(T* value) {
    return Serializer<T>::Read(this, value);
  }
  template <typename T>
  void Write(const T& value) {
    Serializer<T>::Write(this, value);
  }
  template <typename T>
  bool ReadArray(T* values, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      if (!Read(values + i)) return false;
    }
    return true;
  }
  template <typename T>
  void WriteArray(const T* values, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) Write(values[i]);
  }
};

// Numbers and DLPack's plain structures are written as they lie in memory.
template <typename T>
struct Serializer<T, std::enable_if_t<std::is_arithmetic_v<T> || std::is_enum_v<T> ||
                                      std::is_same_v<T, DLDataType> || std::is_same_v<T, DLDevice>>> {
  static bool Read(Stream* stream, T* value) { return stream->Read(static_cast<void*>(value), sizeof(T)) == sizeof(T); }
  static void Write(Stream* stream, const T& value) { stream->Write(static_cast<const void*>(&value), sizeof(T)); }
};

template <>
struct Serializer<std::string> {
  static bool Read(Stream* stream, std::string* value) {
    std::uint64_t size = 0;
    if (!stream->Read(&size)) return false;
    value->resize(static_cast<std::size_t>(size));
    return stream->Read(static_cast<void*>(&(*value)[0]), value->size()) == value->size();
  }
  static void Write(Stream* stream, const std::string& value) {
    stream->Write(static_cast<std::uint64_t>(value.size()));
    stream->Write(static_cast<const void*>(value.data()), value.size());
  }
};

template <>
struct Serializer<ffi::String> {
  static bool Read(Stream* stream, ffi::String* value) {
    std::string text;
    if (!stream->Read(&text)) return false;
    *value = ffi::String(text);
    return true;
  }
  static void Write(Stream* stream, const ffi::String& value) { stream->Write(std::string(value)); }
};

template <typename T>
struct Serializer<std::vector<T>> {
  static bool Read(Stream* stream, std::vector<T>* values) {
    std::uint64_t size = 0;
    if (!stream->Read(&size)) return false;
    values->resize(static_cast<std::size_t>(size));
    return stream->ReadArray(values->data(), values->size());
  }
  static void Write(Stream* stream, const std::vector<T>& values) {
    stream->Write(static_cast<std::uint64_t>(values.size()));
    stream->WriteArray(values.data(), values.size());
  }
};

template <typename T>
struct Serializer<ffi::Array<T>> {
  static bool Read(Stream* stream, ffi::Array<T>* values) {
    std::uint64_t size = 0;
    if (!stream->Read(&size)) return false;
    values->clear();
    for (std::uint64_t i = 0; i < size; ++i) {
      T value;
      if (!stream->Read(&value)) return false;
      values->push_back(value);
    }
    return true;
  }
  static void Write(Stream* stream, const ffi::Array<T>& values) {
    stream->Write(static_cast<std::uint64_t>(values.size()));
    for (const T& value : values) stream->Write(value);
  }
};

// Reads from bytes that the caller keeps.
class BytesInStream : public Stream {
 public:
  using Stream::Read;
  using Stream::Write;
  explicit BytesInStream(const std::string& bytes) : at_(bytes.data()), left_(bytes.size()) {}
  explicit BytesInStream(const ffi::Bytes& bytes) : at_(bytes.data()), left_(bytes.size()) {}

  std::size_t Read(void* data, std::size_t size) override {
    const std::size_t count = std::min(size, left_);
    if (count) std::memcpy(data, at_, count);
    at_ += count;
    left_ -= count;
    return count;
  }
  std::size_t Write(const void*, std::size_t) override { throw std::logic_error("a stream to read from"); }

 private:
  const char* at_;
  std::size_t left_;
};

class BytesOutStream : public Stream {
 public:
  using Stream::Read;
  using Stream::Write;
  explicit BytesOutStream(std::string* bytes) : bytes_(bytes) {}

  std::size_t Read(void*, std::size_t) override { throw std::logic_error("a stream to write to"); }
  std::size_t Write(const void* data, std::size_t size) override {
    bytes_->append(static_cast<const char*>(data), size);
    return size;
  }

 private:
  std::string* bytes_;
};

// Tensors in JSON need it; programs have none.
class Base64Stream : public Stream {
 public:
  using Stream::Read;
  using Stream::Write;
  explicit Base64Stream(Stream*) { throw std::logic_error("this runtime has no base 64"); }
  std::size_t Read(void*, std::size_t) override { return 0; }
  std::size_t Write(const void*, std::size_t) override { return 0; }
  void InitPosition() {}
  void Finish() {}
};
using Base64InStream = Base64Stream;
using Base64OutStream = Base64Stream;

// Marks for a profiler of GPUs.
struct NVTXScopedRange {
  explicit NVTXScopedRange(const std::string&) {}
};

inline bool IsNumber(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

}  // namespace support
}  // namespace tvm
