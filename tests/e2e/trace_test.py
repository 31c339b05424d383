"""One request's trace across gateway, prefill and decode, as a collector gets it by OTLP and as `baton trace` shows it."""
import concurrent.futures
import json
import subprocess
import threading

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from certificates import Authority
from fleet import GEMMA
from messages import Answer, chat, exactly, failure_of
from otlp import trace_pb2, trace_pb2_grpc
from process import BIN_DIR, wait_until

SECRET = "xylophone zeppelin quagmire"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN = "00f067aa0ba902b7"


class Collector(trace_pb2_grpc.TraceServiceServicer):
    """Keeps (service, boot id, span) of all it is sent."""

    def __init__(self, credentials=None):
        self._lock = threading.Lock()
        self._spans = []
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        trace_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        anywhere = "127.0.0.1:0"
        port = (self._server.add_secure_port(anywhere, credentials) if credentials
                else self._server.add_insecure_port(anywhere))
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def Export(self, request, context):
        with self._lock:
            for resource in request.resource_spans:
                names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [(names["service.name"], names["service.instance.id"], span) for span in scope.spans]
        return trace_pb2.ExportTraceServiceResponse()

    def of(self, trace_id):
        with self._lock:
            return [item for item in self._spans if item[2].trace_id.hex() == trace_id]

    def close(self):
        self._server.stop(None)


@pytest.fixture(scope="module")
def collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def fleet(launch, collector):
    export = ["--otlp-endpoint", collector.address]
    return launch(models=[GEMMA], decode=2, prefill_flags=export,
                  decode_flags=[*export, "--inject-step-delay-ms", "20"], gateway_flags=export)


def attributes(span):
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def baton_trace(fleet, request_id, *flags):
    return subprocess.run([BIN_DIR / "baton", "--gateway", fleet.gateway.address, "trace", request_id, *flags],
                          capture_output=True, text=True, timeout=60)


def ask(fleet, request_id, count, traceparent=None):
    request = chat(SECRET, stopping=exactly(count), request_id=request_id)
    metadata = [("traceparent", traceparent), ("tracestate", "vendor=value")] if traceparent else []
    return fleet.inference.GenerateStream(request, timeout=60, metadata=metadata)


def test_one_tree_with_a_failover(fleet, collector):
    stream = ask(fleet, "req-tree", 40, f"00-{TRACE_ID}-{CLIENT_SPAN}-01")
    answered = dict(stream.initial_metadata())["traceresponse"]
    assert answered.startswith(f"00-{TRACE_ID}-") and answered.endswith("-01")
    events = []
    killed = None
    for event in stream:
        events.append(event)
        if killed is None and sum(len(e.delta.token_ids) for e in events) >= 5:
            killed = next(worker for worker in fleet.decodes if worker.value("baton_requests_running") > 0)
            killed.kill()
    Answer(events)
    survivor = next(worker for worker in fleet.decodes if worker is not killed)

    def complete():
        spans = collector.of(TRACE_ID)
        # Both attempts were prefilled. Of the first one's decode worker there is at most what it had sent by then.
        served = sorted(span.name.split(".")[-1] for _, boot, span in spans
                        if span.kind == trace_pb2.Span.SPAN_KIND_SERVER and boot != killed.ready_fields["boot"])
        wanted = ["Decode/Receive", "Decode/Run", "Inference/GenerateStream", "Prefill/Run", "Prefill/Run"]
        return spans if served == wanted else None

    spans = wait_until(complete, "the collector has all spans")
    by_id = {span.span_id.hex(): span for _, _, span in spans}
    assert len(by_id) == len(spans), "a span id twice"
    roots = [span for span in by_id.values() if span.parent_span_id.hex() not in by_id]
    assert [root.name for root in roots] == ["baton.v1.Inference/GenerateStream"]
    root = roots[0]
    assert root.parent_span_id.hex() == CLIENT_SPAN
    assert answered == f"00-{TRACE_ID}-{root.span_id.hex()}-01"
    assert {service for service, _, _ in spans} == {"baton-gateway", "baton-prefill", "baton-decode"}
    boots = {(service, boot) for service, boot, _ in spans}
    for process in (fleet.gateway, *fleet.prefills, survivor):
        assert (f"baton-{process.role}", process.ready_fields["boot"]) in boots
    for span in by_id.values():
        assert span.trace_state == "vendor=value"
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    facts = attributes(root)
    assert facts["gen_ai.request.model"] == GEMMA
    assert facts["gen_ai.usage.output_tokens"] == 40
    assert facts["baton.attempts"] == 2

    attempts = sorted((span for span in by_id.values() if span.name == "attempt"),
                      key=lambda span: attributes(span)["baton.attempt"])
    assert [attributes(attempt)["baton.attempt"] for attempt in attempts] == [1, 2]
    assert attempts[0].status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert attributes(attempts[0])["error.type"] == "lost"
    assert attributes(attempts[0])["baton.stage"] == "decode"
    assert killed.address in attempts[0].status.message
    assert attempts[1].status.code == trace_pb2.Status.STATUS_CODE_UNSET

    def children(parent):
        return {span.name.split(".")[-1]: span for span in by_id.values() if span.parent_span_id == parent.span_id}

    # The second attempt, down to the state's way from worker to worker.
    calls = children(attempts[1])
    assert sorted(calls) == ["Decode/Run", "Prefill/Run"]
    assert attributes(calls["Decode/Run"])["server.address"] == survivor.address
    prefill = children(calls["Prefill/Run"])["Prefill/Run"]
    assert sorted(children(prefill)) == ["Decode/Receive", "prefill", "queue"]
    received = children(children(prefill)["Decode/Receive"])["Decode/Receive"]
    assert attributes(received)["baton.state_bytes"] > 0
    decode = children(calls["Decode/Run"])["Decode/Run"]
    assert sorted(children(decode)) == ["await state", "decode"]
    for word in SECRET.split():
        assert not any(word in str(span) for span in by_id.values())

    # The same from the processes' own memory; what died with the worker is named.
    shown = baton_trace(fleet, "req-tree")
    assert shown.returncode == 0, shown.stderr
    assert "attempt 1" in shown.stdout and "attempt 2" in shown.stdout
    assert f"missing: the part of {killed.address}: " in shown.stdout
    told = json.loads(baton_trace(fleet, "req-tree", "--json").stdout)
    ids = {span["spanId"] for resource in told["resourceSpans"] for span in resource["scopeSpans"][0]["spans"]}
    assert ids == {span.span_id.hex() for _, boot, span in spans if boot != killed.ready_fields["boot"]}
    assert [missing["endpoint"] for missing in told["missing"]] == [killed.address]
    killed.restart()
    fleet.wait_ready(1, 2)


def test_a_caller_that_does_not_sample_is_heeded(fleet, collector):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    Answer(ask(fleet, "req-quiet", 3, f"00-{trace_id}-{CLIENT_SPAN}-00"))
    # A later one gets there by the same way.
    stream = ask(fleet, "req-loud", 3)
    loud = dict(stream.initial_metadata())["traceresponse"].split("-")[1]
    Answer(stream)
    wait_until(lambda: {service for service, _, _ in collector.of(loud)} ==
               {"baton-gateway", "baton-prefill", "baton-decode"}, "the collector has the later one")
    assert not collector.of(trace_id)
    # Remembered it is all the same.
    told = json.loads(baton_trace(fleet, "req-quiet", "--json").stdout)
    assert told["trace_id"] == trace_id
    services = {pair["value"]["stringValue"] for resource in told["resourceSpans"]
                for pair in resource["resource"]["attributes"] if pair["key"] == "service.name"}
    assert services == {"baton-gateway", "baton-prefill", "baton-decode"}


def test_unknown_requests(fleet):
    failed = baton_trace(fleet, "req-unknown")
    assert failed.returncode == 1
    assert "req-unknown" in failed.stderr and "--trace-history" in failed.stderr
    status = failure_of(lambda: fleet.fleet.GetTrace(pb.GetTraceRequest(request_id=""), timeout=10))
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT


def test_collectors_that_want_certificates(fleet, tmp_path):
    ca = Authority(tmp_path / "ca")
    server, client = ca.issue("collector"), ca.issue("gateway")
    secured = Collector(grpc.ssl_server_credentials([(server.key.read_bytes(), server.cert.read_bytes())],
                                                    ca.cert.read_bytes(), require_client_auth=True))
    gateway = fleet.start_gateway(["--otlp-endpoint", secured.address, "--otlp-ca", str(ca.cert), "--otlp-cert",
                                   str(client.cert), "--otlp-key", str(client.key), "--trace-history", "0"])
    try:
        with grpc.insecure_channel(gateway.address) as channel:
            wait_until(lambda: gateway.value("baton_workers", state="serving") == 3, "the gateway sees the fleet")
            stream = inference_pb2_grpc.InferenceStub(channel).GenerateStream(chat(SECRET, stopping=exactly(2)),
                                                                              timeout=60)
            trace_id = dict(stream.initial_metadata())["traceresponse"].split("-")[1]
            Answer(stream)
        wait_until(lambda: secured.of(trace_id), "the collector has the gateway's spans")
    finally:
        gateway.close()
        secured.close()


def test_shutdown_sends_what_waits(fleet, collector):
    stream = ask(fleet, "req-last", 3)
    trace_id = dict(stream.initial_metadata())["traceresponse"].split("-")[1]
    Answer(stream)
    fleet.gateway.terminate()
    assert fleet.gateway.wait_exit() == 0
    assert any(service == "baton-gateway" for service, _, _ in collector.of(trace_id))
