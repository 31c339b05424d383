// Asks for the fleet's status again and again on a thread of its own, so that keys are obeyed while an answer is
// awaited.
//
//   StatusPoller poller([&](double window_seconds) { return Ask(session, window_seconds); }, {.interval = ...});
//   ... poll poller.fd() ...
//   if (auto answer = poller.Take()) ...                      // absl::StatusOr<v1::GetStatusResponse>
//
// Thread-safe. The destructor waits for a question that is being asked: cancel it first.
#pragma once

#include <functional>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "baton/v1/inference.pb.h"

namespace baton::cli {

struct StatusPolling {
  // Between questions, from one's beginning to the next one's.
  absl::Duration interval = absl::Seconds(1);
  double window_seconds = 10;
  // Nothing is asked.
  bool paused = false;
};

class StatusPoller {
 public:
  using Answer = absl::StatusOr<v1::GetStatusResponse>;
  using Ask = std::function<Answer(double window_seconds)>;

  // The first question is asked one interval from now.
  StatusPoller(Ask ask, const StatusPolling& polling);
  ~StatusPoller();
  StatusPoller(const StatusPoller&) = delete;

  // From now on. Another window, and the end of a pause, ask at once.
  void Set(const StatusPolling& polling);
  // Readable when there is an answer to take.
  int fd() const { return event_; }
  // The latest answer, once.
  absl::optional<Answer> Take();

 private:
  void Loop();
  // Waits until the next question is due; false: stop.
  bool AwaitTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Ask ask_;
  // eventfd.
  int event_ = -1;
  absl::Mutex mutex_;
  StatusPolling polling_ ABSL_GUARDED_BY(mutex_);
  // Something other than the passing of time has happened.
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_asked_ ABSL_GUARDED_BY(mutex_);
  absl::optional<Answer> answer_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace baton::cli
