#include "bundle.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "cpu.h"
#include "failure.h"
#include "json.h"
#include "sha256.h"

namespace aqd {
namespace {

constexpr int kFormat = 1;
constexpr char kAgain[] = "; try: copy the whole bundle again, or make it with aqd-deploy package";

// The bytes of a file, mapped.
class FileView {
 public:
  explicit FileView(const std::string& path) : file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat status;
    if (file_ < 0 || fstat(file_, &status) != 0) fail(path);
    size_ = static_cast<std::size_t>(status.st_size);
    // Nothing to map in an empty file.
    if (size_) data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file_, 0);
    if (data_ == MAP_FAILED) fail(path);
  }
  FileView(FileView&& other) noexcept : file_(other.file_), data_(other.data_), size_(other.size_) {
    other.file_ = -1;
    other.size_ = 0;
  }
  FileView(const FileView&) = delete;
  FileView& operator=(const FileView&) = delete;
  ~FileView() {
    if (size_) munmap(data_, size_);
    if (file_ >= 0) close(file_);
  }

  const unsigned char* data() const { return static_cast<const unsigned char*>(data_); }
  std::size_t size() const { return size_; }

  // The open file, which is the caller's from now on.
  int take_file() { return std::exchange(file_, -1); }

 private:
  [[noreturn]] static void fail(const std::string& path) {
    throw Failure("cannot read " + path + ": " + std::strerror(errno) + kAgain);
  }

  int file_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

std::string read_text(const std::string& path) {
  const FileView view(path);
  return std::string(reinterpret_cast<const char*>(view.data()), view.size());
}

std::vector<std::string> read_names(const Json& list) {
  std::vector<std::string> names;
  for (const Json& name : list.list()) names.push_back(name.text());
  return names;
}

std::vector<TensorInfo> read_tensors(const Json& list) {
  std::vector<TensorInfo> tensors;
  for (const Json& entry : list.list()) {
    TensorInfo info{entry.at("name").text(), entry.at("dtype").text(), {}};
    for (const Json& size : entry.at("shape").list()) info.shape.push_back(size.integer());
    tensors.push_back(std::move(info));
  }
  return tensors;
}

template <typename Number>
std::vector<Number> read_numbers(const Json& list) {
  std::vector<Number> numbers;
  for (const Json& number : list.list()) numbers.push_back(static_cast<Number>(number.integer()));
  return numbers;
}

std::vector<Launch> read_calls(const Json& list) {
  std::vector<Launch> calls;
  for (const Json& entry : list.list()) {
    const auto count = [&](const char* key) { return static_cast<unsigned>(entry.at(key).integer()); };
    calls.push_back({count("function"), count("grid"), count("threads"), count("shared"),
                     read_numbers<std::int64_t>(entry.at("pointers")),
                     read_numbers<std::int32_t>(entry.at("numbers"))});
  }
  return calls;
}

Launches read_launches(const Json& section) {
  Launches launches;
  const auto size = [&](const char* key) { return static_cast<std::uint64_t>(section.at(key).integer()); };
  launches.code_bytes = size("code_bytes");
  launches.stored_bytes = size("stored_bytes");
  launches.memory_bytes = size("memory_bytes");
  launches.functions = read_names(section.at("functions"));
  launches.prepare = read_calls(section.at("prepare"));
  launches.run = read_calls(section.at("run"));
  launches.inputs = read_numbers<std::uint64_t>(section.at("inputs"));
  launches.outputs = read_numbers<std::uint64_t>(section.at("outputs"));
  return launches;
}

// A file of the bundle in memory, and the digests of its chunks.
struct Checked {
  Checked(const std::string& folder, const BundleFile& recorded)
      : path(folder + "/" + recorded.path), file(recorded), contents(path) {
    if (contents.size() != file.bytes) {
      throw Failure(path + " is damaged or of another bundle; got " + std::to_string(contents.size()) +
                    " bytes; valid: " + std::to_string(file.bytes) + kAgain);
    }
    chunks.resize((contents.size() + kChunk - 1) / kChunk);
  }

  std::size_t groups() const { return (chunks.size() + kLanes - 1) / kLanes; }

  // The digests of up to `kLanes` chunks.
  void digest_group(std::size_t group) {
    const std::size_t first = group * kLanes, whole = contents.size() / kChunk;
    const std::size_t count = std::min(kLanes, whole > first ? whole - first : 0);
    if (count) {
      const unsigned char* pieces[kLanes];
      Digest digests[kLanes];
      for (std::size_t i = 0; i < kLanes; ++i) {
        pieces[i] = contents.data() + (first + std::min(i, count - 1)) * kChunk;
      }
      digest_chunks(pieces, digests);
      std::copy(digests, digests + count, chunks.begin() + static_cast<std::ptrdiff_t>(first));
    }
    if (first + count < chunks.size() && count < kLanes) {
      chunks[whole] = digest(contents.data() + whole * kChunk, contents.size() - whole * kChunk);
    }
  }

  void check() const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(chunks.data());
    if (hex(digest(bytes, chunks.size() * sizeof(Digest))) == file.tree) return;
    throw Failure(path + " is damaged or of another bundle; got SHA-256 " +
                  hex(digest(contents.data(), contents.size())) + "; valid: " + file.sha256 + kAgain);
  }

  std::string path;
  BundleFile file;
  FileView contents;
  std::vector<Digest> chunks;
};

}  // namespace

Bundle read_bundle(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  const std::string recorded = read_text(folder + "/manifest.sha256");
  const std::string text = read_text(path);
  const Digest found = digest(reinterpret_cast<const unsigned char*>(text.data()), text.size());
  // The form that `sha256sum -c` reads.
  if (recorded != hex(found) + "  manifest.json\n") {
    throw Failure(path + " does not belong to manifest.sha256 beside it: one of them is damaged or of another "
                         "bundle" + kAgain);
  }
  const Json manifest = Json::parse(text, path);
  if (manifest.at("format").integer() != kFormat) {
    throw Failure(path + " is of another version; got format " +
                  std::to_string(manifest.at("format").integer()) + "; valid: " + std::to_string(kFormat));
  }
  const Json& target = manifest.at("target");
  Bundle bundle;
  bundle.folder = folder;
  bundle.target = target.at("name").text();
  bundle.architecture = target.at("architecture").text();
  bundle.features = read_names(target.at("features"));
  bundle.libraries = read_names(manifest.at("libraries"));
  bundle.inputs = read_tensors(manifest.at("inputs"));
  bundle.outputs = read_tensors(manifest.at("outputs"));
  bundle.threads = static_cast<int>(manifest.at("threads").integer());
  if (manifest.has("launches")) {
    bundle.card = target.at("card").text();
    bundle.launches = read_launches(manifest.at("launches"));
  }
  for (const Json& file : manifest.at("files").list()) {
    bundle.files.push_back({file.at("path").text(), file.at("sha256").text(), file.at("tree").text(),
                            static_cast<std::uint64_t>(file.at("bytes").integer()), -1});
  }
  return bundle;
}

void check_cpu(const Bundle& bundle) {
  if (bundle.architecture != architecture()) {
    throw Failure("the bundle is for another CPU than this runner's; got a program for " + bundle.architecture +
                  "; valid: " + architecture() + "; try: aqd-deploy compile --target with this device's name");
  }
  std::string missing;
  for (const std::string& name : missing_features(bundle.features)) {
    const std::string reason = withheld(name);
    if (!reason.empty()) {
      throw Failure("the program needs what this process may not use, " + reason + "; got a program for " +
                    bundle.target + "; try: aqd-deploy compile --target cascadelake");
    }
    missing += (missing.empty() ? "" : ", ") + name;
  }
  if (!missing.empty()) {
    throw Failure("this CPU lacks " + missing + ", which the program needs; got a program for " + bundle.target +
                  "; try: aqd-deploy compile --target with this device's name");
  }
}

void check_files(Bundle& bundle, int threads) {
  std::vector<Checked> files;
  files.reserve(bundle.files.size());
  std::vector<std::pair<Checked*, std::size_t>> work;
  for (const BundleFile& file : bundle.files) {
    files.emplace_back(bundle.folder, file);
    for (std::size_t group = 0; group < files.back().groups(); ++group) work.emplace_back(&files.back(), group);
  }
  std::atomic<std::size_t> next{0};
  const auto loop = [&] {
    for (std::size_t i; (i = next++) < work.size();) work[i].first->digest_group(work[i].second);
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(loop);
  loop();
  for (std::thread& helper : helpers) helper.join();
  for (const Checked& file : files) file.check();
  for (std::size_t i = 0; i < files.size(); ++i) bundle.files[i].descriptor = files[i].contents.take_file();
}

std::string checked_path(const Bundle& bundle, const std::string& path) {
  for (const BundleFile& file : bundle.files) {
    if (file.path == path && file.descriptor >= 0) return "/proc/self/fd/" + std::to_string(file.descriptor);
  }
  throw Failure(bundle.folder + "/" + path + " is not listed in manifest.json" + kAgain);
}

}  // namespace aqd
