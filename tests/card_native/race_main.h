// A program that runs the launches of a file, one program after the other, for ThreadSanitizer to watch.
//
// The file, little-endian: int32 programs; of each int64 bytes of memory and where it lies, the bytes, int32 calls; of each
// int32 function, blocks, threads, bytes of shared memory, bytes of the parameter, and the parameter.
#pragma once
#include <sys/mman.h>

namespace {
struct File {
  FILE *file;
  void take(void *to, size_t size) { if (fread(to, 1, size, file) != size) { fprintf(stderr, "the file is cut off\n"); exit(2); } }
  template <class T> T next() { T value; take(&value, sizeof value); return value; }
};
}  // namespace

int main(int, char **arguments) {
  File file = {fopen(arguments[1], "rb")};
  if (!file.file) return 2;
  for (int index = 0, count = file.next<int32_t>(); index < count; index++) {
    const auto size = file.next<int64_t>(), place = file.next<int64_t>();
    void *memory = mmap((void *)place, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (memory != (void *)place) { fprintf(stderr, "no memory at that place\n"); return 2; }
    file.take(memory, size);
    fprintf(stderr, "program %d\n", index);
    for (int call = 0, calls = file.next<int32_t>(); call < calls; call++) {
      int32_t numbers[5];
      file.take(numbers, sizeof numbers);
      std::vector<uint64_t> parameter(numbers[4] / 8 + 1);
      file.take(parameter.data(), numbers[4]);
      for (int late = 0; late < 2; late++)
        if (!aqd_emulate(numbers[0], numbers[1], numbers[2], numbers[3], parameter.data(), late, late)) return 3;
    }
    munmap(memory, size);
  }
  return 0;
}
