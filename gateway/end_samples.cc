#include "gateway/end_samples.h"

#include <chrono>

#include <grpcpp/grpcpp.h>

namespace baton {
namespace {

// After this the request itself has ended in most cases; a worker that is slower has other troubles.
constexpr std::chrono::seconds kPatience{5};

struct Call {
  // Keeps the channel.
  std::shared_ptr<WorkerConnection> connection;
  grpc::ClientContext context;
  worker::v1::EndSamplesRequest request;
  worker::v1::EndSamplesResponse response;
};

}  // namespace

void EndSamples(const std::shared_ptr<WorkerConnection>& connection, const worker::v1::Reservation& reservation,
                const std::vector<int32_t>& samples, SampleEnding ending) {
  const auto call = std::make_shared<Call>();
  call->connection = connection;
  call->context.set_deadline(std::chrono::system_clock::now() + kPatience);
  call->request.set_boot_id(reservation.boot_id());
  call->request.set_reservation_id(reservation.reservation_id());
  call->request.set_generation(reservation.generation());
  call->request.mutable_samples()->Add(samples.begin(), samples.end());
  call->request.set_as_complete(ending == SampleEnding::kComplete);
  // The callback keeps the call until it has run.
  connection->decode->async()->EndSamples(&call->context, &call->request, &call->response,
                                          [call](const grpc::Status&) {});
}

}  // namespace baton
