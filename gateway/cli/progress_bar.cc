#include "gateway/cli/progress_bar.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/bytes.h"
#include "gateway/cli/format.h"

namespace baton::cli {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(100);
constexpr int kBarColumns = 30;

}  // namespace

void ProgressBar::Update(int64_t done, int64_t total) {
  const absl::Time now = absl::Now();
  if (total <= 0 || (now - drawn_ < kProgressInterval && done < total)) return;
  drawn_ = now;
  const double fraction = static_cast<double>(done) / static_cast<double>(total);
  const int full = static_cast<int>(fraction * kBarColumns);
  const double elapsed = absl::ToDoubleSeconds(now - start_);
  std::string line =
      absl::StrFormat("\r[%s%s] %3.0f%%  %s of %s", std::string(full, '#'), std::string(kBarColumns - full, '.'),
                      100 * fraction, FormatBytes(done), FormatBytes(total));
  if (done > 0 && done < total && elapsed > 1) {
    absl::StrAppend(&line, "  ", FormatSeconds(elapsed * (1 - fraction) / fraction), " left");
  }
  terminal_.Note(line + "\033[K");
}

}  // namespace baton::cli
