"""TLS and mTLS on every hop: who is let in, who is not, and new certificates while requests run."""
import pathlib
import subprocess
import threading
import time

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from baton.worker.v1 import worker_pb2
from certificates import Authority
from fleet import GEMMA, MODELS, MEMORY, WORKER_FLAGS, Fleet
from messages import chat, exactly, greedy, long_request
from process import BIN_DIR, Process, wait_until

WORKER_NAME = "worker.baton.test"
GATEWAY_NAME = "gateway.baton.test"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")

    class Pki:
        ca = Authority(directory / "fleet")
        other = Authority(directory / "other", "Some other CA")
        worker = ca.issue("worker", [WORKER_NAME])
        gateway = ca.issue("gateway", [GATEWAY_NAME])
        # Of the fleet's own authority, but nobody who may call a worker.
        visitor = ca.issue("visitor", ["visitor.baton.test"])
        stranger = other.issue("stranger", [WORKER_NAME])
    return Pki


def worker_flags(pki):
    return ["--tls-cert", str(pki.worker.cert), "--tls-key", str(pki.worker.key), "--tls-client-ca", str(pki.ca.cert),
            "--tls-allow-peer", WORKER_NAME, "--tls-allow-peer", GATEWAY_NAME, "--tls-ca", str(pki.ca.cert),
            "--tls-server-name", WORKER_NAME]


def gateway_flags(pki):
    return ["--tls-cert", str(pki.gateway.cert), "--tls-key", str(pki.gateway.key), "--tls-ca", str(pki.ca.cert),
            "--tls-server-name", WORKER_NAME, "--local-prefill-tokens", "0"]


def secure_channel(address, ca, pair=None):
    credentials = grpc.ssl_channel_credentials(
        pathlib.Path(ca.cert).read_bytes(), pair and pair.key.read_bytes(), pair and pair.cert.read_bytes())
    return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


class SecureFleet(Fleet):
    def __init__(self, log_dir, pki):
        self.pki = pki
        super().__init__(log_dir, prefill_flags=worker_flags(pki), decode_flags=worker_flags(pki),
                         gateway_flags=gateway_flags(pki))

    def new_channel(self):
        return secure_channel(self.gateway.address, self.pki.ca)


@pytest.fixture(scope="module")
def fleet(pki, tmp_path_factory):
    fleet = SecureFleet(tmp_path_factory.mktemp("logs"), pki)
    yield fleet
    fleet.close()


def try_every_call(channel, services):
    """{method: status code} of empty calls, which anybody who is let in gets some other answer to."""
    codes = {}
    for service in services:
        for method in service.methods:
            call = channel.stream_stream(f"/{service.full_name}/{method.name}")
            codes[f"{service.full_name}/{method.name}"] = code_of(lambda: list(call(iter([b""]), timeout=10)))
    for name in ("grpc.health.v1.Health/Check", "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
        codes[name] = code_of(lambda: list(channel.stream_stream(f"/{name}")(iter([b""]), timeout=10)))
    return codes


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_the_whole_way_is_encrypted_and_works(fleet):
    answer = fleet.generate(chat("Hello", sampling=greedy(), stopping=exactly(5), keep_state=True))
    assert len(answer.token_ids) == 5
    # The prefill worker (which --local-prefill-tokens 0 leaves the work to) reads the kept state from the decode worker.
    again = fleet.generate(chat("And?", session=answer.finished.session.handle, stopping=exactly(2)))
    assert again.finished.usage.cached_prompt_tokens > 0
    fleet.wait_idle()


def test_worker_ports_are_for_gateways_and_peers(fleet, pki):
    """Every RPC of every service on the port, by everybody who has no business there."""
    for worker in fleet.workers():
        outsiders = {
            "plain text": grpc.insecure_channel(worker.address),
            "no certificate": secure_channel(worker.address, pki.ca),
            "certificate of another authority": secure_channel(worker.address, pki.ca, pki.stranger),
            "name that is not on the list": secure_channel(worker.address, pki.ca, pki.visitor),
        }
        for who, channel in outsiders.items():
            with channel:
                for method, code in try_every_call(channel, worker_pb2.DESCRIPTOR.services_by_name.values()).items():
                    assert code == grpc.StatusCode.UNAVAILABLE, f"{worker.role} {method}: {who}: {code}"
        # The same calls by a gateway get answers.
        with secure_channel(worker.address, pki.ca, pki.gateway) as channel:
            codes = try_every_call(channel, [worker_pb2.DESCRIPTOR.services_by_name["Decode" if worker.role == "decode"
                                                                                    else "Prefill"]])
            assert grpc.StatusCode.UNAVAILABLE not in codes.values(), codes
        assert "peer_refused" in worker.log_path.read_text()
    fleet.wait_idle()


def test_the_gateways_port_speaks_tls_alone(fleet, pki):
    with grpc.insecure_channel(fleet.gateway.address) as channel:
        assert set(try_every_call(channel, pb.DESCRIPTOR.services_by_name.values()).values()) == {
            grpc.StatusCode.UNAVAILABLE}


def test_clients_check_whom_they_talk_to(fleet, pki):
    with secure_channel(fleet.gateway.address, pki.other) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        assert code_of(lambda: stub.ListModels(pb.ListModelsRequest(), timeout=10)) == grpc.StatusCode.UNAVAILABLE


def test_the_gateway_checks_its_workers(fleet, pki, tmp_path):
    """One whose certificate is of another authority, or for another name, is not used."""
    for flags in (["--tls-ca", str(pki.other.cert), "--tls-server-name", WORKER_NAME],
                  ["--tls-ca", str(pki.ca.cert), "--tls-server-name", "elsewhere.baton.test"],
                  ["--tls-ca", str(pki.ca.cert), "--tls-server-name", WORKER_NAME, "--tls-client-cert",
                   str(pki.visitor.cert), "--tls-client-key", str(pki.visitor.key)]):
        gateway = Process("gateway", ["--prefill-worker", fleet.prefills[0].address, "--decode-worker",
                                      fleet.decodes[0].address, "--tls-cert", str(pki.gateway.cert), "--tls-key",
                                      str(pki.gateway.key), *flags], tmp_path)
        try:
            gateway.wait_ready()
            wait_until(lambda: gateway.log_path.read_text().count("worker_unreachable") == 2, "both were tried")
            assert gateway.value("baton_workers", state="serving") == 0
        finally:
            gateway.close()


def test_the_client_program(fleet, pki):
    def baton(*flags):
        return subprocess.run([BIN_DIR / "baton", "--gateway", fleet.gateway.address, *flags, "models"],
                              capture_output=True, text=True, timeout=60)

    assert GEMMA in baton("--tls-ca", pki.ca.cert).stdout
    wrong = baton("--tls-ca", pki.other.cert)
    assert wrong.returncode == 3 and "cannot reach" in wrong.stderr and "TLS" in wrong.stderr
    plain = baton()
    assert plain.returncode == 3
    assert "--tls-cert needs --tls-ca" in baton("--tls-cert", pki.gateway.cert, "--tls-key", pki.gateway.key).stderr
    assert "go together" in baton("--tls-ca", pki.ca.cert, "--tls-cert", pki.gateway.cert).stderr
    name = baton("--tls-ca", pki.ca.cert, "--tls-server-name", "elsewhere.baton.test")
    assert name.returncode == 3


def test_certificates_change_under_load_without_an_error(fleet, pki):
    """New ones for the gateway and all workers, while old and new connections are used."""
    errors, answers = [], []
    stop = threading.Event()

    def client(channel_each_time):
        channel = fleet.new_channel()
        while not stop.is_set():
            if channel_each_time:
                channel.close()
                channel = fleet.new_channel()
            try:
                answer = inference_pb2_grpc.InferenceStub(channel).Generate(long_request(8, 12), timeout=60)
                answers.append(tuple(answer.token_ids))
            except grpc.RpcError as error:
                errors.append(error)
        channel.close()

    def reloads(process, result="ok"):
        return sum(process.value("baton_reloads_total", what=f"tls_{use}", result=result) for use in ("server", "client"))

    clients = [threading.Thread(target=client, args=(i % 2 == 0,)) for i in range(4)]
    for thread in clients:
        thread.start()
    try:
        for _ in range(2):
            before = {id(process): reloads(process) for process in fleet.processes()}
            pki.ca.issue("worker", [WORKER_NAME])
            pki.ca.issue("gateway", [GATEWAY_NAME])
            for process in fleet.processes():
                wait_until(lambda: reloads(process) >= before[id(process)] + 2, f"{process.role} has reloaded")
            done = len(answers)
            wait_until(lambda: len(answers) >= done + 12, "requests go on")
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert not errors and len(set(answers)) == 1


def presented(address):
    """What a server shows a client: the certificate, as PEM."""
    host, port = address.split(":")
    result = subprocess.run(["openssl", "s_client", "-connect", f"{host}:{port}", "-alpn", "h2"], input="",
                            capture_output=True, text=True, errors="replace", timeout=20)
    begin = result.stdout.find("-----BEGIN CERTIFICATE-----")
    assert begin >= 0, result.stderr
    return result.stdout[begin:result.stdout.find("-----END", begin)]


def test_new_connections_see_the_new_certificate_and_broken_ones_change_nothing(fleet, pki):
    def current():
        text = pki.gateway.cert.read_text()
        return text[text.find("-----BEGIN"):text.find("-----END")]

    pki.ca.issue("gateway", [GATEWAY_NAME])
    wait_until(lambda: presented(fleet.gateway.address) == current(), "the new certificate is shown")
    failed = lambda: fleet.gateway.value("baton_reloads_total", what="tls_server", result="failed")
    before, shown = failed(), presented(fleet.gateway.address)
    good = pki.gateway.key.read_text()
    pki.gateway.key.write_text(pki.worker.key.read_text())
    wait_until(lambda: failed() > before, "the gateway has looked at it")
    assert presented(fleet.gateway.address) == shown
    assert "is not the key of the first certificate" in fleet.gateway.log_path.read_text()
    pki.gateway.key.write_text(good)
    assert fleet.gateway.value("baton_tls_certificate_expiry_timestamp_seconds", use="server") > time.time()


def test_flags_that_do_not_go_together(pki, tmp_path):
    """One line each, before anything is loaded."""
    good = {"cert": str(pki.gateway.cert), "key": str(pki.gateway.key), "ca": str(pki.ca.cert)}
    text = tmp_path / "text"
    text.write_text("nothing\n")
    encrypted = tmp_path / "encrypted.key"
    subprocess.run(["openssl", "ec", "-in", good["key"], "-aes128", "-passout", "pass:x", "-out", encrypted], check=True,
                   capture_output=True)
    cases = [
        (["--tls-cert", good["cert"]], "--tls-cert needs --tls-key"),
        (["--tls-key", good["key"]], "--tls-key needs --tls-cert"),
        (["--tls-client-ca", good["ca"]], "--tls-client-ca needs --tls-cert"),
        (["--tls-cert", good["cert"], "--tls-key", good["key"], "--tls-allow-peer", "x"],
         "--tls-allow-peer needs --tls-client-ca"),
        (["--tls-server-name", "x"], "--tls-server-name needs --tls-ca"),
        (["--tls-client-cert", good["cert"], "--tls-client-key", good["key"]], "--tls-client-cert needs --tls-ca"),
        (["--tls-cert", good["cert"], "--tls-key", str(pki.worker.key)], "is not the key of"),
        (["--tls-cert", str(tmp_path / "absent"), "--tls-key", good["key"]], "cannot read"),
        (["--tls-cert", str(text), "--tls-key", good["key"]], "no PEM certificate"),
        (["--tls-cert", good["cert"], "--tls-key", str(text)], "no PEM private key"),
        (["--tls-cert", good["cert"], "--tls-key", str(encrypted)], "needs no password"),
        (["--tls-ca", str(text)], "no PEM certificate"),
    ]
    gateway = [BIN_DIR / "baton-gateway", "--listen", "127.0.0.1:0", "--prefill-worker", "127.0.0.1:1",
               "--decode-worker", "127.0.0.1:1"]
    decode = [BIN_DIR / "baton-decode", "--listen", "127.0.0.1:0", "--model", MODELS / GEMMA, "--memory", MEMORY,
              *WORKER_FLAGS]
    for flags, message in cases:
        for command in (gateway, decode) if message.startswith("--tls") else (gateway,):
            result = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60)
            assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
            assert message in result.stderr
