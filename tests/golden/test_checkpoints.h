// Checkpoint directories for tests. Those of the golden files whose weights are not in the tree are bit-identical to
// the formula of common/model/synth.h: they are written to a temporary directory that goes away with the object.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "tests/temporary_directory.h"

namespace baton {

class TestCheckpoint {
 public:
  // `name` of tests/data/golden: "gemma-tiny", "gemma2-tiny-bf16-sharded", ...
  static absl::StatusOr<TestCheckpoint> Golden(const std::string& name);
  // deploy/models/<name>.
  static TestCheckpoint Bundled(const std::string& name);
  const std::string& directory() const { return directory_; }

 private:
  explicit TestCheckpoint(std::string directory) : directory_(std::move(directory)) {}
  explicit TestCheckpoint(std::unique_ptr<TemporaryDirectory> temporary)
      : temporary_(std::move(temporary)), directory_(temporary_->path()) {}

  std::unique_ptr<TemporaryDirectory> temporary_;  // null for those in the tree
  std::string directory_;
};

// tests/data/golden/<name>.golden.safetensors; shards share the file of the checkpoint they were cut from.
std::string GoldenPath(const std::string& name);

}  // namespace baton
