"""What the container files promise: no tools inside, no rights, secrets in files, nothing bound to the world."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatflow.entrypoints.settings import load_settings, secret_files

ROOT = Path(__file__).parents[2]
DEPLOYMENT = ROOT / "deployment"
DOCKERFILE = (DEPLOYMENT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["migrate", "gateway", "processor", "api"]
BUILD_TOOLS = {"pip", "setuptools", "wheel", "hatchling", "editables"}


def run(script: str, *arguments: str, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    command = [str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def packages(name: str) -> dict[str, str]:
    """Names and versions of a lock."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def test_the_image_gets_what_runs_and_nothing_that_builds():
    image, run_time = packages("image.txt"), packages("run.txt")
    assert image.items() <= run_time.items()
    assert not BUILD_TOOLS & image.keys()
    assert "-r requirements/image.txt" in DOCKERFILE
    assert "venv --without-pip /opt/chatflow" in DOCKERFILE
    last = DOCKERFILE.split("\nFROM ")[-1]
    assert last.startswith("scratch")
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)


def test_every_base_can_be_pinned_by_its_digest():
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}", "scratch"]
    variables = {re.fullmatch(r"\$\{(\w+):-\S+\}", service["image"])[1] for service in SERVICES.values()}
    assert variables == {"CHATFLOW_IMAGE", "RABBITMQ_IMAGE", "MYSQL_IMAGE", "REDIS_IMAGE", "HAPROXY_IMAGE"}


def test_the_digests_of_all_bases_are_printed_as_variables(tmp_path):
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho sha256:of-$4\n")
    docker.chmod(0o755)
    printed = run("pin-images.sh", path=tmp_path)
    assert printed.returncode == 0, printed.stderr
    tags = dict(re.findall(r"\$\{(\w+):-([\w.:-]+)\}", (DEPLOYMENT / "compose.yaml").read_text()))
    assert printed.stdout.splitlines() == [
        f"{name}={tags[name].split(':')[0]}@sha256:of-{tags[name]} # {tags[name]}"
        for name in ("PYTHON_IMAGE", "RABBITMQ_IMAGE", "MYSQL_IMAGE", "REDIS_IMAGE", "HAPROXY_IMAGE")
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_gives_up_its_rights(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    if name in {*OURS, "haproxy", "redis"}:
        assert service["read_only"] is True
        assert "cap_add" not in service
    if name in OURS:
        assert service["user"] == "10001:10001"


def test_only_haproxy_publishes_a_port_and_that_on_the_loopback_address():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"haproxy": ["${CHATFLOW_PUBLISH:-127.0.0.1:8443}:8443"]}
    assert COMPOSE["networks"]["backend"]["internal"] is True
    assert all(service["networks"] == ["backend"] for name, service in SERVICES.items() if name != "haproxy")


def test_whoever_starts_it_says_who_may_come_in():
    for name in OURS:
        assert SERVICES[name]["environment"]["CHATFLOW_AUTH"] == "${CHATFLOW_AUTH:?open or jwt}"
        assert SERVICES[name]["environment"]["CHATFLOW_TRUSTED_PROXIES"] == "172.30.7.2"
    assert SERVICES["haproxy"]["networks"]["backend"]["ipv4_address"] == "172.30.7.2"


def test_every_secret_is_a_file_and_every_service_has_its_own(tmp_path, monkeypatch):
    made = run("make-secrets.sh", str(tmp_path / "secrets"))
    assert made.returncode == 0, made.stderr
    files = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()} == files.keys()
    passwords = [word for text in files.values() for word in set(re.findall(r"\b[0-9a-f]{48}\b", text))]
    assert sorted(map(passwords.count, set(passwords))) == [
        1,
        2,
        2,
        2,
    ]  # tokens need no URL
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert not re.search(r"[0-9a-f]{48}", (DEPLOYMENT / "compose.yaml").read_text())

    monkeypatch.setattr(secret_files, "RUNTIME_SECRETS", tmp_path)
    for name in OURS:
        environ = {
            variable: str(value).replace("/run/secrets", str(tmp_path / "secrets"))
            for variable, value in SERVICES[name]["environment"].items()
        }
        environ |= {"CHATFLOW_AUTH": "jwt", "CHATFLOW_HOST": "0.0.0.0", "CHATFLOW_ALLOWED_HOSTS": "localhost"}  # noqa: S104
        environ["CHATFLOW_GATEWAY_URL"] = "wss://localhost:8443/ws"
        settings = load_settings("tool" if name == "migrate" else name, environ, None)
        assert settings.common.broker_urls[0].endswith("@rabbitmq/chatflow")


def test_secrets_that_exist_are_kept(tmp_path):
    run("make-secrets.sh", str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = run("make-secrets.sh", str(tmp_path))
    assert (again.returncode, again.stderr) == (0, "")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "broker_url").unlink()
    broken = run("make-secrets.sh", str(tmp_path))
    assert broken.returncode == 1
    assert "broker_url" in broken.stderr
