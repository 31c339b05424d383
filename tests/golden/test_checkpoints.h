// Checkpoint directories for tests. Those of the golden files whose weights are not in the tree are bit-identical to
// the formula of common/model/synth.h: they are written to a temporary directory that goes away with the object.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace baton {

class TestCheckpoint {
 public:
  // `name` of tests/data/golden: "gemma-tiny", "gemma2-tiny-bf16-sharded", ...
  static absl::StatusOr<TestCheckpoint> Golden(const std::string& name);
  // deploy/models/<name>.
  static TestCheckpoint Bundled(const std::string& name);
  TestCheckpoint(TestCheckpoint&& other) noexcept;
  TestCheckpoint& operator=(TestCheckpoint&&) = delete;
  ~TestCheckpoint();

  const std::string& directory() const { return directory_; }

 private:
  TestCheckpoint(std::string directory, bool temporary) : directory_(std::move(directory)), temporary_(temporary) {}

  std::string directory_;
  bool temporary_ = false;
};

// tests/data/golden/<name>.golden.safetensors; shards share the file of the checkpoint they were cut from.
std::string GoldenPath(const std::string& name);

}  // namespace baton
