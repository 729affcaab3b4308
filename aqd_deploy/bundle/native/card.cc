// The program on a graphics card, by the functions of NVIDIA's driver (libcuda.so.1) and nothing of CUDA's
// toolkit: a module, one memory, and the launches of a run as one graph.
//
// Source: the CUDA driver API, docs.nvidia.com/cuda/cuda-driver-api.
#include <dlfcn.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "engine.h"
#include "failure.h"

namespace aqd {
namespace {

using Handle = void*;
using Address = std::uint64_t;

constexpr char kDriver[] = "libcuda.so.1";
// Attributes of a device and a function; capture, in which only calls on the stream count; a stream of its own.
constexpr int kMajor = 75, kMinor = 76, kDynamicShared = 8, kCapture = 2, kOwnStream = 1;
constexpr unsigned kUsualShared = 48 << 10;

// The driver's functions, by name.
class Driver {
 public:
  Driver() : library_(dlopen(kDriver, RTLD_NOW)) {
    if (!library_) {
      throw Failure(std::string("this device has no driver for NVIDIA's cards; got no ") + kDriver +
                    "; valid: a device with a card and its driver");
    }
    call("cuInit", 0u);
  }

  // Calls a function; every argument must have the type that it takes. Throws Failure where it fails.
  template <typename... Arguments>
  void call(const char* name, Arguments... arguments) const {
    const int code = find<int (*)(Arguments...)>(name)(arguments...);
    if (!code) return;
    const char* text = nullptr;
    find<int (*)(int, const char**)>("cuGetErrorName")(code, &text);
    throw Failure(std::string("the card failed in ") + name + "; got " + (text ? text : std::to_string(code)) +
                  "; try: nvidia-smi");
  }

 private:
  template <typename Function>
  Function find(const char* name) const {
    const auto function = reinterpret_cast<Function>(dlsym(library_, name));
    if (!function) throw Failure(std::string("the card's driver is too old; got none of ") + name);
    return function;
  }

  void* library_;
};

// "sm_87" of a device.
std::string architecture_of(const Driver& driver, int device) {
  int major = 0, minor = 0;
  driver.call("cuDeviceGetAttribute", &major, kMajor, device);
  driver.call("cuDeviceGetAttribute", &minor, kMinor, device);
  return "sm_" + std::to_string(major) + std::to_string(minor);
}

// Whether code for `built` runs on `card`: the same generation and no newer revision; code for exactly one card
// (with an "a") on that alone.
bool runs_on(const std::string& built, const std::string& card) {
  if (built.back() == 'a') return built.substr(0, built.size() - 1) == card;
  return built.substr(0, built.size() - 1) == card.substr(0, card.size() - 1) && built.back() <= card.back();
}

std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class CardEngine : public Engine {
 public:
  explicit CardEngine(const Bundle& bundle) : launches_(bundle.launches) {
    int device = 0;
    driver_.call("cuDeviceGet", &device, 0);
    const std::string found = architecture_of(driver_, device);
    if (!runs_on(bundle.card, found)) {
      throw Failure("the program is for another card; got code for " + bundle.card + "; valid: " + found +
                    "; try: aqd-deploy compile --target with this device's name");
    }
    Handle context = nullptr;
    driver_.call("cuDevicePrimaryCtxRetain", &context, device);
    driver_.call("cuCtxSetCurrent", context);
    driver_.call("cuStreamCreate", &stream_, static_cast<unsigned>(kOwnStream));
    load(contents_of(checked_path(bundle, "program.so")));
    replay(recorded(launches_.prepare));
    run_ = recorded(launches_.run);
  }

  void set_inputs(const std::vector<TensorInfo>& inputs, const std::vector<Storage>& data) override {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const void* from = data[i].get();
      driver_.call("cuMemcpyHtoD_v2", memory_ + launches_.inputs.at(i), from, bytes_of(inputs[i]));
    }
  }

  void run() override { replay(run_); }

  std::vector<Output> outputs(const std::vector<TensorInfo>& expected) override {
    results_.clear();
    std::vector<Output> outputs;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      results_.push_back(zeros(bytes_of(expected[i])));
      void* to = results_.back().get();
      driver_.call("cuMemcpyDtoH_v2", to, memory_ + launches_.outputs.at(i), bytes_of(expected[i]));
      outputs.push_back({expected[i].name, expected[i].dtype, expected[i].shape, to});
    }
    return outputs;
  }

 private:
  void load(const std::string& program) {
    const std::uint64_t used = launches_.code_bytes + launches_.stored_bytes;
    if (used > program.size() || launches_.stored_bytes > launches_.memory_bytes) {
      throw Failure("program.so is shorter than its launches say; got " + std::to_string(program.size()) +
                    " bytes; valid: at least " + std::to_string(used));
    }
    Handle module = nullptr;
    driver_.call("cuModuleLoadData", &module, static_cast<const void*>(program.data()));
    for (const std::string& name : launches_.functions) {
      functions_.push_back(nullptr);
      driver_.call("cuModuleGetFunction", &functions_.back(), module, name.c_str());
    }
    const std::size_t size = launches_.memory_bytes;
    driver_.call("cuMemAlloc_v2", &memory_, size);
    driver_.call("cuMemsetD8_v2", memory_, static_cast<unsigned char>(0), size);
    const void* stored = program.data() + launches_.code_bytes;
    driver_.call("cuMemcpyHtoD_v2", memory_, stored, static_cast<std::size_t>(launches_.stored_bytes));
  }

  // The launches as a graph.
  Handle recorded(const std::vector<Launch>& calls) {
    for (const Launch& each : calls) {
      if (each.shared > kUsualShared) {
        driver_.call("cuFuncSetAttribute", functions_.at(each.function), kDynamicShared,
                     static_cast<int>(each.shared));
      }
    }
    driver_.call("cuStreamBeginCapture_v2", stream_, kCapture);
    for (const Launch& each : calls) launch(each);
    Handle graph = nullptr, ready = nullptr;
    driver_.call("cuStreamEndCapture", stream_, &graph);
    driver_.call("cuGraphInstantiateWithFlags", &ready, graph, 0ull);
    return ready;
  }

  // The parameter is a structure: pointers, then numbers.
  void launch(const Launch& call) {
    std::vector<Address> parameter;
    for (const std::int64_t pointer : call.pointers) {
      if (pointer >= static_cast<std::int64_t>(launches_.memory_bytes)) {
        throw Failure("a launch points behind the program's memory; got byte " + std::to_string(pointer) +
                      "; valid: below " + std::to_string(launches_.memory_bytes));
      }
      parameter.push_back(pointer < 0 ? 0 : memory_ + static_cast<Address>(pointer));
    }
    const std::size_t first = parameter.size(), bytes = call.numbers.size() * sizeof call.numbers[0];
    parameter.resize(first + (bytes + sizeof(Address) - 1) / sizeof(Address));
    if (bytes) std::memcpy(parameter.data() + first, call.numbers.data(), bytes);
    void* parameters[] = {parameter.data()};
    driver_.call("cuLaunchKernel", functions_.at(call.function), call.grid, 1u, 1u, call.threads, 1u, 1u,
                 call.shared, stream_, static_cast<void**>(parameters), static_cast<void**>(nullptr));
  }

  void replay(Handle graph) {
    driver_.call("cuGraphLaunch", graph, stream_);
    driver_.call("cuStreamSynchronize", stream_);
  }

  Driver driver_;
  Launches launches_;
  Handle stream_ = nullptr, run_ = nullptr;
  Address memory_ = 0;
  std::vector<Handle> functions_;
  std::vector<Storage> results_;
};

}  // namespace

std::unique_ptr<Engine> card_engine(const Bundle& bundle) { return std::make_unique<CardEngine>(bundle); }

}  // namespace aqd
