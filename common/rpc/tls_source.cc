#include "common/rpc/tls_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "common/base/full_io.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"

namespace baton {
namespace {

// The shortest that gRPC knows.
constexpr unsigned kRefreshSeconds = 1;

}  // namespace

absl::Status TlsSource::MemoryFile::Replace(const std::string& text) {
  FileDescriptor file(memfd_create("baton-tls", MFD_CLOEXEC));
  const auto failed = [](int error) { return absl::ErrnoToStatus(error, "cannot keep certificates in memory"); };
  if (!file.is_open()) return failed(errno);
  if (const int error = WriteAll(file.get(), text); error != 0) return failed(error);
  // gRPC reads key and certificate one after the other and begins again when the file's time, in whole seconds, has
  // changed meanwhile.
  const timespec time = {++replacements_, 0};
  const timespec times[] = {time, time};
  if (futimens(file.get(), times) != 0) return failed(errno);
  if (fd_ < 0) {
    fd_ = file.Release();
    return absl::OkStatus();
  }
  return dup3(file.get(), fd_, O_CLOEXEC) < 0 ? failed(errno) : absl::OkStatus();
}

std::string TlsSource::MemoryFile::path() const { return fd_ < 0 ? "" : absl::StrCat("/proc/self/fd/", fd_); }

absl::StatusOr<std::unique_ptr<TlsSource>> TlsSource::Open(const std::string& use, const TlsPaths& paths,
                                                           absl::Duration interval) {
  std::unique_ptr<TlsSource> source(new TlsSource(use, paths));
  BATON_RETURN_IF_ERROR(source->Load());
  const std::string identity = source->identity_.path();
  source->provider_ = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      identity, identity, source->roots_.path(), kRefreshSeconds);
  source->watcher_.Start(interval, [raw = source.get()] { raw->Reload(); });
  return source;
}

// The memory files stay open: gRPC reads them for as long as anything made with the provider is left.
TlsSource::~TlsSource() { watcher_.Stop(); }

absl::Status TlsSource::Load() {
  BATON_ASSIGN_OR_RETURN(const TlsMaterial material, LoadTlsMaterial(paths_));
  if (!material.identity.empty()) BATON_RETURN_IF_ERROR(identity_.Replace(material.identity));
  if (!material.roots.empty()) BATON_RETURN_IF_ERROR(roots_.Replace(material.roots));
  std::lock_guard<std::mutex> lock(mutex_);
  expires_ = material.expires;
  ExportExpiry();
  return absl::OkStatus();
}

void TlsSource::Reload() {
  const absl::Status status = Load();
  if (status.ok()) {
    Log(Severity::kInfo, "tls_reloaded").With("use", use_);
  } else {
    Log(Severity::kError, "tls_not_reloaded")
        .With("use", use_)
        .With("error", status)
        .With("advice", "what was there before is used on");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (metrics_ == nullptr) return;
  metrics_
      ->AddCounter("baton_reloads_total", "Files read again after a change.",
                   {{"what", absl::StrCat("tls_", use_)}, {"result", status.ok() ? "ok" : "failed"}})
      .Increment();
}

void TlsSource::SetMetrics(Metrics* metrics) {
  std::lock_guard<std::mutex> lock(mutex_);
  metrics_ = metrics;
  ExportExpiry();
}

void TlsSource::ExportExpiry() {
  if (metrics_ == nullptr || expires_ == absl::InfiniteFuture()) return;
  metrics_
      ->AddGauge("baton_tls_certificate_expiry_timestamp_seconds", "When the certificate in use stops being valid.",
                 {{"use", use_}})
      .Set(absl::ToDoubleSeconds(expires_ - absl::UnixEpoch()));
}

}  // namespace baton
