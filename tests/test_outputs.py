"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from convbias.errors import OutputError
from convbias.outputs import writable_folder, write_whole


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    assert writable_folder(folder) == folder


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="taken: is a file; choose another folder"):
        writable_folder(tmp_path / "taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        writable_folder(tmp_path)


def test_the_file_has_its_content_and_the_rights_of_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", lambda file: file.write_text("new"))
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", "plain"}


@pytest.mark.parametrize(
    ("failure", "raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "No space left .*; free space"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (ValueError("no such format"), ValueError, "no such format"),
    ],
)
def test_a_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, failure: BaseException, raised: type[BaseException], said: str
) -> None:
    (tmp_path / "a.txt").write_text("old")

    def write(file: Path) -> None:
        file.write_text("ne")
        raise failure

    with pytest.raises(raised, match=said):
        write_whole(tmp_path / "a.txt", write)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone.a\.txt: cannot be written \(No such file"):
        write_whole(tmp_path / "gone" / "a.txt", lambda file: file.touch())


def test_a_device_stays_and_a_link_is_followed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="pipe: is no ordinary file"):
        write_whole(pipe, lambda file: file.write_text("new"))
    assert pipe.is_fifo()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real.txt")
    write_whole(link, lambda file: file.write_text("new"))
    assert link.is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
