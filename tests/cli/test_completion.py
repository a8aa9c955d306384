"""TAB in real shells, through the scripts that raypose prints for them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import time
from pathlib import Path

import pytest
from support.patience import PATIENCE_S

from raypose.cli.main import main
from raypose.releases import registry

SHELLS = {
    "bash": (["bash", "--norc", "-i"], "bind 'set enable-bracketed-paste off'"),
    "zsh": (["zsh", "-f", "-i"], "PS1='$ '; autoload -Uz compinit; compinit -u"),
}
LINES = {
    "raypose tra": "raypose train ",
    "raypose shards bui": "raypose shards build ",
    "raypose train recipe.yaml optim.le": "raypose train recipe.yaml optim.learning_rate=",
    "raypose train r.yaml optim.method=lor": "raypose train r.yaml optim.method=lora ",
    "raypose classify yo": "raypose classify yoga ",
    "raypose classify yoga@pr": "raypose classify yoga@production ",
    "raypose classify yoga:v": "raypose classify yoga:VERSION ",
    "raypose shards build a b kind=webd": "raypose shards build a b kind=webdataset ",
    "raypose shards build a b pictures=fold": "raypose shards build a b pictures=folder/",
    "raypose classify yoga pho": "raypose classify yoga photo.jpg ",
}


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, name: str, folder: Path, raypose: str) -> None:
        command, first = SHELLS[name]
        self.shown, self.asked = "", 0
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            bins = f"{Path(raypose).parent}:{os.environ['PATH']}"
            os.execvpe(command[0], command, {**os.environ, "PATH": bins, "PS1": "$ ",
                                             "TERM": "dumb", "HOME": str(folder)})  # fmt: skip
        self.write(f"{first}; source <(raypose --show-completion {name}); echo rea''dy\n")
        self.read_until("ready\r\n")
        self.read_until("$ ")

    def write(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def read_until(self, wanted: str) -> str:
        """Return what is printed up to something that has to come; what follows is kept."""
        end = time.monotonic() + PATIENCE_S
        while wanted not in self.shown:
            assert time.monotonic() < end, self.shown
            if select.select([self.terminal], [], [], 0.2)[0]:
                self.shown += os.read(self.terminal, 65536).decode(errors="replace")
        found, _, self.shown = self.shown.partition(wanted)
        return found + wanted

    def completed(self, line: str) -> str:
        """Return what a line has become after TAB, as the shell itself has it."""
        self.asked += 1
        mark = f"!{self.asked}!"  # another each time: what is drawn again holds the last one
        self.write(f"{line}\t{mark}")
        shown = self.read_until(mark)
        self.write("\x15")  # clears the line
        return shown.replace("\b ", "").replace("\b/", "")  # what zsh draws again

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize("name", SHELLS)
def test_tab_in_a_shell(name: str, raypose: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    files = tmp_path / "folder"
    files.mkdir()
    (files / "a").write_text("a")
    (tmp_path / "photo.jpg").write_bytes(b"")
    root = str(tmp_path / "raypose-data")
    release = registry.publish(root, "yoga", files)
    registry.promote(root, str(release))
    shell = Shell(name, tmp_path, raypose)
    try:
        for line, wanted in LINES.items():
            wanted = wanted.replace("VERSION", release.version)
            shown = shell.completed(line)
            assert f"{wanted}!{shell.asked}!" in shown, line
    finally:
        shell.close()


def test_a_script_of_each_shell_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main(["--show-completion", shell]) == 0
        assert "_RAYPOSE_COMPLETE" in capsys.readouterr().out
    assert main(["--show-completion", "csh"]) == 2
    assert "there is for bash, zsh, fish" in capsys.readouterr().err
