"""What the operating system needs to begin the service at boot: shown first, done only if that is wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNIT = """\
[Unit]
Description=scotopic: the queue of microscope runs and trainings
After=network.target

[Service]
ExecStart={command}
Restart=always
RestartSec=10
# Runs are processes of their own: they go on while the service is begun anew.
KillMode=process
# SCOTOPIC_NOTIFY=mailto://... and the like; only you should be able to read it.
EnvironmentFile=-{secrets}

[Install]
WantedBy=default.target
"""
_PLIST = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
  <key>Label</key><string>scotopic</string>
  <key>ProgramArguments</key><array>{words}</array>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><true/>
  <key>AbandonProcessGroup</key><true/>
  <key>StandardErrorPath</key><string>{log}</string>
  <key>StandardOutPath</key><string>{log}</string>
</dict></plist>
"""
_TASK = """\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>scotopic: the queue of microscope runs and trainings</Description></RegistrationInfo>
  <Triggers><BootTrigger><Enabled>true</Enabled></BootTrigger></Triggers>
  <Settings>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <RestartOnFailure><Interval>PT1M</Interval><Count>999</Count></RestartOnFailure>
  </Settings>
  <Actions><Exec><Command>{program}</Command><Arguments>{words}</Arguments></Exec></Actions>
</Task>
"""


@dataclass(frozen=True)
class Installation:
    """Files to write and commands to give, in this order."""

    files: dict[Path, str]
    commands: tuple[tuple[str, ...], ...]
    removal: tuple[tuple[str, ...], ...]
    """Commands that take it away again."""
    remarks: tuple[str, ...] = ()
    encodings: dict[Path, str] = field(default_factory=dict)
    """Encodings of files that are not UTF-8."""

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        told: list[str] = []
        for path, text in self.files.items():
            told += [f"file {path}", *(f"    {line}" for line in text.splitlines())]
        told += [f"command: {_shell(command)}" for command in self.commands]
        told += [f"to take it away again: {_shell(command)}" for command in self.removal]
        return [*told, *self.remarks]


def installation(queue_folder: Path, platform: str = sys.platform, python: str = sys.executable) -> Installation:
    """Return what begins the service of a queue at boot: a systemd unit, a task of Windows, or an agent of macOS.

    Parameters
    ----------
    platform, python : str
        `sys.platform` of the computer, and its Python that has scotopic.
    """
    words = [python, "-m", "scotopic", "service", "run", "--queue", str(queue_folder)]
    home = Path.home()
    if platform == "win32":
        path = queue_folder / "service.xml"
        task = _TASK.format(program=escape(python), words=escape(subprocess.list2cmdline(words[1:])))
        create = ("schtasks", "/Create", "/TN", "scotopic", "/XML", str(path), "/RU", _user(), "/RP", "*")
        return Installation(
            {path: task},
            (create, ("schtasks", "/Run", "/TN", "scotopic")),
            (("schtasks", "/Delete", "/TN", "scotopic", "/F"),),
            ("Windows asks for your password, so that the task begins before anybody logs on.",),
            {path: "utf-16"},
        )
    if platform == "darwin":
        path = home / "Library" / "LaunchAgents" / "scotopic.plist"
        strings = "".join(f"<string>{escape(word)}</string>" for word in words)
        text = _PLIST.format(words=strings, log=escape(str(queue_folder / "service.log")))
        return Installation(
            {path: text},
            (("launchctl", "load", "-w", str(path)),),
            (("launchctl", "unload", "-w", str(path)),),
            ("An agent begins when you log on; macOS begins none of your programs before.",),
        )
    path = home / ".config" / "systemd" / "user" / "scotopic.service"
    text = _UNIT.format(command=" ".join(map(_systemd_word, words)), secrets="%h/.config/scotopic/service.env")
    control = ("systemctl", "--user")
    return Installation(
        {path: text},
        ((*control, "daemon-reload"), (*control, "enable", "--now", "scotopic.service"), ("loginctl", "enable-linger")),
        ((*control, "disable", "--now", "scotopic.service"),),
        (
            "enable-linger lets your services begin at boot, before you log on.",
            "`journalctl --user -u scotopic` shows what the service says.",
        ),
    )


def install(queue_folder: Path, say: Callable[[str], None], *, really: bool) -> None:
    """Show what begins the service at boot; with `really`, write the files and give the commands.

    Raises
    ------
    ProblemsError
        If a file cannot be written, or a command fails; what follows it is not done.
    """
    wanted = installation(queue_folder)
    for line in wanted.lines():
        say(line)
    if not really:
        say("nothing was done; --yes writes the files and gives the commands")
        return
    for path, text in wanted.files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding=wanted.encodings.get(path, "utf-8"))
        except OSError as error:
            raise ProblemsError([Problem(f"cannot be written: {error.strerror}", str(path))]) from error
    for command in wanted.commands:
        try:
            code = subprocess.run(command, check=False).returncode  # noqa: S603 - shown above
        except OSError as error:
            raise ProblemsError([Problem(f"cannot be given: {error.strerror}", key=_shell(command))]) from error
        if code:
            raise ProblemsError([Problem(f"has failed with exit code {code}", key=_shell(command))])
    say("installed")


def _user() -> str:
    return os.environ.get("USERNAME") or os.environ.get("USER") or "%USERNAME%"


def _shell(command: Sequence[str]) -> str:
    return subprocess.list2cmdline(command)


def _systemd_word(word: str) -> str:
    """Quote a word for `ExecStart`, where `%` and `$` mean something."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if " " in plain else plain
