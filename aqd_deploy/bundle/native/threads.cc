#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace aqd {
namespace {

// Where the kernel does not tell the period, in microseconds.
constexpr long long kPeriod = 100000;
constexpr int kMostThreads = 1000000;

struct Mount {
  int version;  // of the control groups
  std::string top, point;
};

// What the file says, "" where it cannot be read. Without streams, which would double the runner's size.
std::string read(const std::string& path) {
  std::string text;
  if (std::FILE* file = std::fopen(path.c_str(), "rb")) {
    char part[4096];
    for (std::size_t size; (size = std::fread(part, 1, sizeof part, file)) > 0;) text.append(part, size);
    std::fclose(file);
  }
  return text;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find(separator, start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

// The word of a text with this index, "" where it has fewer.
std::string word(const std::string& text, std::size_t index) {
  constexpr char kSpace[] = " \t\r\n";
  std::size_t start = text.find_first_not_of(kSpace);
  for (; index && start != std::string::npos; --index) {
    start = text.find_first_not_of(kSpace, std::min(text.find_first_of(kSpace, start), text.size()));
  }
  return start == std::string::npos ? "" : text.substr(start, text.find_first_of(kSpace, start) - start);
}

bool has(const std::vector<std::string>& parts, const char* wanted) {
  return std::find(parts.begin(), parts.end(), wanted) != parts.end();
}

// 0 for what is not a number of up to 18 digits.
long long number(const std::string& text) {
  const bool good = !text.empty() && text.size() <= 18 && text.find_first_not_of("0123456789") == std::string::npos;
  return good ? std::stoll(text) : 0;
}

// \040 for a space, and so on.
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string digits = text[i] == '\\' ? text.substr(i + 1, 3) : "";
    if (digits.size() == 3 && digits.find_first_not_of("01234567") == std::string::npos) {
      plain += static_cast<char>(std::stoi(digits, nullptr, 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::string without_slash(std::string path) {
  while (!path.empty() && path.back() == '/') path.pop_back();
  return path;
}

// Version and path of each group of /proc/self/cgroup that can have a quota.
std::vector<std::pair<int, std::string>> groups(const std::string& text) {
  std::vector<std::pair<int, std::string>> found;
  for (const std::string& line : split(text, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (line.substr(0, first) == "0" && controllers.empty()) {
      found.emplace_back(2, path);
    } else if (has(split(controllers, ','), "cpu")) {
      found.emplace_back(1, path);
    }
  }
  return found;
}

// The mounts of /proc/self/mountinfo that tell quotas.
std::vector<Mount> mounts(const std::string& text) {
  std::vector<Mount> found;
  for (const std::string& line : split(text, '\n')) {
    const std::size_t middle = line.find(" - ");
    if (middle == std::string::npos) continue;
    const std::vector<std::string> fields = split(line.substr(0, middle), ' ');
    const std::vector<std::string> kind = split(line.substr(middle + 3), ' ');
    if (fields.size() < 5 || kind.size() < 3) continue;
    const bool first = kind[0] == "cgroup" && has(split(kind[2], ','), "cpu");
    if (first || kind[0] == "cgroup2") found.push_back({first ? 1 : 2, unescaped(fields[3]), unescaped(fields[4])});
  }
  return found;
}

// Whether the group `path` is `top` or below it; `below` is the rest of it then.
bool is_below(const std::string& top, const std::string& path, std::string& below) {
  const std::string start = without_slash(top);
  if (path != start && path.compare(0, start.size() + 1, start + "/") != 0) return false;
  if (has(split(path, '/'), "..")) return false;
  below = path.substr(start.size());
  return true;
}

// CPUs; 0 where there is no limit.
double quota_in(int version, const std::string& folder) {
  std::string quota, period;
  if (version == 2) {
    const std::string text = read(folder + "/cpu.max");
    quota = word(text, 0);
    period = word(text, 1);
    if (period.empty()) period = std::to_string(kPeriod);
  } else {
    quota = word(read(folder + "/cpu.cfs_quota_us"), 0);
    period = word(read(folder + "/cpu.cfs_period_us"), 0);
  }
  const long long time = number(quota), of = number(period);
  return time && of ? static_cast<double>(time) / static_cast<double>(of) : 0;
}

void take_least(double& least, double quota) {
  if (quota > 0 && (least == 0 || quota < least)) least = quota;
}

// The least quota from a mount's group at the top down to the group `below` it.
void take_groups(double& least, const std::string& root, const Mount& mount, const std::string& below) {
  std::string folder = root + without_slash(mount.point);
  take_least(least, quota_in(mount.version, folder));
  for (const std::string& part : split(below, '/')) {
    if (part.empty()) continue;
    folder += "/" + part;
    take_least(least, quota_in(mount.version, folder));
  }
}

double read_quota(const std::string& root) {
  double least = 0;
  const std::vector<Mount> all = mounts(read(root + "/proc/self/mountinfo"));
  for (const auto& [version, path] : groups(read(root + "/proc/self/cgroup"))) {
    const Mount* first = nullptr;
    bool seen = false;
    std::string below;
    for (const Mount& mount : all) {
      if (mount.version != version) continue;
      if (!first) first = &mount;
      if (!is_below(mount.top, path, below)) continue;
      seen = true;
      take_groups(least, root, mount, below);
    }
    // In a namespace where no mount shows the own group, the mount is the group's own.
    if (first && !seen) take_groups(least, root, *first, "");
  }
  return least;
}

}  // namespace

int ThreadLimits::available() const {
  return quota > 0 && quota < affinity ? std::max(1, static_cast<int>(std::ceil(quota))) : affinity;
}

std::string ThreadLimits::json() const {
  char text[32] = "null";
  if (quota > 0) std::snprintf(text, sizeof text, "%.9g", quota);
  return "{\"affinity\": " + std::to_string(affinity) + ", \"quota\": " + text +
         ", \"openmp\": " + (openmp ? std::to_string(openmp) : "null") + "}";
}

ThreadLimits thread_limits(const std::string& root) {
  cpu_set_t set;
  ThreadLimits limits;
  if (sched_getaffinity(0, sizeof set, &set) == 0) limits.affinity = std::max(1, CPU_COUNT(&set));
  limits.quota = read_quota(root);
  limits.openmp = parse_openmp(std::getenv("OMP_NUM_THREADS"));
  return limits;
}

int parse_openmp(const char* text) {
  if (!text) return 0;
  while (*text == ' ' || *text == '\t') ++text;
  const char* start = text;
  long long value = 0;
  for (; *text >= '0' && *text <= '9'; ++text) value = std::min<long long>(10 * value + (*text - '0'), kMostThreads);
  const bool digits = text != start;
  while (*text == ' ' || *text == '\t') ++text;
  return digits && (*text == ',' || !*text) ? static_cast<int>(value) : 0;
}

}  // namespace aqd
