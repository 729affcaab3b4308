// The program in TVM's Relax virtual machine, through TVM-FFI's stable C interface.
#include "engine.h"

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <cstdlib>

#include "failure.h"

namespace aqd {
namespace {

// The affinity mode and the allocator that aqd_deploy.runtime.backend uses.
constexpr std::int64_t kModeBig = 1, kPooledAllocator = 2;

// The functions of libtvm_ffi.so that the runner calls.
struct Api {
  decltype(&TVMFFIObjectDecRef) release;
  decltype(&TVMFFIFunctionGetGlobal) get_global;
  decltype(&TVMFFIFunctionCall) call;
  decltype(&TVMFFIErrorMoveFromRaised) take_error;
  decltype(&TVMFFITensorFromDLPack) from_dlpack;
};

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  if (!function) throw Failure(std::string("the bundle's runtime has no ") + name);
}

Api load_api(const Bundle& bundle) {
  for (const std::string& library : bundle.libraries) {
    if (!dlopen(checked_path(bundle, library).c_str(), RTLD_NOW | RTLD_GLOBAL)) {
      throw Failure("this system cannot load " + library + ": " + dlerror() + "; see README.txt for what it needs");
    }
  }
  Api api{};
  find(api.release, "TVMFFIObjectDecRef");
  find(api.get_global, "TVMFFIFunctionGetGlobal");
  find(api.call, "TVMFFIFunctionCall");
  find(api.take_error, "TVMFFIErrorMoveFromRaised");
  find(api.from_dlpack, "TVMFFITensorFromDLPack");
  return api;
}

TVMFFIAny any(std::int32_t type) {
  TVMFFIAny value;
  value.type_index = type;
  value.zero_padding = 0;
  value.v_int64 = 0;
  return value;
}

TVMFFIAny integer(std::int64_t number) {
  TVMFFIAny value = any(kTVMFFIInt);
  value.v_int64 = number;
  return value;
}

TVMFFIAny boolean(bool truth) {
  TVMFFIAny value = any(kTVMFFIBool);
  value.v_int64 = truth;
  return value;
}

TVMFFIAny text(const char* characters) {
  TVMFFIAny value = any(kTVMFFIRawStr);
  value.v_c_str = characters;
  return value;
}

// A value that holds a reference, if it is an object.
class Owned {
 public:
  explicit Owned(const Api& api, TVMFFIAny value = any(kTVMFFINone)) : api_(&api), value_(value) {}
  Owned(Owned&& other) noexcept : api_(other.api_), value_(other.value_) { other.value_ = any(kTVMFFINone); }
  Owned& operator=(Owned&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Owned() {
    if (value_.type_index >= kTVMFFIStaticObjectBegin) api_->release(value_.v_obj);
  }

  const TVMFFIAny& view() const { return value_; }

  TVMFFIObjectHandle object(std::int32_t type, const char* what) const {
    if (value_.type_index != type) throw Failure(std::string("the program has no ") + what);
    return value_.v_obj;
  }

 private:
  const Api* api_;
  TVMFFIAny value_;
};

Owned own(const Api& api, TVMFFIObjectHandle object, std::int32_t type) {
  TVMFFIAny value = any(type);
  value.v_obj = static_cast<TVMFFIObject*>(object);
  return Owned(api, value);
}

std::string last_error(const Api& api) {
  TVMFFIObjectHandle error = nullptr;
  api.take_error(&error);
  if (!error) return "unknown error";
  const Owned owned = own(api, error, kTVMFFIError);
  const TVMFFIByteArray& message = TVMFFIErrorGetCellPtr(error)->message;
  const std::string whole(message.data, message.size);
  const std::size_t end = whole.find_last_not_of('\n');
  const std::size_t begin = whole.find_last_of('\n', end) + 1;
  return whole.substr(begin, end == std::string::npos ? end : end - begin + 1);
}

Owned call(const Api& api, const Owned& function, std::vector<TVMFFIAny> arguments, const char* what) {
  TVMFFIAny result = any(kTVMFFINone);
  if (api.call(function.object(kTVMFFIFunction, what), arguments.data(),
               static_cast<std::int32_t>(arguments.size()), &result)) {
    throw Failure(std::string(what) + " failed: " + last_error(api));
  }
  return Owned(api, result);
}

Owned global(const Api& api, const std::string& name) {
  const TVMFFIByteArray bytes{name.data(), name.size()};
  TVMFFIObjectHandle function = nullptr;
  if (api.get_global(&bytes, &function) || !function) throw Failure("the bundle's runtime has no " + name);
  return own(api, function, kTVMFFIFunction);
}

Owned member(const Api& api, const Owned& module, const char* name) {
  return call(api, global(api, "ffi.ModuleGetFunction"), {module.view(), text(name), boolean(false)}, name);
}

std::vector<Owned> items(const Api& api, const Owned& list) {
  const Owned size = call(api, global(api, "ffi.ArraySize"), {list.view()}, "ffi.ArraySize");
  const Owned get = global(api, "ffi.ArrayGetItem");
  std::vector<Owned> found;
  for (std::int64_t i = 0; i < size.view().v_int64; ++i) {
    found.push_back(call(api, get, {list.view(), integer(i)}, "ffi.ArrayGetItem"));
  }
  return found;
}

DLDataType dl_type(const std::string& dtype) {
  const ElementType& type = element_type(dtype);
  const std::uint8_t code = type.kind == 'i' ? kDLInt : type.kind == 'u' ? kDLUInt : kDLFloat;
  return {code, static_cast<std::uint8_t>(8 * type.bytes), 1};
}

// A view of memory that the caller keeps.
Owned view_of(const Api& api, const TensorInfo& info, void* data) {
  struct Holder {
    DLManagedTensor managed;
    std::vector<std::int64_t> shape;
  };
  auto* holder = new Holder{{}, info.shape};
  DLTensor& tensor = holder->managed.dl_tensor;
  tensor.data = data;
  tensor.device = {kDLCPU, 0};
  tensor.ndim = static_cast<std::int32_t>(info.shape.size());
  tensor.dtype = dl_type(info.dtype);
  tensor.shape = holder->shape.data();
  tensor.strides = nullptr;
  tensor.byte_offset = 0;
  holder->managed.manager_ctx = holder;
  holder->managed.deleter = [](DLManagedTensor* self) { delete static_cast<Holder*>(self->manager_ctx); };
  TVMFFIObjectHandle made = nullptr;
  if (api.from_dlpack(&holder->managed, kAlignment, 1, &made)) {
    throw Failure("the runtime refuses input " + info.name + ": " + last_error(api));
  }
  return own(api, made, kTVMFFITensor);
}

class CpuEngine : public Engine {
 public:
  CpuEngine(const Bundle& bundle, int threads) : api(load_api(bundle)) { load(bundle, threads); }
  void set_inputs(const std::vector<TensorInfo>& inputs, const std::vector<Storage>& data) override;
  void run() override { results = call(api, main, arguments, "the program"); }
  std::vector<Output> outputs(const std::vector<TensorInfo>& expected) override;

 private:
  void load(const Bundle& bundle, int threads);

  Api api;
  Owned module{api}, machine{api}, main{api}, prepared_list{api}, results{api};
  std::vector<Owned> prepared, given;
  std::vector<TVMFFIAny> arguments;
};

void CpuEngine::load(const Bundle& bundle, int threads) {
  // Read by the runtime when its first parallel loop starts.
  setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
  setenv("TVM_BIND_THREADS", "0", 1);
  call(api, global(api, "runtime.config_threadpool"), {integer(kModeBig), integer(threads)}, "config_threadpool");
  // The loader of .so files by its name: the general one looks for a suffix.
  const std::string path = checked_path(bundle, "program.so");
  module = call(api, global(api, "ffi.Module.load_from_file.so"), {text(path.c_str()), text("so")},
                  "loading program.so");
  machine = call(api, member(api, module, "vm_load_executable"), {}, "vm_load_executable");
  call(api, member(api, machine, "vm_initialization"),
       {integer(kDLCPU), integer(0), integer(kPooledAllocator)}, "vm_initialization");
  main = member(api, machine, "main");
  prepared_list = call(api, member(api, machine, "prepare"), {}, "prepare");
  prepared = items(api, prepared_list);
}

void CpuEngine::set_inputs(const std::vector<TensorInfo>& inputs, const std::vector<Storage>& data) {
  given.clear();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    given.push_back(view_of(api, inputs[i], data[i].get()));
  }
  arguments.clear();
  for (const Owned& value : given) arguments.push_back(value.view());
  for (const Owned& value : prepared) arguments.push_back(value.view());
}

std::vector<Output> CpuEngine::outputs(const std::vector<TensorInfo>& expected) {
  results.object(kTVMFFIArray, "outputs");
  const std::vector<Owned> values = items(api, results);
  if (values.size() != expected.size()) {
    throw Failure("the program returns " + std::to_string(values.size()) + " outputs; valid: " +
                  std::to_string(expected.size()));
  }
  std::vector<Output> outputs;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const DLTensor& tensor = *TVMFFITensorGetDLTensorPtr(values[i].object(kTVMFFITensor, "tensor outputs"));
    const DLDataType type = dl_type(expected[i].dtype);
    const std::vector<std::int64_t> shape(tensor.shape, tensor.shape + tensor.ndim);
    if (shape != expected[i].shape || tensor.dtype.code != type.code || tensor.dtype.bits != type.bits) {
      throw Failure("output " + expected[i].name + " is not what the manifest says; valid: " +
                    describe(expected[i].dtype, expected[i].shape));
    }
    outputs.push_back({expected[i].name, expected[i].dtype, shape,
                       static_cast<const char*>(tensor.data) + tensor.byte_offset});
  }
  return outputs;
}

}  // namespace

std::unique_ptr<Engine> cpu_engine(const Bundle& bundle, int threads) {
  return std::make_unique<CpuEngine>(bundle, threads);
}

}  // namespace aqd
