// Just enough JSON to read a bundle's manifest, and to write strings.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace aqd {

// A value of a document. The accessors throw Failure, naming `where` it came from, for another kind of value.
class Json {
 public:
  // Throws Failure with the position of what is not JSON.
  static Json parse(const std::string& text, const std::string& where);

  const Json& at(const std::string& key) const;
  bool has(const std::string& key) const;
  const std::vector<Json>& list() const;
  const std::string& text() const;
  std::int64_t integer() const;

 private:
  friend class JsonReader;
  enum class Kind { word, number, string, array, object };
  [[noreturn]] void refuse(const char* expected) const;

  Kind kind_ = Kind::word;
  std::string where_;
  std::string text_;  // of a string, a number, or one of true, false, null
  std::vector<Json> items_;
  std::vector<std::string> keys_;
};

// `text` (UTF-8) in quotes.
std::string quoted(const std::string& text);

}  // namespace aqd
