#include "common/model/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

int64_t SpecBytes(const TensorSpec& spec, TensorType type) {
  int64_t bytes = TensorTypeBytes(type);
  for (int64_t dimension : spec.shape) bytes *= dimension;
  return bytes;
}

}  // namespace

std::string SafetensorsHeader(absl::Span<const TensorSpec> specs, TensorType type) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};  // transformers refuses files without it
  int64_t begin = 0;
  for (const TensorSpec& spec : specs) {
    const int64_t end = begin + SpecBytes(spec, type);
    header[spec.name] = {
        {"dtype", std::string(TensorTypeName(type))}, {"shape", spec.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start aligned
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  return length + text;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(const std::string& path,
                                                                             absl::Span<const TensorSpec> specs,
                                                                             TensorType type) {
  const std::string partial = path + ".partial";
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("can't create ", partial));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd));
  const std::string header = SafetensorsHeader(specs, type);
  int64_t end = static_cast<int64_t>(header.size());
  for (const TensorSpec& spec : specs) {
    writer->begins_.push_back(end);
    end += SpecBytes(spec, type);
  }
  if (ftruncate(fd, end) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("can't extend ", partial));
  BATON_RETURN_IF_ERROR(writer->WriteAt(0, header));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  std::remove(PartialPath().c_str());
}

std::string SafetensorsWriter::PartialPath() const { return path_ + ".partial"; }

absl::Status SafetensorsWriter::WriteAt(int64_t position, absl::string_view data) {
  while (!data.empty()) {
    const ssize_t count = pwrite(fd_, data.data(), data.size(), position);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("can't write ", PartialPath()));
    position += count;
    data.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Write(size_t tensor, int64_t offset, absl::string_view data) {
  BATON_CHECK(fd_ >= 0 && tensor < begins_.size());
  return WriteAt(begins_[tensor] + offset, data);
}

absl::Status SafetensorsWriter::Finish() {
  BATON_CHECK(fd_ >= 0);
  const std::string partial = PartialPath();
  // Network file systems report a full disk only here.
  if (close(std::exchange(fd_, -1)) != 0) {
    absl::Status status = absl::ErrnoToStatus(errno, absl::StrCat("can't write ", partial));
    std::remove(partial.c_str());
    return status;
  }
  if (std::rename(partial.c_str(), path_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("can't rename ", partial, " to ", path_));
  }
  return absl::OkStatus();
}

}  // namespace baton
