#include "common/model/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/full_io.h"
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
  FileDescriptor file(open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file.is_open()) return absl::ErrnoToStatus(errno, absl::StrCat("can't create ", partial));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, std::move(file)));
  const std::string header = SafetensorsHeader(specs, type);
  int64_t end = static_cast<int64_t>(header.size());
  for (const TensorSpec& spec : specs) {
    writer->begins_.push_back(end);
    end += SpecBytes(spec, type);
  }
  if (ftruncate(writer->file_.get(), end) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("can't extend ", partial));
  BATON_RETURN_IF_ERROR(writer->WriteAt(0, header));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_.is_open()) std::remove(PartialPath().c_str());
}

std::string SafetensorsWriter::PartialPath() const { return path_ + ".partial"; }

absl::Status SafetensorsWriter::WriteAt(int64_t position, absl::string_view data) {
  const int error = WriteAllAt(file_.get(), position, data);
  return error == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, absl::StrCat("can't write ", PartialPath()));
}

absl::Status SafetensorsWriter::Write(size_t tensor, int64_t offset, absl::string_view data) {
  BATON_CHECK(file_.is_open() && tensor < begins_.size());
  return WriteAt(begins_[tensor] + offset, data);
}

absl::Status SafetensorsWriter::Finish() {
  BATON_CHECK(file_.is_open());
  const std::string partial = PartialPath();
  // Network file systems report a full disk only here.
  if (close(file_.Release()) != 0) {
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
