// Propagation of absl::Status, and the check for what cannot happen.
//
//   absl::StatusOr<Config> Load(const std::string& path) {
//     BATON_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
//     BATON_RETURN_IF_ERROR(Validate(text));
//     ...
//
// What a client, file, peer or flag can cause is a Status. BATON_CHECK is for broken invariants of our own: it prints
// the place and aborts.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define BATON_MACRO_CONCAT_INNER(a, b) a##b
#define BATON_MACRO_CONCAT(a, b) BATON_MACRO_CONCAT_INNER(a, b)

#define BATON_RETURN_IF_ERROR(expr)                               \
  do {                                                            \
    if (absl::Status baton_status = (expr); !baton_status.ok()) { \
      return baton_status;                                        \
    }                                                             \
  } while (false)

#define BATON_ASSIGN_OR_RETURN(lhs, expr) \
  BATON_ASSIGN_OR_RETURN_INNER(BATON_MACRO_CONCAT(baton_statusor_, __LINE__), lhs, expr)
#define BATON_ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return std::move(tmp).status();     \
  lhs = std::move(tmp).value()

#define BATON_CHECK(condition)                                                           \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
