// Gives gRPC keys and certificates, and new ones when the files change: connections made afterwards use them, those
// that stand are not touched.
//
// gRPC 1.51 can watch files by itself, but it takes what it finds: a key that does not go with its certificate, or half
// a file, and every handshake fails until the files are good again. So it watches copies in memory, which are replaced,
// key and certificate as one, by what LoadTlsMaterial has found good. Anything else is logged and changes nothing.
//
//   BATON_ASSIGN_OR_RETURN(std::unique_ptr<TlsSource> source, TlsSource::Open("server", paths));
//   options.set_certificate_provider(source->provider());
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include <grpcpp/security/tls_certificate_provider.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_watcher.h"
#include "common/observe/metrics.h"
#include "common/rpc/tls_material.h"

namespace baton {

class TlsSource {
 public:
  // `use`: "server" or "client", for logs and metrics. `paths` names at least one file.
  static absl::StatusOr<std::unique_ptr<TlsSource>> Open(const std::string& use, const TlsPaths& paths,
                                                         absl::Duration interval = absl::Seconds(1));
  ~TlsSource();
  TlsSource(const TlsSource&) = delete;

  const std::shared_ptr<grpc::experimental::CertificateProviderInterface>& provider() const { return provider_; }
  // Null: no more. `metrics` must outlive the call with null, or this.
  void SetMetrics(Metrics* metrics);

 private:
  // A file in memory that gRPC reads by its name in /proc. Replaced under the same number, so that its name stays.
  class MemoryFile {
   public:
    absl::Status Replace(const std::string& text);
    std::string path() const;

   private:
    int fd_ = -1;
    int replacements_ = 0;
  };

  TlsSource(const std::string& use, const TlsPaths& paths) : use_(use), paths_(paths), watcher_(paths.Files()) {}
  absl::Status Load();
  void Reload();
  void ExportExpiry();

  const std::string use_;
  const TlsPaths paths_;
  FileWatcher watcher_;
  MemoryFile identity_;
  MemoryFile roots_;
  std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider_;

  std::mutex mutex_;
  // Guarded by mutex_.
  Metrics* metrics_ = nullptr;
  absl::Time expires_ = absl::InfiniteFuture();
};

}  // namespace baton
