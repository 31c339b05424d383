// Runs a fuzz target once on each file of a folder: its corpus as an ordinary test, for builds without libFuzzer.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/mapped_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
    return 2;
  }
  int replayed = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    const absl::StatusOr<std::string> input = baton::ReadFile(entry.path().string());
    if (!input.ok()) {
      std::fprintf(stderr, "%s\n", std::string(input.status().message()).c_str());
      return 1;
    }
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input->data()), input->size());
    ++replayed;
  }
  std::printf("%d inputs replayed\n", replayed);
  // A corpus that isn't there must not pass for one that held.
  return replayed > 0 ? 0 : 1;
}
