from __future__ import annotations

import shutil

import mm_test_adapters
import pytest
from pymmcore_plus import _discovery, find_micromanager

from scotopic.microscope.adapters import adapter_folder


@pytest.fixture
def real_installation(tmp_path, monkeypatch):
    """A Micro-Manager where the installer puts it, as on a microscope computer."""
    folder = tmp_path / "Micro-Manager-2.0"
    shutil.copytree(mm_test_adapters.device_adapter_path(), folder)
    installed = _discovery.DiscoveredMM(path=folder)
    monkeypatch.setattr(_discovery, "_application_installs", lambda: iter([installed]))
    for source in ("_env_var_mm", "_current_mm", "_mmcore_installed_mm"):
        monkeypatch.setattr(_discovery, source, lambda: iter([]))
    monkeypatch.setattr(_discovery, "_DISCOVERED_MMS", {})
    return installed


def test_the_test_adapters_never_shadow_a_real_installation(real_installation):
    assert adapter_folder(["DemoCamera"]) == real_installation.path.resolve()
    assert find_micromanager() != str(real_installation.path.resolve()), (
        "pymmcore-plus has mended it: delete adapters.py"
    )


def test_the_test_adapters_serve_where_there_is_nothing_else(real_installation, monkeypatch):
    monkeypatch.setattr(_discovery, "_application_installs", lambda: iter([]))
    folder = adapter_folder(["DemoCamera", "Utilities"])
    assert folder is not None
    assert "mm_test_adapters" in folder.parts
    with pytest.raises(RuntimeError, match="no Micro-Manager found for Hamamatsu"):
        adapter_folder(["Hamamatsu"])


def test_a_device_interface_that_does_not_fit_gets_the_line_that_mends_it(real_installation, monkeypatch):
    discovered = list(_discovery.discover_mm())
    for mm in discovered:
        if "mm_test_adapters" not in mm.path.parts:
            mm.device_interface, mm.div_compatible = 71, False
    with pytest.raises(RuntimeError, match=r"has device interface 71, MMCore needs \d+.*mmcore install"):
        adapter_folder(["Hamamatsu"])
    assert adapter_folder(["DemoCamera"]) is not None


def test_python_devices_need_no_adapters():
    assert adapter_folder([]) is None
