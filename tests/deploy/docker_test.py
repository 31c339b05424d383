"""The compose file and the Dockerfile: flags, ports, mounted files, hardening. Images are not built here."""
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

import programs

DIRECTORY = programs.ROOT / "deploy" / "docker"
COMPOSE = yaml.safe_load((DIRECTORY / "docker-compose.yml").read_text())


def command(service):
    words = COMPOSE["services"][service]["command"]
    if words[:2] == ["sh", "-c"]:
        words = shlex.split(words[2].replace("$$", "$"))
        assert words.pop(0) == "exec", "signals must reach the program"
    return words


@pytest.mark.parametrize("role", ["gateway", "prefill", "decode"])
def test_roles(role):
    service = COMPOSE["services"][role]
    words = command(role)
    assert words[0] == f"baton-{role}"
    programs.check_flags(words[0], words[1:], role)
    assert programs.flag_value(words, "--metrics") == "0.0.0.0:9000"
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert float(service["stop_grace_period"].rstrip("s")) > 30
    listen = programs.flag_value(words, "--listen").split(":")[1]
    health = service.get("environment", {}).get("BATON_GATEWAY", "127.0.0.1:7000")
    assert health == f"127.0.0.1:{listen}", "the health check asks where the role listens"
    if role != "gateway":
        assert programs.flag_value(command("gateway"), f"--{role}-worker") == f"{role}:{listen}"


def test_mounted_files_exist():
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source.startswith("."):
                assert (DIRECTORY / source).exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source}"


def test_prometheus_scrapes_the_services():
    config = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())
    job = config["scrape_configs"][0]
    assert job["job_name"].startswith("baton")
    assert set(job["dns_sd_configs"][0]["names"]) == {"gateway", "prefill", "decode"}
    grafana = programs.ROOT / "deploy" / "monitoring" / "grafana" / "provisioning"
    source = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((grafana / "dashboards" / "baton.yml").read_text())["providers"][0]
    assert any(volume.endswith(f":{provider['options']['path']}:ro") for volume in
               COMPOSE["services"]["grafana"]["volumes"])


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
def test_compose_reads_it():
    result = subprocess.run(["docker-compose", "-f", DIRECTORY / "docker-compose.yml", "config", "-q"],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_dockerfile():
    text = (DIRECTORY / "Dockerfile").read_text()
    last_stage = text[text.rindex("\nFROM "):]
    assert re.search(r"^USER 10001:10001$", last_stage, re.M)
    assert "HEALTHCHECK" in last_stage and '"health"' in last_stage
    assert "--target baton baton-gateway baton-prefill baton-decode" in text
    # Everything that the build reads is let through.
    allowed = re.findall(r"^!(\S+)", (programs.ROOT / ".dockerignore").read_text(), re.M)
    for name in re.findall(r"add_subdirectory\((\w+)\)", (programs.ROOT / "CMakeLists.txt").read_text()):
        if name not in ("tests", "bench"):
            assert name in allowed, name
