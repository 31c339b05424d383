// Random identifiers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace baton {

// From the operating system's generator; never 0.
uint64_t RandomUint64();
// So many bytes, at most 256, from the same.
std::string RandomBytes(size_t count);
// 16 hex digits: the name of one start of a process.
std::string NewBootId();
// "req-" and 20 hex digits.
std::string NewRequestId();

}  // namespace baton
