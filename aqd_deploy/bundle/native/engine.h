// The program in TVM's Relax virtual machine, through TVM-FFI's stable C interface.
//
// Everything of the bundle is loaded by name after it was verified, so the runner itself is linked against
// nothing but the system's libraries.
#pragma once

#include <string>
#include <vector>

#include "bundle.h"

namespace aqd {

// An output of the last run; `data` is C order and lives until the next run.
struct Output {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  const void* data;
};

class Engine {
 public:
  // Loads the bundle's libraries and its program, and expands its weights. Throws Failure.
  Engine(const Bundle& bundle, int threads);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // `data` holds every input in the manifest's order, aligned to `kAlignment`; it must outlive the engine.
  void set_inputs(const std::vector<TensorInfo>& inputs, const std::vector<Storage>& data);

  // Runs once. Throws Failure.
  void run();

  // Throws Failure where the program returns something else than `expected`.
  std::vector<Output> outputs(const std::vector<TensorInfo>& expected) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace aqd
