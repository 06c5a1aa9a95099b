"""What operating systems are told, as they read it."""

from __future__ import annotations

import configparser
import plistlib
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scotopic.overnight.boot import install, installation

QUEUE = Path("/home/me/my data & more/queue")
WORDS = ["-m", "scotopic", "service", "run", "--queue", str(QUEUE)]


def test_systemd_begins_the_service_of_this_queue():
    (text,) = installation(QUEUE, "linux", "/opt/py/bin/python").files.values()
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read_string(text)
    assert unit["Service"]["ExecStart"] == f'/opt/py/bin/python {" ".join(WORDS[:-1])} "{QUEUE}"'
    assert unit["Service"]["KillMode"] == "process", "runs outlive a restart of the service"


def test_macos_begins_the_service_of_this_queue():
    (text,) = installation(QUEUE, "darwin", "/opt/py/bin/python").files.values()
    assert plistlib.loads(text.encode())["ProgramArguments"] == ["/opt/py/bin/python", *WORDS]


def test_windows_begins_the_service_of_this_queue_and_lets_it_run():
    found = installation(QUEUE, "win32", r"C:\py\python.exe")
    ((path, text),) = found.files.items()
    space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    task = ElementTree.fromstring(text.encode(found.encodings[path]))  # noqa: S314 - our own
    assert task.findtext(f".//{space}Command") == r"C:\py\python.exe"
    assert task.findtext(f".//{space}Arguments") == f'{" ".join(WORDS[:-1])} "{QUEUE}"'
    assert task.findtext(f".//{space}ExecutionTimeLimit") == "PT0S", "else it is ended after three days"


@pytest.mark.skipif(sys.platform == "win32", reason="HOME is not where Windows looks")
def test_nothing_is_done_unless_it_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    said = []
    install(QUEUE, said.append, really=False)
    assert "nothing was done" in said[-1]
    assert not list(tmp_path.iterdir())
