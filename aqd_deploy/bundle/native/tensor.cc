#include "tensor.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "failure.h"

namespace aqd {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr std::size_t kMagicBytes = 6;

constexpr ElementType kTypes[] = {
    {"uint8", 'u', 1}, {"int8", 'i', 1},   {"uint16", 'u', 2}, {"int16", 'i', 2},   {"uint32", 'u', 4},
    {"int32", 'i', 4}, {"uint64", 'u', 8}, {"int64", 'i', 8},  {"float32", 'f', 4}, {"float64", 'f', 8},
};

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

struct NpyHeader {
  std::string code, shape;
  bool c_order;
};

// What stands behind 'key': in the header, a Python dictionary in text form.
std::string entry(const std::string& header, const std::string& key, const std::string& path) {
  const std::size_t found = header.find("'" + key + "'");
  const std::size_t colon = found == std::string::npos ? found : header.find(':', found);
  if (colon == std::string::npos) throw Failure(path + " is not a valid .npy file: its header has no " + key);
  const std::size_t begin = header.find_first_not_of(' ', colon + 1);
  if (begin == std::string::npos) throw Failure(path + " is not a valid .npy file: its header is cut off");
  const char close = header[begin] == '\'' ? '\'' : header[begin] == '(' ? ')' : ',';
  const std::size_t end = header.find(close, begin + 1);
  if (end == std::string::npos) throw Failure(path + " is not a valid .npy file: its header is cut off");
  return header.substr(begin, end - begin + (close == ',' ? 0 : 1));
}

std::vector<std::int64_t> parse_shape(const std::string& text) {
  std::vector<std::int64_t> shape;
  for (const char* at = text.c_str(); *at;) {
    char* stop = nullptr;
    const long long size = std::strtoll(at, &stop, 10);
    if (stop == at) {
      ++at;
    } else {
      shape.push_back(size);
      at = stop;
    }
  }
  return shape;
}

// Reads the rest of the header, whose magic has been read.
NpyHeader read_header(std::FILE* file, const std::string& path) {
  unsigned char version[2], size[4] = {};
  if (std::fread(version, 1, 2, file) != 2 || version[0] < 1 || version[0] > 3 ||
      std::fread(size, 1, version[0] == 1 ? 2 : 4, file) == 0) {
    throw Failure(path + " is a .npy file of an unknown version; valid: 1, 2 or 3");
  }
  const std::size_t bytes = size[0] | size[1] << 8 | size[2] << 16 | static_cast<std::size_t>(size[3]) << 24;
  if (bytes > 1 << 16) throw Failure(path + " is not a valid .npy file: its header is too long");
  std::string header(bytes, ' ');
  if (std::fread(&header[0], 1, bytes, file) != bytes) throw Failure(path + " is a .npy file that is cut off");
  return {entry(header, "descr", path), entry(header, "shape", path),
          entry(header, "fortran_order", path).compare(0, 5, "False") == 0};
}

std::string npy_code(const ElementType& type) {
  return std::string("'") + (type.bytes == 1 ? '|' : '<') + type.kind + std::to_string(type.bytes) + "'";
}

std::string dtype_of_code(const std::string& code) {
  for (const ElementType& type : kTypes) {
    if (npy_code(type) == code) return type.name;
  }
  return "dtype " + code;
}

void check_header(const NpyHeader& header, const std::string& path, const TensorInfo& info) {
  const std::vector<std::int64_t> shape = parse_shape(header.shape);
  if (header.code != npy_code(element_type(info.dtype)) || shape != info.shape) {
    throw Failure(path + " does not fit input " + info.name + "; got " +
                  describe(dtype_of_code(header.code), shape) + "; valid: " + describe(info.dtype, info.shape));
  }
  if (!header.c_order) {
    throw Failure(path + " is in Fortran order; try: numpy.save(FILE, numpy.ascontiguousarray(ARRAY))");
  }
}

std::string reason() { return std::strerror(errno); }

std::string npy_header(const std::string& dtype, const std::vector<std::int64_t>& shape) {
  std::string sizes;
  for (const std::int64_t size : shape) sizes += std::to_string(size) + ", ";
  if (shape.size() > 1) sizes.resize(sizes.size() - 2);
  std::string text = "{'descr': " + npy_code(element_type(dtype)) + ", 'fortran_order': False, 'shape': (" +
                     (shape.size() == 1 ? sizes.substr(0, sizes.size() - 1) : sizes) + "), }";
  // Magic, version and size take ten bytes; data begins at a multiple of 64.
  text.append(63 - (10 + text.size()) % 64, ' ');
  text += '\n';
  std::string header(kMagic, kMagicBytes);
  header += {1, 0, static_cast<char>(text.size() & 255), static_cast<char>(text.size() >> 8)};
  return header + text;
}

}  // namespace

const ElementType& element_type(const std::string& dtype) {
  for (const ElementType& type : kTypes) {
    if (dtype == type.name) return type;
  }
  throw Failure("the runner does not know the element type " + dtype);
}

std::size_t bytes_of(const TensorInfo& info) {
  std::size_t bytes = element_type(info.dtype).bytes;
  for (const std::int64_t size : info.shape) bytes *= static_cast<std::size_t>(size);
  return bytes;
}

std::string describe(const std::string& dtype, const std::vector<std::int64_t>& shape) {
  std::string text = dtype + " [";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Storage zeros(std::size_t bytes) {
  const std::size_t rounded = (bytes / kAlignment + 1) * kAlignment;
  Storage storage(static_cast<unsigned char*>(std::aligned_alloc(kAlignment, rounded)), &std::free);
  if (!storage) throw Failure("out of memory: " + std::to_string(bytes) + " bytes for a tensor");
  std::memset(storage.get(), 0, rounded);
  return storage;
}

Storage read_tensor(const std::string& path, const TensorInfo& info) {
  const File file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw Failure("cannot read " + path + " for input " + info.name + ": " + reason());
  char magic[kMagicBytes] = {};
  const bool npy = std::fread(magic, 1, kMagicBytes, file.get()) == kMagicBytes &&
                   std::memcmp(magic, kMagic, kMagicBytes) == 0;
  if (npy) {
    check_header(read_header(file.get(), path), path, info);
  } else {
    std::rewind(file.get());
  }
  const std::size_t wanted = bytes_of(info);
  Storage storage = zeros(wanted);
  const std::size_t got = std::fread(storage.get(), 1, wanted, file.get());
  if (std::ferror(file.get())) throw Failure("cannot read " + path + " for input " + info.name + ": " + reason());
  if (got != wanted || std::fgetc(file.get()) != EOF) {
    throw Failure(path + " does not fit input " + info.name + "; got " +
                  (got == wanted ? "more than " : "") + std::to_string(got) + " bytes of data; valid: " +
                  std::to_string(wanted) + " bytes, " + describe(info.dtype, info.shape));
  }
  return storage;
}

void write_npy(const std::string& path, const std::string& dtype, const std::vector<std::int64_t>& shape,
               const void* data) {
  const std::string header = npy_header(dtype, shape);
  const std::size_t bytes = bytes_of({"", dtype, shape});
  const std::string temporary = path + ".part";
  File file(std::fopen(temporary.c_str(), "wb"), std::fclose);
  bool done = file && std::fwrite(header.data(), 1, header.size(), file.get()) == header.size() &&
              std::fwrite(data, 1, bytes, file.get()) == bytes;
  if (file) done = std::fclose(file.release()) == 0 && done;
  if (done && std::rename(temporary.c_str(), path.c_str()) == 0) return;
  const std::string why = reason();
  std::remove(temporary.c_str());
  throw Failure("cannot write " + path + ": " + why);
}

}  // namespace aqd
