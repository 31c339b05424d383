// Keeps the threads on which gRPC runs the callbacks of client calls alive for the whole process.
//
// gRPC 1.51 starts them with the first channel that makes such a call and joins them when the last one is destroyed. A
// call's context holds its channel, and is destroyed where the call ends: on one of these threads. When that was the
// last reference to the last channel, the thread joins itself, and gRPC aborts ("assertion failed: prior > 0").
#pragma once

namespace baton {

// Cheap after the first time. NewChannel calls it.
void KeepCallbackThreads();

}  // namespace baton
