#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <source_location>

namespace omni_rt::testing {

/// Ends the program, naming the caller's file and line, unless `holds`. Works in Release builds.
inline void check(bool holds, std::source_location at = std::source_location::current()) {
  if (holds) return;
  std::fprintf(stderr, "%s:%u: check failed in %s\n", at.file_name(),
               static_cast<unsigned>(at.line()), at.function_name());
  std::exit(1);
}

/// Whether |value − expected| is at most `relative` of |expected|, or of 1 if that is more.
inline bool near(double value, double expected, double relative) {
  return std::abs(value - expected) <= relative * std::fmax(1.0, std::abs(expected));
}

/// Checks that `action()` throws an Error.
template <typename Error, typename Action>
void check_throws(Action action, std::source_location at = std::source_location::current()) {
  bool thrown = false;
  try {
    action();
  } catch (const Error&) {
    thrown = true;
  }
  check(thrown, at);
}

}  // namespace omni_rt::testing
