#include "json.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "failure.h"

namespace aqd {

namespace {
constexpr int kDeepest = 64;
}

class JsonReader {
 public:
  JsonReader(const std::string& text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json value = read(where_, 0);
    skip();
    if (at_ != text_.size()) refuse();
    return value;
  }

 private:
  [[noreturn]] void refuse() const {
    throw Failure(where_ + " is damaged: no JSON at byte " + std::to_string(at_));
  }

  void skip() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_])) ++at_;
  }

  char peek() {
    skip();
    if (at_ >= text_.size()) refuse();
    return text_[at_];
  }

  void expect(char wanted) {
    if (peek() != wanted) refuse();
    ++at_;
  }

  bool take(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  Json read(const std::string& where, int depth) {
    if (depth > kDeepest) refuse();
    Json value;
    value.where_ = where;
    const char first = peek();
    if (first == '{') {
      value.kind_ = Json::Kind::object;
      read_members(value, depth);
    } else if (first == '[') {
      value.kind_ = Json::Kind::array;
      read_items(value, depth);
    } else if (first == '"') {
      value.kind_ = Json::Kind::string;
      value.text_ = read_string();
    } else {
      read_scalar(value);
    }
    return value;
  }

  void read_members(Json& value, int depth) {
    expect('{');
    if (take('}')) return;
    do {
      if (peek() != '"') refuse();
      value.keys_.push_back(read_string());
      expect(':');
      value.items_.push_back(read(value.where_ + " " + value.keys_.back(), depth + 1));
    } while (take(','));
    expect('}');
  }

  void read_items(Json& value, int depth) {
    expect('[');
    if (take(']')) return;
    do {
      value.items_.push_back(read(value.where_ + "[" + std::to_string(value.items_.size()) + "]", depth + 1));
    } while (take(','));
    expect(']');
  }

  void read_scalar(Json& value) {
    const std::size_t end = text_.find_first_of(",]} \t\r\n", at_);
    value.text_ = text_.substr(at_, end == std::string::npos ? end : end - at_);
    if (value.text_ == "true" || value.text_ == "false" || value.text_ == "null") {
      value.kind_ = Json::Kind::word;
    } else {
      char* stop = nullptr;
      std::strtod(value.text_.c_str(), &stop);
      if (value.text_.empty() || *stop) refuse();
      value.kind_ = Json::Kind::number;
    }
    at_ += value.text_.size();
  }

  std::string read_string() {
    std::string out;
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') {
        ++at_;
        read_escape(out);
      } else {
        out += text_[at_];
      }
    }
    if (at_ >= text_.size()) refuse();
    ++at_;
    return out;
  }

  void read_escape(std::string& out) {
    if (at_ >= text_.size()) refuse();
    static const char codes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (text_[at_] == 'u') {
      append_utf8(out, read_code_point());
    } else if (const char* found = std::strchr(codes, text_[at_])) {
      out += meanings[found - codes];
    } else {
      refuse();
    }
  }

  // Leaves `at_` on the last digit. A pair of surrogates is one code point.
  unsigned long read_code_point() {
    const unsigned long high = read_hex();
    if (high < 0xd800 || high > 0xdbff) return high;
    if (text_.compare(at_ + 1, 2, "\\u") != 0) refuse();
    at_ += 2;
    const unsigned long low = read_hex();
    if (low < 0xdc00 || low > 0xdfff) refuse();
    return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
  }

  unsigned long read_hex() {
    const std::string digits = text_.substr(at_ + 1, 4);
    if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) refuse();
    at_ += 4;
    return std::strtoul(digits.c_str(), nullptr, 16);
  }

  static void append_utf8(std::string& out, unsigned long code) {
    const auto add = [&](unsigned long byte) { out += static_cast<char>(byte); };
    if (code < 0x80) {
      add(code);
    } else if (code < 0x800) {
      add(0xc0 | code >> 6), add(0x80 | (code & 63));
    } else if (code < 0x10000) {
      add(0xe0 | code >> 12), add(0x80 | (code >> 6 & 63)), add(0x80 | (code & 63));
    } else {
      add(0xf0 | code >> 18), add(0x80 | (code >> 12 & 63)), add(0x80 | (code >> 6 & 63));
      add(0x80 | (code & 63));
    }
  }

  const std::string& text_;
  const std::string where_;
  std::size_t at_ = 0;
};

Json Json::parse(const std::string& text, const std::string& where) {
  return JsonReader(text, where).document();
}

void Json::refuse(const char* expected) const { throw Failure(where_ + " is not " + expected); }

const Json& Json::at(const std::string& key) const {
  if (kind_ != Kind::object) refuse("an object");
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i] == key) return items_[i];
  }
  throw Failure(where_ + " has no " + key);
}

bool Json::has(const std::string& key) const {
  return std::find(keys_.begin(), keys_.end(), key) != keys_.end();
}

const std::vector<Json>& Json::list() const {
  if (kind_ != Kind::array) refuse("a list");
  return items_;
}

const std::string& Json::text() const {
  if (kind_ != Kind::string) refuse("a string");
  return text_;
}

std::int64_t Json::integer() const {
  char* stop = nullptr;
  errno = 0;
  const long long value = std::strtoll(text_.c_str(), &stop, 10);
  if (kind_ != Kind::number || *stop || errno) refuse("an integer");
  return value;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace aqd
