// A check that ends the program, and says what was being done.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

inline std::string doing;  // what a failure is reported with

[[noreturn]] inline void fail(const char* file, int line, const char* expression) {
    std::fprintf(stderr, "%s:%d: not so: %s\n  in %s\n", file, line, expression, doing.c_str());
    std::exit(1);
}

#define CHECK(expression) ((expression) ? void() : fail(__FILE__, __LINE__, #expression))
