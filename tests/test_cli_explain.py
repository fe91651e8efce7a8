"""``convbias explain``, as it is typed."""

from __future__ import annotations

import signal
import subprocess
import sys
import webbrowser
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from convbias import cli
from convbias.explaining import page


def explain(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["convbias", "explain", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_page_is_written_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path)
    assert explain(monkeypatch) == 0
    assert capsys.readouterr().out == "convbias-explain.html\n"
    assert (tmp_path / "convbias-explain.html").read_text("utf-8") == page()
    assert opened == [(tmp_path / "convbias-explain.html").as_uri()]
    assert explain(monkeypatch, "-o", "lesson.html", "--no-open") == 0
    assert (tmp_path / "lesson.html").exists()
    assert len(opened) == 1


def test_a_place_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(monkeypatch, "-o", str(tmp_path / "missing" / "a.html"), "--no-open") == 2
    said = capsys.readouterr().err
    assert "a.html: cannot be written (No such file or directory); choose another place" in said
    assert explain(monkeypatch, "-o", str(tmp_path / "a.html"), "--serve", "--no-open") == 2
    assert "a.html: is not written by --serve" in capsys.readouterr().err


def test_the_page_is_served_until_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "convbias", "explain", "--serve", "--port", "0", "--no-open"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert server.stdout
    address = server.stdout.readline().split()[0]
    with urlopen(address, timeout=30) as answer:
        assert answer.read().decode() == page()
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    with urlopen(Request(address, method="HEAD"), timeout=30) as answer:
        assert (answer.headers["Content-Length"], answer.read()) == (str(len(page().encode())), b"")
    port = address.rstrip("/").split(":")[-1]
    assert explain(monkeypatch, "--serve", "--port", port, "--no-open") == 2
    assert f"127.0.0.1:{port}: cannot be served at (Address already in use)" in capsys.readouterr().err
    server.send_signal(signal.SIGINT)
    assert server.communicate(timeout=60)[1] == ""
    assert server.returncode == 0
    assert list(tmp_path.iterdir()) == []
