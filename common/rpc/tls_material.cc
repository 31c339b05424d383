#include "common/rpc/tls_material.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

constexpr size_t kMaxFileBytes = size_t{4} << 20;
// Debian's; others link it to theirs.
constexpr char kSystemCaFile[] = "/etc/ssl/certs/ca-certificates.crt";

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
struct FreeCertificate {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Certificate = std::unique_ptr<X509, FreeCertificate>;
using Key = std::unique_ptr<EVP_PKEY, FreeKey>;

std::unique_ptr<BIO, FreeBio> Reader(const std::string& text) {
  return std::unique_ptr<BIO, FreeBio>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// For encrypted keys: without it OpenSSL would ask on the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

absl::Status Wrong(const std::string& path, absl::string_view what) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

// All certificates of a text; anything else in it is passed over.
std::vector<Certificate> ReadCertificates(const std::string& text) {
  std::vector<Certificate> certificates;
  const auto reader = Reader(text);
  while (X509* const certificate = PEM_read_bio_X509(reader.get(), nullptr, NoPassword, nullptr)) {
    certificates.emplace_back(certificate);
  }
  ERR_clear_error();
  return certificates;
}

absl::StatusOr<absl::Time> ToTime(const ASN1_TIME* time, const std::string& path) {
  std::tm parts = {};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return Wrong(path, "the certificate's dates make no sense");
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string Day(absl::Time time) { return absl::FormatTime("%Y-%m-%d %H:%M UTC", time, absl::UTCTimeZone()); }

absl::Status LoadIdentity(const TlsPaths& paths, absl::Time now, TlsMaterial* material) {
  BATON_ASSIGN_OR_RETURN(const std::string cert_text, ReadFileOrPipe(paths.cert, kMaxFileBytes));
  BATON_ASSIGN_OR_RETURN(const std::string key_text, ReadFileOrPipe(paths.key, kMaxFileBytes));
  const std::vector<Certificate> chain = ReadCertificates(cert_text);
  if (chain.empty()) return Wrong(paths.cert, "there is no PEM certificate in it");
  const Key key(PEM_read_bio_PrivateKey(Reader(key_text).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) return Wrong(paths.key, "there is no PEM private key in it that needs no password");
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    return Wrong(paths.key, absl::StrCat("is not the key of the first certificate in ", paths.cert));
  }
  BATON_ASSIGN_OR_RETURN(const absl::Time begin, ToTime(X509_get0_notBefore(chain.front().get()), paths.cert));
  BATON_ASSIGN_OR_RETURN(material->expires, ToTime(X509_get0_notAfter(chain.front().get()), paths.cert));
  if (now >= material->expires) {
    return Wrong(paths.cert, absl::StrCat("the certificate expired on ", Day(material->expires)));
  }
  if (now < begin) return Wrong(paths.cert, absl::StrCat("the certificate is not valid before ", Day(begin)));
  material->identity = absl::StrCat(key_text, "\n", cert_text);
  return absl::OkStatus();
}

absl::Status LoadRoots(const TlsPaths& paths, TlsMaterial* material) {
  const std::string path = paths.ca == kSystemCas ? kSystemCaFile : paths.ca;
  BATON_ASSIGN_OR_RETURN(material->roots, ReadFileOrPipe(path, kMaxFileBytes));
  if (ReadCertificates(material->roots).empty()) return Wrong(path, "there is no PEM certificate in it");
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> TlsPaths::Files() const {
  std::vector<std::string> files;
  for (const std::string& path : {cert, key, ca == kSystemCas ? std::string(kSystemCaFile) : ca}) {
    if (!path.empty()) files.push_back(path);
  }
  return files;
}

absl::StatusOr<TlsMaterial> LoadTlsMaterial(const TlsPaths& paths, absl::Time now) {
  TlsMaterial material;
  if (!paths.cert.empty()) BATON_RETURN_IF_ERROR(LoadIdentity(paths, now, &material));
  if (!paths.ca.empty()) BATON_RETURN_IF_ERROR(LoadRoots(paths, &material));
  return material;
}

}  // namespace baton
