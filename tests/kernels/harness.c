/* Runs compiled kernels without TVM's runtime: harness ARGUMENTS RESULTS.
 *
 * ARGUMENTS: int32 count of calls, then for each: int32 index into `kernels` (kernel_table.c), int32 count of
 * tensors, then for each tensor int32 type code, bits, dimensions, int64 extents and the data. RESULTS gets
 * the data of all tensors after the calls, in the same order. Parallel loops run on two workers, one after
 * the other. Exit code 2: a kernel reported an error.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int32_t device_type, device_id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DataType;
typedef struct {
  void *data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;
typedef struct {
  int32_t type_index, padding;
  union { int64_t integer; double number; void *pointer; } value;
} Any;
typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);
typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Task)(int task, Group *group, void *closure);

extern const Kernel kernels[];
enum { MOST = 32, MOST_DIMENSIONS = 8, DL_TENSOR = 7, CPU = 1, ALIGNMENT = 64, WORKERS = 2 };

static void *aligned(size_t size) {
  void *memory = NULL;
  if (posix_memalign(&memory, ALIGNMENT, size + ALIGNMENT)) exit(3);
  return memory;
}

void *TVMBackendAllocWorkspace(int type, int id, uint64_t size, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  void *memory = aligned(size);
  memset(memory, 0xa5, size);
  return memory;
}
int TVMBackendFreeWorkspace(int type, int id, void *memory) {
  (void)type, (void)id;
  free(memory);
  return 0;
}
int TVMBackendParallelLaunch(Task task, void *closure, int tasks) {
  Group group = {NULL, tasks ? tasks : WORKERS};
  for (int i = 0; i < group.tasks; ++i)
    if (task(i, &group, closure)) return -1;
  return 0;
}
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) {
  fprintf(stderr, "%s: %s\n", kind, message);
}
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s:", kind);
  for (int32_t i = 0; i < count; ++i) fprintf(stderr, " %s", parts[i]);
  fputc('\n', stderr);
}

/* Objects reach the runtime through these, which a loader fills; each is there only where it is used. */
extern __typeof__(&TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace __attribute__((weak));
extern __typeof__(&TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace __attribute__((weak));
extern __typeof__(&TVMBackendParallelLaunch) __TVMBackendParallelLaunch __attribute__((weak));
extern __typeof__(&TVMFFIErrorSetRaisedFromCStr) __TVMFFIErrorSetRaisedFromCStr __attribute__((weak));
extern __typeof__(&TVMFFIErrorSetRaisedFromCStrParts) __TVMFFIErrorSetRaisedFromCStrParts
    __attribute__((weak));

static void fill_pointers(void) {
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = TVMBackendAllocWorkspace;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = TVMBackendFreeWorkspace;
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = TVMBackendParallelLaunch;
  if (&__TVMFFIErrorSetRaisedFromCStr) __TVMFFIErrorSetRaisedFromCStr = TVMFFIErrorSetRaisedFromCStr;
  if (&__TVMFFIErrorSetRaisedFromCStrParts)
    __TVMFFIErrorSetRaisedFromCStrParts = TVMFFIErrorSetRaisedFromCStrParts;
}

static void take(FILE *file, void *to, size_t size) {
  if (fread(to, 1, size, file) != size) exit(4);
}

static int32_t take_int(FILE *file) {
  int32_t value;
  take(file, &value, sizeof value);
  return value;
}

static size_t read_tensor(FILE *file, Tensor *tensor) {
  tensor->device = (Device){CPU, 0};
  tensor->dtype = (DataType){(uint8_t)take_int(file), 0, 1};
  tensor->dtype.bits = (uint8_t)take_int(file);
  tensor->ndim = take_int(file);
  if (tensor->ndim > MOST_DIMENSIONS) exit(4);
  tensor->shape = aligned(MOST_DIMENSIONS * sizeof(int64_t));
  take(file, tensor->shape, (size_t)tensor->ndim * sizeof(int64_t));
  tensor->strides = NULL;
  tensor->byte_offset = 0;
  size_t size = tensor->dtype.bits / 8;
  for (int32_t i = 0; i < tensor->ndim; ++i) size *= (size_t)tensor->shape[i];
  tensor->data = aligned(size);
  take(file, tensor->data, size);
  return size;
}

int main(int count, char **words) {
  if (count != 3) return 1;
  FILE *in = fopen(words[1], "rb"), *out = fopen(words[2], "wb");
  if (!in || !out) return 1;
  fill_pointers();
  for (int32_t call = take_int(in); call > 0; --call) {
    Kernel kernel = kernels[take_int(in)];
    int32_t tensors = take_int(in);
    Tensor storage[MOST];
    Any arguments[MOST], result = {0};
    size_t sizes[MOST];
    if (tensors > MOST) return 4;
    for (int32_t i = 0; i < tensors; ++i) {
      sizes[i] = read_tensor(in, &storage[i]);
      arguments[i].type_index = DL_TENSOR;
      arguments[i].padding = 0;
      arguments[i].value.integer = 0;
      arguments[i].value.pointer = &storage[i];
    }
    if (kernel(NULL, arguments, tensors, &result)) return 2;
    for (int32_t i = 0; i < tensors; ++i) {
      if (fwrite(storage[i].data, 1, sizes[i], out) != sizes[i]) return 5;
      free(storage[i].data);
      free(storage[i].shape);
    }
  }
  return fclose(out) ? 5 : 0;
}
