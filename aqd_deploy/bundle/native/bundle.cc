#include "bundle.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

#include "cpu.h"
#include "failure.h"
#include "json.h"
#include "sha256.h"

namespace aqd {
namespace {

constexpr int kFormat = 1;
constexpr char kAgain[] = "; try: copy the whole bundle again, or make it with aqd-deploy package";

std::string read_text(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw Failure("cannot read " + path + ": " + std::strerror(errno) + kAgain);
  std::string text;
  char buffer[4096];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) text.append(buffer, count);
  return text;
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

void check_file(const Bundle& bundle, const BundleFile& file) {
  const std::string path = bundle.folder + "/" + file.path;
  const Digest digest = digest_of_file(path);
  if (digest.bytes != file.bytes) {
    throw Failure(path + " is damaged or of another bundle; got " + std::to_string(digest.bytes) +
                  " bytes; valid: " + std::to_string(file.bytes) + kAgain);
  }
  if (digest.hex != file.sha256) {
    throw Failure(path + " is damaged or of another bundle; got SHA-256 " + digest.hex +
                  "; valid: " + file.sha256 + kAgain);
  }
}

}  // namespace

Bundle read_bundle(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  const std::string recorded = read_text(folder + "/manifest.sha256");
  const std::string text = read_text(path);
  const Digest digest = digest_of_file(path);
  // The form that `sha256sum -c` reads.
  if (recorded != digest.hex + "  manifest.json\n") {
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
  for (const Json& file : manifest.at("files").list()) {
    bundle.files.push_back({file.at("path").text(), file.at("sha256").text(),
                            static_cast<std::uint64_t>(file.at("bytes").integer())});
  }
  return bundle;
}

void check_cpu(const Bundle& bundle) {
  if (bundle.architecture != architecture()) {
    throw Failure("the bundle is for another CPU than this runner's; got a program for " + bundle.architecture +
                  "; valid: " + architecture() + "; try: aqd-deploy compile --target with this device's name");
  }
  std::string missing;
  for (const std::string& name : missing_features(bundle.features)) missing += (missing.empty() ? "" : ", ") + name;
  if (!missing.empty()) {
    throw Failure("this CPU lacks " + missing + ", which the program needs; got a program for " + bundle.target +
                  "; try: aqd-deploy compile --target with this device's name");
  }
}

void check_files(const Bundle& bundle, int threads) {
  // The largest first, so that the threads end together.
  std::vector<BundleFile> files = bundle.files;
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  std::vector<std::string> failures(files.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i; (i = next++) < files.size();) {
      try {
        check_file(bundle, files[i]);
      } catch (const Failure& failure) {
        failures[i] = failure.sentence;
      }
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  for (const std::string& failure : failures) {
    if (!failure.empty()) throw Failure(failure);
  }
}

}  // namespace aqd
