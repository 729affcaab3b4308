// A failure that a person can understand: one sentence, printed by main.
#pragma once

#include <string>
#include <utility>

namespace aqd {

struct Failure {
  explicit Failure(std::string text) : sentence(std::move(text)) {}
  std::string sentence;
};

}  // namespace aqd
