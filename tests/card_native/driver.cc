// NVIDIA's driver without a card: the functions that programs call, on this CPU. Kernels are those of the library that
// AQD_KERNELS names, by the emulation; AQD_CARD is the architecture that it tells, for example 87.
#include <dlfcn.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using Emulate = bool (*)(int, int, int, int, const void *, int, bool);
struct Call { int function; unsigned grid, threads, shared; const unsigned char *parameter; };
using Graph = std::vector<Call>;

Graph *capturing;
unsigned most_shared[4096];

Emulate emulate() {
  static const auto found = reinterpret_cast<Emulate>(dlsym(dlopen(getenv("AQD_KERNELS"), RTLD_NOW), "aqd_emulate"));
  return found;
}

}  // namespace

enum { DONE, INVALID = 1, NO_DEVICE = 100, FAILED = 700 };

extern "C" {
int cuInit(unsigned) { return getenv("AQD_KERNELS") ? DONE : NO_DEVICE; }
int cuGetErrorName(int code, const char **name) {
  *name = code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : code == FAILED ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_INVALID_VALUE";
  return DONE;
}
int cuDeviceGet(int *device, int index) { *device = index; return DONE; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  const int card = atoi(getenv("AQD_CARD"));
  *value = attribute == 75 ? card / 10 : card % 10;
  return DONE;
}
int cuDevicePrimaryCtxRetain(void **context, int) { *context = &capturing; return DONE; }
int cuCtxSetCurrent(void *context) { return context == &capturing ? DONE : INVALID; }
int cuStreamCreate(void **stream, unsigned) { *stream = &capturing; return DONE; }
int cuModuleLoadData(void **module, const void *image) {
  *module = &capturing;
  return memcmp(image, "\177ELF", 4) ? INVALID : DONE;
}
int cuModuleGetFunction(void **function, void *, const char *name) {
  *function = reinterpret_cast<void *>(static_cast<intptr_t>(atoi(name + 1) + 1));
  return name[0] == 'k' ? DONE : INVALID;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  *address = reinterpret_cast<uint64_t>(aligned_alloc(256, (size + 255) / 256 * 256));
  memset(reinterpret_cast<void *>(*address), 0xcd, size);
  return DONE;
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t size) {
  memset(reinterpret_cast<void *>(address), value, size);
  return DONE;
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) {
  memcpy(reinterpret_cast<void *>(to), from, size);
  return DONE;
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) {
  memcpy(to, reinterpret_cast<const void *>(from), size);
  return DONE;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
  most_shared[reinterpret_cast<intptr_t>(function)] = static_cast<unsigned>(value);
  return attribute == 8 ? DONE : INVALID;
}
int cuStreamBeginCapture_v2(void *, int) { capturing = new Graph; return DONE; }
int cuStreamEndCapture(void *, void **graph) { *graph = capturing; capturing = nullptr; return DONE; }
int cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long) { *ready = graph; return DONE; }
// The size of a parameter is known to the kernel alone: as much is kept as the caller has.
int cuLaunchKernel(void *function, unsigned x, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned shared,
                   void *, void **parameters, void **) {
  const auto number = reinterpret_cast<intptr_t>(function);
  if (!capturing || (shared > 48 << 10 && shared > most_shared[number])) return INVALID;
  auto *kept = static_cast<unsigned char *>(aligned_alloc(64, 1024));
  const size_t size = malloc_usable_size(parameters[0]);
  memcpy(kept, parameters[0], size < 1024 ? size : 1024);
  capturing->push_back({static_cast<int>(number - 1), x, threads, shared, kept});
  return DONE;
}
int cuGraphLaunch(void *graph, void *) {
  for (const Call &call : *static_cast<Graph *>(graph)) {
    if (!emulate()(call.function, static_cast<int>(call.grid), static_cast<int>(call.threads),
                   static_cast<int>(call.shared), call.parameter, 0, false)) return FAILED;
  }
  return DONE;
}
int cuStreamSynchronize(void *) { return DONE; }
}
