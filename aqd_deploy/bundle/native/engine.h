// What runs the program of a bundle: TVM's Relax virtual machine (engine.cc), or a graphics card (card.cc).
//
// Everything is loaded by name after the bundle was verified, so the runner itself is linked against nothing
// but the system's libraries.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.h"

namespace aqd {

// An output of the last run; `data` is C order and lives until the next run or call of `outputs`.
struct Output {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  const void* data;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // `data` holds every input in the manifest's order, aligned to `kAlignment`; it must outlive the engine.
  virtual void set_inputs(const std::vector<TensorInfo>& inputs, const std::vector<Storage>& data) = 0;

  // Runs once. Throws Failure.
  virtual void run() = 0;

  // Throws Failure where the program returns something else than `expected`.
  virtual std::vector<Output> outputs(const std::vector<TensorInfo>& expected) = 0;
};

// Loads the bundle's libraries and its program, and expands its weights. Throws Failure.
std::unique_ptr<Engine> cpu_engine(const Bundle& bundle, int threads);

// The same on the first card that the driver shows. Throws Failure.
std::unique_ptr<Engine> card_engine(const Bundle& bundle);

}  // namespace aqd
