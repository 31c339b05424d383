// Feeds arbitrary bytes to SafetensorsFile::Parse, as a damaged or hostile checkpoint could.
//
// Input: the file. Where it is long enough, the length field is also made right, so that mutations of the header reach
// the JSON and what comes after it.
//
// Held: no crash; of a file that is taken, every tensor lies inside the data, fits its shape and type, can be read as
// floats, and the tensors cover the data exactly; a refusal names the file.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/model/safetensors_file.h"

namespace baton {
namespace {

constexpr char kPath[] = "fuzz.safetensors";
constexpr size_t kLengthBytes = 8;

void CheckTensor(const TensorView& tensor, absl::string_view file) {
  const auto* begin = reinterpret_cast<const std::byte*>(file.data());
  BATON_CHECK(tensor.data >= begin + kLengthBytes && tensor.data <= begin + file.size());
  BATON_CHECK(tensor.bytes >= 0 && tensor.bytes <= begin + file.size() - tensor.data);
  int64_t elements = 1;
  for (int64_t dimension : tensor.shape) elements *= dimension;
  BATON_CHECK(elements == tensor.elements() && elements * TensorTypeBytes(tensor.type) == tensor.bytes);
  std::vector<float> values(static_cast<size_t>(elements));
  tensor.ToFloat(0, absl::MakeSpan(values));
}

void ParseAndCheck(absl::string_view bytes) {
  const auto file = SafetensorsFile::Parse(bytes, kPath);
  if (!file.ok()) {
    BATON_CHECK(absl::StrContains(absl::string_view(file.status().message()), kPath));
    return;
  }
  int64_t covered = 0;
  for (const TensorView& tensor : file->tensors()) {
    CheckTensor(tensor, bytes);
    BATON_CHECK(file->Find(tensor.name) == &tensor);
    covered += tensor.bytes;
  }
  uint64_t header = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) header |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  BATON_CHECK(kLengthBytes + header + static_cast<uint64_t>(covered) == bytes.size());
}

// The same bytes with the header reaching up to the last '}'.
std::string WithHeaderLength(absl::string_view bytes) {
  std::string fixed(bytes);
  const size_t end = bytes.rfind('}');
  if (end == absl::string_view::npos || end < kLengthBytes) return fixed;
  const uint64_t length = end + 1 - kLengthBytes;
  for (size_t i = 0; i < kLengthBytes; ++i) fixed[i] = static_cast<char>(length >> (8 * i));
  return fixed;
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of its own, so that AddressSanitizer sees every byte read beyond its end.
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  baton::ParseAndCheck(bytes);
  if (size > baton::kLengthBytes) baton::ParseAndCheck(baton::WithHeaderLength(bytes));
  return 0;
}
