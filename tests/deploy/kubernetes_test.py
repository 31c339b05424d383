"""The manifests as kustomize makes them: what refers to what, which flags, who may talk to whom, what is hardened."""
import os
import shutil
import subprocess

import pytest
import yaml

import programs

DIRECTORY = programs.ROOT / "deploy" / "kubernetes"
ROLES = ("gateway", "prefill", "decode")
pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl (for kustomize) is not installed")


def build(name):
    made = subprocess.run(["kubectl", "kustomize", DIRECTORY / name], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    objects = {}
    for item in yaml.safe_load_all(made.stdout):
        key = (item["kind"], item["metadata"]["name"])
        assert key not in objects
        objects[key] = item
    return objects


@pytest.fixture(scope="module", params=["base", "example"])
def objects(request):
    return build(request.param)


def pod(objects, role):
    return objects["Deployment", f"baton-{role}"]["spec"]["template"]["spec"]


def labels(objects, role):
    return objects["Deployment", f"baton-{role}"]["spec"]["template"]["metadata"]["labels"]


def selected(objects, selector):
    return {role for role in ROLES if selector.items() <= labels(objects, role).items()}


def test_selectors_find_their_pods(objects):
    for role in ROLES:
        assert selected(objects, objects["Deployment", f"baton-{role}"]["spec"]["selector"]["matchLabels"]) == {role}
        budget = objects["PodDisruptionBudget", f"baton-{role}"]["spec"]
        assert selected(objects, budget["selector"]["matchLabels"]) == {role}
        policy = objects["NetworkPolicy", f"baton-{role}"]["spec"]
        assert selected(objects, policy["podSelector"]["matchLabels"]) == {role}
        service = objects["Service", "baton" if role == "gateway" else f"baton-{role}"]["spec"]
        assert selected(objects, service["selector"]) == {role}
        ports = {port["name"]: port["containerPort"] for port in pod(objects, role)["containers"][0]["ports"]}
        assert ports[service["ports"][0]["targetPort"]] == service["ports"][0]["port"]
        assert (service.get("clusterIP") == "None") == (role != "gateway")


def test_flags(objects):
    for role in ROLES:
        container = pod(objects, role)["containers"][0]
        assert container["command"] == [f"baton-{role}"]
        arguments = container["args"]
        programs.check_flags(f"baton-{role}", arguments, role)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert programs.flag_value(arguments, "--listen") == f"0.0.0.0:{ports['grpc']}"
        assert programs.flag_value(arguments, "--metrics") == f"0.0.0.0:{ports['metrics']}"
        defined = {variable["name"] for variable in container.get("env", [])}
        for argument in arguments:
            if "$(" in argument:
                assert argument.split("$(")[1].split(")")[0] in defined
    arguments = pod(objects, "gateway")["containers"][0]["args"]
    for role in ("prefill", "decode"):
        host, port = programs.flag_value(arguments, f"--{role}-worker").split(":")
        assert objects["Service", host]["spec"]["ports"][0]["port"] == int(port)
    models = {tuple(programs.flag_value(pod(objects, role)["containers"][0]["args"], flag)
                    for flag in ("--model", "--weights")) for role in ("prefill", "decode")}
    assert len(models) == 1, "prefill and decode workers must serve the same"


def seconds(quantity):
    return float(quantity)


def test_drain_fits_the_grace_period(objects):
    for role in ROLES:
        spec = pod(objects, role)
        container = spec["containers"][0]
        stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        assert stop[0] == "sleep"
        grace = seconds(programs.flag_value(container["args"], "--grace"))
        assert seconds(stop[1]) + grace < spec["terminationGracePeriodSeconds"]


def test_hardened(objects):
    for role in ROLES:
        spec = pod(objects, role)
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec["automountServiceAccountToken"] is False
        container = spec["containers"][0]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        if role != "gateway":  # where packed weights and spilled states go
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert writable == {"/var/cache/baton", "/tmp"}


def test_probes(objects):
    for role in ROLES:
        container = pod(objects, role)["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert container["readinessProbe"]["grpc"]["port"] == ports["grpc"]
        assert container["startupProbe"]["grpc"]["port"] == ports["grpc"]
        # A draining process is not ready, but must not be killed.
        assert container["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}


def peers(objects, role, direction):
    """{role: ports} that the policy names."""
    out = {}
    for rule in objects["NetworkPolicy", f"baton-{role}"]["spec"][direction]:
        for peer in rule.get("from", rule.get("to", [])):
            for other in selected(objects, peer.get("podSelector", {"matchLabels": {"none": "none"}})["matchLabels"]):
                out.setdefault(other, set()).update(port["port"] for port in rule["ports"])
    return out


def test_only_these_reach_workers(objects):
    assert peers(objects, "prefill", "ingress") == {"gateway": {7101}}
    assert set(peers(objects, "decode", "ingress")) == {"gateway", "prefill", "decode"}
    for role in ("prefill", "decode"):
        for rule in objects["NetworkPolicy", f"baton-{role}"]["spec"]["ingress"]:
            assert rule["from"], "a rule without a source lets everybody in"
    # What one may send, the other must take.
    for role in ROLES:
        for other, ports in peers(objects, role, "egress").items():
            assert peers(objects, other, "ingress")[role] == ports


def test_autoscaling_uses_metrics_that_the_adapter_offers():
    objects = build("example")
    adapter = yaml.safe_load((DIRECTORY / "autoscaling" / "prometheus-adapter.yaml").read_text())
    offered = {rule["seriesQuery"].split("{")[0] for rule in adapter["rules"]["custom"]}
    documented = (programs.ROOT / "docs" / "metrics.md").read_text()
    for role, metric in (("prefill", "baton_queued_tokens"), ("decode", "baton_state_usage_ratio")):
        scaler = objects["HorizontalPodAutoscaler", f"baton-{role}"]["spec"]
        assert scaler["scaleTargetRef"]["name"] == f"baton-{role}"
        assert scaler["metrics"][0]["pods"]["metric"]["name"] == metric
        assert metric in offered and f"`{metric}`" in documented


def test_overlay_changes_what_it_means_to():
    objects = build("example")
    for role in ("prefill", "decode"):
        arguments = pod(objects, role)["containers"][0]["args"]
        assert programs.flag_value(arguments, "--memory") == "4GiB"
        assert programs.flag_value(arguments, "--threads") == pod(objects, role)["containers"][0]["resources"]["limits"]["cpu"]
        claims = {v["persistentVolumeClaim"]["claimName"] for v in pod(objects, role)["volumes"]
                  if "persistentVolumeClaim" in v}
        assert claims == {"baton-models", "baton-weights"}
        assert all(("PersistentVolumeClaim", claim) in objects for claim in claims)


def build_with(directory, *components):
    """The base with these components, as an overlay in `directory` has them."""
    directory = directory.resolve()
    inside = {name: os.path.relpath(DIRECTORY / name, directory) for name in ("base", *components)}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [inside["base"]],
         "components": [inside[name] for name in components]}))
    return build(directory)


@pytest.mark.parametrize("components", [["tracing"], ["tls", "tracing"]], ids="+".join)
def test_traces_reach_their_collector(tmp_path, components):
    objects = build_with(tmp_path, *components)
    policy = objects["NetworkPolicy", "baton-tracing"]["spec"]
    assert selected(objects, policy["podSelector"]["matchLabels"]) == set(ROLES)
    assert policy["policyTypes"] == ["Egress"]
    (rule,) = policy["egress"]
    for role in ROLES:
        arguments = pod(objects, role)["containers"][0]["args"]
        programs.check_flags(f"baton-{role}", arguments, role)
        host, port = programs.flag_value(arguments, "--otlp-endpoint").split(":")
        namespace = {"kubernetes.io/metadata.name": host.split(".")[1]}
        assert rule["to"] == [{"namespaceSelector": {"matchLabels": namespace}}]
        assert rule["ports"] == [{"port": int(port), "protocol": "TCP"}]


def test_tls_on_every_hop(tmp_path):
    encrypted = build_with(tmp_path, "tls")
    clients = {"gateway": True, "prefill": True, "decode": False}
    for role in ROLES:
        spec = pod(encrypted, role)
        container = spec["containers"][0]
        arguments = container["args"]
        programs.check_flags(f"baton-{role}", arguments, role)
        assert {"name": "tls", "mountPath": "/etc/baton/tls", "readOnly": True} in container["volumeMounts"]
        assert any(volume.get("secret", {}).get("secretName") == "baton-tls" for volume in spec["volumes"])
        # Nobody is asked without a certificate of ours but gateways, whose clients are not ours.
        assert (programs.flag_value(arguments, "--tls-client-ca") is not None) == (role != "gateway")
        assert (programs.flag_value(arguments, "--tls-ca") is not None) == clients[role]
        # The health check speaks TLS, by the names that the certificate has.
        for probe in ("readinessProbe", "startupProbe"):
            assert container[probe]["exec"]["command"][-1] == "health" and "grpc" not in container[probe]
        environment = {variable["name"]: variable.get("value") for variable in container["env"]}
        listen = programs.flag_value(arguments, "--listen").split(":")[1]
        assert environment["BATON_GATEWAY"] == f"127.0.0.1:{listen}"
        assert ("Service", environment["BATON_TLS_SERVER_NAME"]) in encrypted
        assert ("BATON_TLS_CERT" in environment) == (role != "gateway")
