# SPDX-License-Identifier: MIT
"""Promises of localai_diffusers.media.files: what is read is regular and bounded, what is written is
whole.
"""

from __future__ import annotations

import base64
import errno
import os
import socket
import stat
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from localai_diffusers.errors import InvalidRequest, OutputDiskFull, OutputError
from localai_diffusers.media import files

LIMIT = 1000


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)
        self.dst = self.folder / "out.png"

    def write(self, text: bytes = b"new") -> None:
        with files.atomic_output(str(self.dst)) as path:
            path.write_bytes(text)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))


class Sources(InFolder):
    def refused(self, path: Path | str, words: str) -> None:
        for read in (files.read_regular_file, files.check_source):
            with self.assertRaises(InvalidRequest) as caught:
                read(str(path), "src", LIMIT)
            self.assertIn(words, str(caught.exception))
            self.assertTrue(str(caught.exception).startswith("src: "), caught.exception)

    def test_a_regular_file_is_read_whole(self) -> None:
        self.dst.write_bytes(b"x" * LIMIT)
        self.assertEqual(files.read_regular_file(str(self.dst), "src", LIMIT), b"x" * LIMIT)
        self.assertEqual(files.check_source(str(self.dst), "src", LIMIT), self.dst)

    def test_one_byte_over_the_limit_is_refused(self) -> None:
        self.dst.write_bytes(b"x" * (LIMIT + 1))
        self.refused(self.dst, f"the limit is {LIMIT}")

    def test_a_missing_file_a_folder_and_a_device_are_named(self) -> None:
        self.refused(self.folder / "none", "no file")
        self.refused(self.folder, "a folder")
        self.refused("/dev/zero", "a device")
        self.refused("", "empty")
        self.refused("a\0b", "can't be read")

    def test_a_fifo_and_a_socket_are_refused_without_waiting(self) -> None:
        fifo, address = self.folder / "fifo", self.folder / "socket"
        os.mkfifo(fifo)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            start = time.monotonic()
            self.refused(fifo, "a named pipe")
            self.refused(address, "a socket")
        self.assertLess(time.monotonic() - start, 0.2)

    def test_an_empty_file_is_refused_when_read(self) -> None:
        self.dst.touch()
        with self.assertRaisesRegex(InvalidRequest, "is empty"):
            files.read_regular_file(str(self.dst), "src", LIMIT)

    def test_a_file_that_tells_no_size_is_bounded_too(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "the limit is 10"):
            files.read_regular_file("/proc/cpuinfo", "src", 10)


class References(InFolder):
    payload = bytes(range(256))

    def test_path_base64_and_data_uri_give_the_same_bytes(self) -> None:
        self.dst.write_bytes(self.payload)
        plain = base64.b64encode(self.payload).decode()
        forms = [
            str(self.dst),
            plain,
            "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76)),
            base64.urlsafe_b64encode(self.payload).decode().rstrip("="),
            f"data:image/png;base64,{plain}",
        ]
        for form in forms:
            self.assertEqual(files.decode_reference(form, "start_image", LIMIT), self.payload, form[:40])

    def test_a_data_uri_may_be_percent_encoded(self) -> None:
        self.assertEqual(files.decode_reference("data:text/plain,a%20b", "audio", LIMIT), b"a b")

    def test_an_existing_path_wins_over_base64(self) -> None:
        name = "abcd" * 20
        (self.folder / name).write_bytes(b"from the file")
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        self.assertEqual(files.decode_reference(name, "audio", LIMIT), b"from the file")

    def test_a_missing_path_is_called_missing_even_if_it_is_valid_base64(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "start_image: there is no file"):
            files.decode_reference(str(self.folder / "abcdefghijkl"), "start_image", LIMIT)
        with self.assertRaisesRegex(InvalidRequest, "neither"):
            files.decode_reference("/no/such", "start_image", LIMIT)

    def test_urls_rubbish_and_too_much_are_refused(self) -> None:
        cases = (
            ("https://example.com/a.png", "URL"),
            ("not base64!", "neither"),
            ("data:image/png", "comma"),
            ("", "empty"),
            ("data:,", "empty"),
            (base64.b64encode(b"x" * 3000).decode(), "limit"),
        )
        for value, words in cases:
            with self.assertRaisesRegex(InvalidRequest, words):
                files.decode_reference(value, "audio", LIMIT)


class Destinations(InFolder):
    def refused(self, dst: str, words: str) -> None:
        with self.assertRaisesRegex(OutputError, words):
            files.check_destination(dst)
        with self.assertRaisesRegex(OutputError, words), files.atomic_output(dst):
            self.fail("the block must not run")

    def test_what_cannot_be_a_destination_is_refused_before_and_while_writing(self) -> None:
        os.mkfifo(self.folder / "fifo")
        self.refused(str(self.folder / "none" / "out.png"), "doesn't exist")
        self.refused(str(self.folder), "a folder")
        self.refused(str(self.folder) + "/", "a folder")
        self.refused(str(self.folder / "fifo"), "a named pipe")
        self.refused("/dev/full", "a device")
        self.refused("", "isn't a path")
        self.refused("a\0b", "isn't a path")
        self.refused(str(self.folder / ("n" * 300)), "can't be written")
        self.refused(str(self.folder / "fifo" / "out.png"), "doesn't exist|can't be written")

    @unittest.skipIf(os.geteuid() == 0, "root may write anywhere")
    def test_a_folder_without_permission_is_refused(self) -> None:
        self.folder.chmod(0o500)
        self.addCleanup(self.folder.chmod, 0o700)
        self.refused(str(self.dst), "isn't writable")

    def test_a_folder_that_takes_no_files_is_an_output_error(self) -> None:
        with self.assertRaises(OutputError), files.atomic_output("/proc/out.png"):
            pass

    def test_a_full_file_system_is_refused_up_front(self) -> None:
        full = mock.Mock(f_bfree=0, f_bavail=0, f_blocks=100)
        with mock.patch("os.statvfs", return_value=full), self.assertRaises(OutputDiskFull):
            files.check_destination(str(self.dst))

    def test_checking_writes_nothing(self) -> None:
        files.check_destination(str(self.dst))
        self.assertEqual(self.names(), [])

    def test_a_relative_destination_is_taken(self) -> None:
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        with files.atomic_output("test.jpg") as path:
            path.write_bytes(b"new")
        self.assertEqual(self.names(), ["test.jpg"])


class Writing(InFolder):
    def test_a_new_file_has_the_umask_mode_and_no_temporary_is_left(self) -> None:
        old = os.umask(0o027)
        self.addCleanup(os.umask, old)
        self.write()
        self.assertEqual(stat.S_IMODE(self.dst.stat().st_mode), 0o640)
        self.assertEqual(self.names(), ["out.png"])

    def test_an_older_file_keeps_its_mode_and_is_replaced_in_one_move(self) -> None:
        self.dst.touch(mode=0o600)
        inode = self.dst.stat().st_ino
        self.write()
        self.assertEqual(stat.S_IMODE(self.dst.stat().st_mode), 0o600)
        self.assertNotEqual(self.dst.stat().st_ino, inode)
        self.assertEqual((self.names(), self.dst.read_bytes()), (["out.png"], b"new"))

    def test_the_temporary_file_lies_hidden_beside_the_destination(self) -> None:
        with files.atomic_output(str(self.dst)) as path:
            self.assertEqual(path.parent, self.folder.resolve())
            self.assertTrue(path.name.startswith("."))

    def test_an_exception_leaves_the_older_file_and_no_temporary(self) -> None:
        self.dst.write_bytes(b"old")
        for error in (RuntimeError("stop"), KeyboardInterrupt()):
            with self.assertRaises(type(error)), files.atomic_output(str(self.dst)) as path:
                path.write_bytes(b"half")
                raise error
        self.assertEqual((self.names(), self.dst.read_bytes()), (["out.png"], b"old"))

    def test_a_link_stays_a_link_and_its_target_is_written(self) -> None:
        target = self.folder / "real.png"
        self.dst.symlink_to(target)
        self.write()
        self.assertTrue(self.dst.is_symlink())
        self.assertEqual((target.read_bytes(), self.names()), (b"new", ["out.png", "real.png"]))

    def test_a_full_disk_in_the_block_is_told_and_leaves_the_older_file(self) -> None:
        self.dst.write_bytes(b"old")
        with self.assertRaises(OutputDiskFull), files.atomic_output(str(self.dst)) as path:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        self.assertEqual((self.names(), self.dst.read_bytes()), (["out.png"], b"old"))

    def test_an_encoders_own_error_stays_what_it_is(self) -> None:
        for error in (OSError("encoder error -2"), OSError(errno.EINVAL, "avcodec_open2")):
            with self.assertRaises(OSError), files.atomic_output(str(self.dst)):
                raise error
        self.assertEqual(self.names(), [])


class InPlace(InFolder):
    """Where a rename isn't allowed; root may rename anywhere, so the refusal is put in."""

    def setUp(self) -> None:
        super().setUp()
        self.dst.write_bytes(b"older and longer")
        self.dst.chmod(0o600)
        self.inode = self.dst.stat().st_ino

    def assert_written_in_place(self, text: bytes) -> None:
        self.assertEqual((self.dst.read_bytes(), self.names()), (text, ["out.png"]))
        self.assertEqual(self.dst.stat().st_ino, self.inode)
        self.assertEqual(stat.S_IMODE(self.dst.stat().st_mode), 0o600)

    def test_a_refused_rename_writes_into_the_existing_file(self) -> None:
        for number in (errno.EPERM, errno.EACCES, errno.EXDEV, errno.EBUSY):
            with mock.patch("os.replace", side_effect=OSError(number, "refused")):
                self.write(b"new %d" % number)
            self.assert_written_in_place(b"new %d" % number)

    def test_a_folder_that_takes_no_temporary_file_does_too(self) -> None:
        real = os.open

        def refuse(path: object, flags: int, *rest: int) -> int:
            if flags & os.O_CREAT and Path(str(path)).parent == self.folder.resolve():
                raise PermissionError(errno.EACCES, "refused")
            return real(path, flags, *rest)

        with mock.patch("os.open", side_effect=refuse):
            self.write(b"longer than the older one was")
        self.assert_written_in_place(b"longer than the older one was")

    def test_no_room_in_place_leaves_the_older_bytes(self) -> None:
        full = mock.patch("os.posix_fallocate", side_effect=OSError(errno.ENOSPC, "full"))
        with mock.patch("os.replace", side_effect=PermissionError(errno.EPERM, "refused")), full:
            with self.assertRaises(OutputDiskFull):
                self.write(b"n" * 100)
        self.assert_written_in_place(b"older and longer")

    def test_a_refused_rename_without_an_existing_file_is_an_output_error(self) -> None:
        self.dst.unlink()
        with mock.patch("os.replace", side_effect=PermissionError(errno.EPERM, "refused")):
            with self.assertRaises(OutputError):
                self.write()
        self.assertEqual(self.names(), [])

    @unittest.skipIf(os.geteuid() != 0, "only root can make a file of another owner")
    def test_the_owner_of_an_older_file_stays(self) -> None:
        os.chown(self.dst, 12345, 12345)
        self.write(b"renamed")
        self.assertEqual((self.dst.stat().st_uid, self.dst.read_bytes()), (12345, b"renamed"))
        self.inode = self.dst.stat().st_ino
        with mock.patch("os.chown", side_effect=PermissionError(errno.EPERM, "refused")):
            self.write(b"in place")
        self.assert_written_in_place(b"in place")
        self.assertEqual(self.dst.stat().st_uid, 12345)


if __name__ == "__main__":
    unittest.main()
