#include "bench/figures_file.h"

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace baton {
namespace {

absl::Status Write(const std::string& path, std::ios::openmode mode, absl::string_view text) {
  std::ofstream file(path, std::ios::binary | mode);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path));
}

}  // namespace

absl::Status CheckFiguresFile(const std::string& path) {
  if (path.empty() || path == "-") return absl::OkStatus();
  return Write(path, std::ios::app, "");
}

absl::Status WriteFigures(const std::string& path, absl::string_view text) {
  if (path.empty()) return absl::OkStatus();
  if (path != "-") return Write(path, std::ios::trunc, text);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return absl::OkStatus();
}

}  // namespace baton
