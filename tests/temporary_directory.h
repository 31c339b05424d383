// A directory of a test's own.
//
//   const TemporaryDirectory directory;
//   directory.Write("config.json", "{}");
//   Open(directory.path());
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"

namespace baton {

// Removed on destruction, with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_((std::filesystem::temp_directory_path() / "baton_test_XXXXXX").string()) {
    BATON_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string File(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

  void Write(absl::string_view name, absl::string_view text) const {
    std::ofstream file(File(name), std::ios::binary | std::ios::trunc);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    file.close();
    BATON_CHECK(!file.fail());
  }
  std::string Read(absl::string_view name) const {
    std::ifstream file(File(name), std::ios::binary);
    BATON_CHECK(file.good());
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  std::string path_;
};

}  // namespace baton
