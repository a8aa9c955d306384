from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import pytest

from raypose import config
from raypose.cli.main import main
from raypose.config import Config, ServeConfig, parse_assignments
from raypose.errors import ConfigError
from raypose.serving import app, guard


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_keys_are_known_by_their_hashes() -> None:
    keys = {name: guard.made() for name in ("clinic", "app")}
    hashes = {name: guard.digest(key) for name, key in keys.items()}
    assert hashes["app"] == hashlib.sha256(keys["app"].encode()).hexdigest()
    made = guard.Guard(ServeConfig(keys=hashes))
    for name, key in keys.items():
        assert made.client(bearer(key)) == name
        assert made.client({"authorization": f"bearer  {key} "}) == name
        assert made.client({"x-api-key": key}) == name
    for headers in ({}, bearer(""), bearer("rp_x"), bearer(hashes["app"]), {"x-api-key": "é"}):
        assert made.client(headers) is None
    assert guard.Guard(ServeConfig()).client({}) == ""  # none is asked for


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServeConfig(keys_env="POSTURE_KEYS", host="0.0.0.0")
    with pytest.raises(ConfigError, match="POSTURE_KEYS is not set where the endpoint runs"):
        guard.Guard(settings)
    first, second = guard.made(), guard.made()
    monkeypatch.setenv("POSTURE_KEYS", f"a:{guard.digest(first)},b:{guard.digest(second)}\n")
    assert guard.Guard(settings).client(bearer(second)) == "b"
    monkeypatch.setenv("POSTURE_KEYS", "a:secret-as-it-is")
    with pytest.raises(ConfigError) as told:
        guard.Guard(settings)
    assert "holds more than pairs of NAME:SHA256" in str(told.value)
    assert "secret-as-it-is" not in str(told.value)


def test_limits_are_each_keys_own() -> None:
    made = guard.Guard(ServeConfig(limit="2/hour"))
    assert [made.wait_s(name) for name in ("a", "a", "b")] == [0, 0, 0]
    assert 3590 <= made.wait_s("a") <= 3600
    assert made.wait_s("b") == 0
    assert guard.Guard(ServeConfig()).wait_s("a") == 0


def test_without_keys_nobody_else_is_served() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        ServeConfig(host=host).check_open()
    for host in ("0.0.0.0", "::", "10.0.0.4", "postures.example.com", ""):
        with pytest.raises(ConfigError, match="others could reach it, and no API key is set"):
            ServeConfig(host=host).check_open()
        ServeConfig(host=host, keys_env="KEYS").check_open()
        with pytest.raises(ConfigError, match="no API key is set"):
            app.build(app.Arguments(storage="", release="x", serve=ServeConfig(host=host)))


def test_the_command_makes_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["endpoint", "key", "clinic"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [first for first, _ in lines] == ["key", "pair", "as"]
    key, pair, given = (rest for _, rest in lines)
    (words,) = parse_assignments(shlex.split(given)).items()
    made = config.override(Config(), dict([words])).serve
    assert guard.Guard(made).client(bearer(key)) == "clinic"
    assert pair == f"clinic:{guard.digest(key)}"
    assert len(key) > 40


def test_keys_that_are_not_there_are_missed_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("RAY_ADDRESS", "RAYPOSE_KEYS"):
        monkeypatch.delenv(name, raising=False)
    words = ["postures", f"storage={tmp_path}", "serve.keys_env=RAYPOSE_KEYS"]
    assert main(["serve", *words]) == 3
    told = capsys.readouterr().err
    assert "serve.keys_env: RAYPOSE_KEYS is not set where the endpoint runs" in told
    assert "loading" not in told
