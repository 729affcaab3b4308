// aqd-run: runs the program of the bundle that it lies in and prints one JSON document.
//
// Order of work: options, manifest, CPU, hashes of all files; only then is anything of the bundle loaded.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstring>
#include <exception>

#include "bundle.h"
#include "engine.h"
#include "failure.h"
#include "json.h"
#include "threads.h"

namespace aqd {
namespace {

constexpr char kUsage[] =
    "usage: aqd-run [--input NAME=FILE]... [--output DIR] [--repeat N] [--warmup N] [--threads N] [--verify]\n"
    "\n"
    "Runs the program of the bundle beside this file and prints one JSON document.\n"
    "\n"
    "  --input NAME=FILE  an input as .npy or raw bytes; zeros where none is given\n"
    "  --output DIR       write outputs of the last run as DIR/0.npy, DIR/1.npy, ...\n"
    "  --repeat N         timed runs (default 1)\n"
    "  --warmup N         runs before them (default 0)\n"
    "  --threads N        threads (default: OMP_NUM_THREADS, or as compiled), at most those\n"
    "                     that it was compiled for, CPUs, and the quota of its control group\n"
    "  --verify           only check the files and the CPU\n";

struct Options {
  std::vector<std::string> inputs;  // NAME=FILE
  std::string output;
  int repeat = 1, warmup = 0, threads = 0;
  bool verify = false, help = false;
};

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

int parse_count(const std::string& option, const std::string& text, int least, int most) {
  int value = 0;
  bool good = !text.empty() && text.size() < 8 && text.find_first_not_of("0123456789") == std::string::npos;
  if (good) value = std::stoi(text);
  good = good && value >= least && value <= most;
  if (!good) {
    throw Failure(option + " takes a whole number; got '" + text + "'; valid: " + std::to_string(least) + " to " +
                  std::to_string(most));
  }
  return value;
}

Options parse_options(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    std::string option = words[i], value;
    if (option == "--verify") {
      options.verify = true;
      continue;
    }
    if (option == "--help" || option == "-h") {
      options.help = true;
      continue;
    }
    const std::size_t equals = option.find('=');
    const bool joined = option.compare(0, 2, "--") == 0 && equals != std::string::npos;
    if (joined) {
      value = option.substr(equals + 1);
      option.resize(equals);
    }
    static const char* const known[] = {"--input", "--output", "--repeat", "--warmup", "--threads"};
    if (std::find(std::begin(known), std::end(known), option) == std::end(known)) {
      throw Failure("unknown option '" + option +
                    "'; valid: --input, --output, --repeat, --warmup, --threads, --verify, --help");
    }
    if (!joined) {
      if (++i == count) throw Failure("option " + option + " needs a value; try: aqd-run --help");
      value = words[i];
    }
    if (option == "--input") options.inputs.push_back(value);
    if (option == "--output") options.output = value;
    if (option == "--repeat") options.repeat = parse_count(option, value, 1, 1000000);
    if (option == "--warmup") options.warmup = parse_count(option, value, 0, 1000000);
    if (option == "--threads") options.threads = parse_count(option, value, 1, 256);
  }
  return options;
}

std::string own_folder() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  if (size <= 0 || size == static_cast<ssize_t>(sizeof path)) {
    throw Failure("cannot find the bundle: /proc/self/exe cannot be read");
  }
  const std::string whole(path, static_cast<std::size_t>(size));
  const std::size_t slash = whole.find_last_of('/');
  return slash == 0 ? "/" : whole.substr(0, slash);
}

// The index of the input that `argument`, NAME=FILE, names. Names may contain '='.
std::size_t find_input(const std::string& argument, const std::vector<TensorInfo>& inputs) {
  std::string names;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::string start = inputs[i].name + "=";
    if (argument.compare(0, start.size(), start) == 0) return i;
    names += (i ? ", " : "") + inputs[i].name;
  }
  const std::size_t equals = argument.find('=');
  if (equals == std::string::npos) {
    throw Failure("--input takes NAME=FILE; got '" + argument + "'; valid names: " + names);
  }
  throw Failure("the program has no input " + argument.substr(0, equals) + "; valid: " + names);
}

std::vector<Storage> read_inputs(const Options& options, const std::vector<TensorInfo>& inputs) {
  std::vector<std::string> paths(inputs.size());
  for (const std::string& argument : options.inputs) {
    const std::size_t index = find_input(argument, inputs);
    if (!paths[index].empty()) throw Failure("input " + inputs[index].name + " is given twice");
    paths[index] = argument.substr(inputs[index].name.size() + 1);
    if (paths[index].empty()) throw Failure("input " + inputs[index].name + " is given without a file");
  }
  std::vector<Storage> data;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    data.push_back(paths[i].empty() ? zeros(bytes_of(inputs[i])) : read_tensor(paths[i], inputs[i]));
  }
  return data;
}

void make_folder(const std::string& path) {
  if (mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) {
    throw Failure("cannot make the folder " + path + ": " + std::strerror(errno));
  }
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) throw Failure(path + " is not a folder");
  if (access(path.c_str(), W_OK | X_OK) != 0) {
    throw Failure("cannot write into the folder " + path + ": " + std::strerror(errno));
  }
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9f", value);
  return text;
}

std::string shape_json(const std::vector<std::int64_t>& shape) {
  const std::string text = describe("", shape);
  return text.substr(1);
}

// Writes the outputs where a folder was given, and describes them.
std::string outputs_json(const std::vector<Output>& outputs, const std::string& folder) {
  std::string text;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    std::string file = "null";
    if (!folder.empty()) {
      const std::string name = std::to_string(i) + ".npy";
      write_npy(folder + "/" + name, outputs[i].dtype, outputs[i].shape, outputs[i].data);
      file = quoted(name);
    }
    text += std::string(i ? ", " : "") + "{\"name\": " + quoted(outputs[i].name) + ", \"dtype\": " +
            quoted(outputs[i].dtype) + ", \"shape\": " + shape_json(outputs[i].shape) + ", \"file\": " + file + "}";
  }
  return "[" + text + "]";
}

std::string seconds_json(Engine& engine, const Options& options) {
  for (int i = 0; i < options.warmup; ++i) engine.run();
  std::string text;
  for (int i = 0; i < options.repeat; ++i) {
    const Clock::time_point start = Clock::now();
    engine.run();
    text += (i ? ", " : "") + number(since(start));
  }
  return "[" + text + "]";
}

// The least of what was asked for (else what OMP_NUM_THREADS says), what the program was compiled for, and what
// the process has use for.
int used_threads(const Options& options, const Bundle& bundle, const ThreadLimits& limits) {
  const int asked = options.threads ? options.threads : limits.openmp ? limits.openmp : bundle.threads;
  return std::min({asked, bundle.threads, limits.available()});
}

std::string execute(const Options& options, Clock::time_point start) {
  const ThreadLimits limits = thread_limits();
  Bundle bundle = read_bundle(own_folder());
  check_cpu(bundle);
  const std::vector<Storage> data = read_inputs(options, bundle.inputs);
  check_files(bundle, std::min(limits.available(), 4));
  if (options.verify) {
    return "{\"target\": " + quoted(bundle.target) + ", \"files\": " + std::to_string(bundle.files.size()) +
           ", \"verify_seconds\": " + number(since(start)) + "}\n";
  }
  const double verified = since(start);
  if (!options.output.empty()) make_folder(options.output);
  const int threads = used_threads(options, bundle, limits);
  const std::unique_ptr<Engine> engine = bundle.card.empty() ? cpu_engine(bundle, threads) : card_engine(bundle);
  engine->set_inputs(bundle.inputs, data);
  const double loaded = since(start);
  const std::string seconds = seconds_json(*engine, options);
  return "{\"threads\": " + std::to_string(threads) + ", \"thread_limits\": " + limits.json() + ", \"verify_seconds\": " + number(verified) +
         ", \"load_seconds\": " + number(loaded) + ", \"seconds\": " + seconds +
         ", \"outputs\": " + outputs_json(engine->outputs(bundle.outputs), options.output) + "}\n";
}

int fail(const std::string& sentence) {
  std::string line = sentence;
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fprintf(stderr, "error: %s\n", line.c_str());
  return 1;
}

int main(int count, char** words) {
  const Clock::time_point start = Clock::now();
  try {
    const Options options = parse_options(count, words);
    const std::string text = options.help ? kUsage : execute(options, start);
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
      return fail(std::string("cannot write to standard output: ") + std::strerror(errno));
    }
    return 0;
  } catch (const Failure& failure) {
    return fail(failure.sentence);
  } catch (const std::exception& error) {
    return fail(std::string("unexpected ") + error.what());
  }
}

}  // namespace
}  // namespace aqd

int main(int count, char** words) {
  const int code = aqd::main(count, words);
  // The runtime's worker threads need no farewell.
  std::fflush(stderr);
  _exit(code);
}
