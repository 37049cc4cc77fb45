"""The files of `deploy/`: their commands are ones that peftu takes, and they agree with each other and the service."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from peftu.cli.app import app
from peftu.serving.access import _File
from peftu.serving.gate import OPEN

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "peftu.service").read_text(encoding="utf-8")
README = (DEPLOY / "README.md").read_text(encoding="utf-8")


def instruction(name: str) -> list[str]:
    """Returns the last instruction of that name in the Dockerfile, which is a JSON list."""
    found: list[str] = json.loads(re.findall(rf"^(?:{name}|  {name}) (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])
    return found


def setting(name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    assert found is not None, name
    return found[1]


COMMANDS = {
    "Dockerfile": instruction("ENTRYPOINT") + instruction("CMD"),
    "compose": instruction("ENTRYPOINT") + COMPOSE["services"]["peftu"]["command"],
    "unit": ["peftu", *shlex.split(setting("ExecStart"))[1:]],
}


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Returns what `peftu serve` makes of the arguments, without doing it."""
    group: Any = typer.main.get_command(app)
    assert arguments[:2] == ["peftu", "serve"]
    return group.commands["serve"].make_context("serve", arguments[2:]).params


@pytest.mark.parametrize("where", COMMANDS)
def test_the_command_is_one_that_peftu_takes(where: str) -> None:
    found = parsed(COMMANDS[where])
    assert found["port"] == 8321
    assert found["tokens"] is not None, "a service that others reach asks for tokens"


def test_the_container_and_its_surroundings_agree() -> None:
    service, prometheus = COMPOSE["services"]["peftu"], COMPOSE["services"]["prometheus"]
    assert COMMANDS["compose"] == COMMANDS["Dockerfile"]
    assert f"USER {service['user']}" in DOCKERFILE
    for one in (service, prometheus):
        assert one["read_only"]
        assert one["cap_drop"] == ["ALL"]
        assert int(one["user"].partition(":")[0]) > 0
        assert all(port.startswith("127.0.0.1:") for port in one["ports"])
        assert (
            f"chown {one['user'].partition(':')[0]}" in README or f"chown -R {one['user'].partition(':')[0]}" in README
        )
    place, tokens = parsed(COMMANDS["compose"])["place"], parsed(COMMANDS["compose"])["tokens"]
    mounted = [volume.rpartition(":")[2] for volume in service["volumes"]]
    assert str(place) in mounted
    assert re.search(r"PEFTU_CACHE=(\S+)", DOCKERFILE)[1] in mounted  # type: ignore[index]
    assert tokens == Path("/run/secrets") / service["secrets"][0]
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["peftu:8321"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{prometheus['secrets'][0]}"
    asked = re.search(r"http://127\.0\.0\.1:8321(/\w+)", DOCKERFILE)
    assert asked is not None
    assert asked[1] in OPEN, "the health check has no token"


def test_tokens_are_made_as_the_service_reads_them(tmp_path: Path) -> None:
    script = re.search(r"```bash\ncd deploy\n(.*?)```", README, re.DOTALL)
    assert script is not None
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    subprocess.run(["bash", "-ec", script[1]], cwd=tmp_path, check=True)
    made = _File(**json.loads((tmp_path / "tokens.json").read_text(encoding="utf-8")))
    assert made.tokens[0].scopes == {"admin"}
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0


def test_the_unit_lets_it_write_where_it_must_and_nowhere_else(tmp_path: Path) -> None:
    assert setting("DynamicUser") == "yes"
    assert setting("ProtectSystem") == "strict"
    assert "ReadWritePaths" not in UNIT
    assert str(parsed(COMMANDS["unit"])["place"]).startswith(f"/var/lib/{setting('StateDirectory')}/")
    assert f"PEFTU_CACHE=/var/cache/{setting('CacheDirectory')}" in setting("Environment")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    unit = tmp_path / "peftu.service"
    unit.write_text(UNIT.replace("/opt/peftu/bin/peftu", "/bin/true"), encoding="utf-8")
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert "peftu.service" not in checked.stderr, checked.stderr
