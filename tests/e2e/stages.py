"""Requests held in one stage of their life, by fault injection, so that tests can end them there.

A stage is a slow fleet (flags), a request, and a way to see that the request has arrived in the stage. Each would go on
for far longer than any test waits.
"""
from messages import long_request, next_delta
from process import wait_until


class Held:
    """A request in its stage. `stream` is what the client holds."""

    def __init__(self, fleet, stream):
        self.fleet = fleet
        self.stream = stream


def _value(workers, name):
    return sum(worker.value(name) for worker in workers if worker.running())


class Queued:
    """Behind another request at the gateway."""
    options = {"gateway_flags": ["--max-running", "1"], "decode_flags": ["--inject-step-delay-ms", "50"]}

    @staticmethod
    def hold(fleet):
        first = fleet.stream(long_request(20, 1000))
        next_delta(first)
        stream = fleet.stream(long_request(20, 1000))
        wait_until(lambda: fleet.gateway.value("baton_requests_waiting") == 1, "a request waits")
        held = Held(fleet, stream)
        held.first = first
        return held


class Prefill:
    """Half-way through its prompt."""
    options = {"prefill_flags": ["--chunk-tokens", "8", "--inject-step-delay-ms", "200"]}

    @staticmethod
    def hold(fleet):
        stream = fleet.stream(long_request(800, 50))
        wait_until(lambda: 0 < _value(fleet.prefills, "baton_queued_tokens") < 800, "prefill is under way")
        wait_until(lambda: _value(fleet.decodes, "baton_state_bytes_used") > 0, "decode has reserved")
        return Held(fleet, stream)


class Handoff:
    """First token delivered, state on its way."""
    options = {"prefill_flags": ["--inject-handoff-delay-ms", "4000"]}

    @staticmethod
    def hold(fleet):
        stream = fleet.stream(long_request(100, 50))
        next_delta(stream)
        assert _value(fleet.prefills, "baton_requests_running") == 1
        assert _value(fleet.decodes, "baton_requests_waiting") == 1
        return Held(fleet, stream)


class Decode:
    """Tokens are coming from the decode worker."""
    options = {"decode_flags": ["--inject-step-delay-ms", "50"]}

    @staticmethod
    def hold(fleet):
        stream = fleet.stream(long_request(20, 1000))
        next_delta(stream)
        next_delta(stream)
        assert _value(fleet.decodes, "baton_requests_running") == 1
        return Held(fleet, stream)


ALL = [Queued, Prefill, Handoff, Decode]
