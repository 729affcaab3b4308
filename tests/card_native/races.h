// What ThreadSanitizer must know of emulated threads: which there are, what orders them, and what is not the kernel's.
//
// Fibers are switched without ordering them. Blocks take turns with two sets of fibers, since making one takes
// milliseconds: a block and the next one are not ordered, and a launch is behind all that was before it.
#pragma once
#if defined(__SANITIZE_THREAD__)
#define AQD_UNWATCHED __attribute__((no_sanitize("thread")))
// A function that switches would be left on another stack of ThreadSanitizer's than it was entered on.
#define AQD_INLINED __attribute__((always_inline))
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();

namespace aqd {
inline void happens_before(void *place) { __tsan_release(place); }
inline void happens_after(void *place) { __tsan_acquire(place); }
struct Quiet {  // the emulation's own memory is read and written
  static void begin() { __tsan_ignore_thread_begin(); }
  static void end() { __tsan_ignore_thread_end(); }
  Quiet() { begin(); }
  ~Quiet() { end(); }
};
struct Fiber {
  enum { SETS = 2, STACK = 256 << 10, UNITS = 16, WATCHED = 1 };
  void *known = nullptr;
  inline static void *main = nullptr;
  static constexpr unsigned UNORDERED = __tsan_switch_to_fiber_no_sync;
  void begin() {
    if (!main) main = __tsan_get_current_fiber();
    if (!known) known = __tsan_create_fiber(0);
  }
  AQD_INLINED void go() { __tsan_switch_to_fiber(known, UNORDERED); }
  AQD_INLINED static void to_scheduler() { __tsan_switch_to_fiber(main, UNORDERED); }
  // What a unit of the card does by itself: behind whatever its thread had done when it asked for it.
  static std::function<void()> engine(std::function<void()> f) {
    auto place = std::make_shared<char>();
    happens_before(place.get());
    return [place, f = std::move(f)] {
      static Fiber units[UNITS];
      static int turn = 0;
      Fiber &unit = units[turn++ % UNITS];
      unit.begin();
      unit.go();
      happens_after(place.get());
      f();
      to_scheduler();
    };
  }
};
}  // namespace aqd
#else
#define AQD_UNWATCHED
namespace aqd {
inline void happens_before(void *) {}
inline void happens_after(void *) {}
struct Quiet {
  static void begin() {}
  static void end() {}
  Quiet() {}
};
struct Fiber {
  enum { SETS = 1, STACK = 64 << 10, WATCHED = 0 };
  void begin() {}
  void go() {}
  static void to_scheduler() {}
  static std::function<void()> engine(std::function<void()> f) { return f; }
};
}  // namespace aqd
#endif
