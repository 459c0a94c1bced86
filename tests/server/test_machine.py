# SPDX-License-Identifier: MIT
"""Faults of the machine are told as such, not as the request's: the same request succeeds once they are over."""

from __future__ import annotations

import errno
import os
import resource
import unittest
from unittest import mock

import grpc

from localai_diffusers import errors
from localai_diffusers.media import files
from tests.gated import GatedBackend, ServerCase
from tests.support import FolderCase


class OpenFilesTest(ServerCase, FolderCase):
    backend: GatedBackend

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = GatedBackend()
        cls.addClassCleanup(cls.backend.stop)
        cls.backend.load_shapes()

    def setUp(self) -> None:
        FolderCase.setUp(self)

    def test_a_process_without_a_descriptor_left_is_out_of_resources(self) -> None:
        source = self.picture()
        self.backend.picture(src=source, step=2)  # whatever is opened once is open now
        pid = self.backend.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))  # no new one; those that are open stay
        self.assert_status(
            grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: self.backend.picture(src=source, step=2), "open files"
        )
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self.backend.picture(src=source, step=2)


class ReadAndWriteTest(FolderCase):
    def told(self, code: int) -> tuple[errors.BackendError, errors.BackendError]:
        failing = mock.patch.object(os, "open", side_effect=OSError(code, os.strerror(code)))
        with failing, self.assertRaises(errors.BackendError) as read:
            files.read_regular_file(self.picture(), "src")
        with failing, self.assertRaises(errors.BackendError) as written:
            with files.atomic_output(str(self.folder / "out.png")):
                pass
        return read.exception, written.exception

    def test_limits_of_the_machine_are_no_fault_of_the_request(self) -> None:
        for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            for error in self.told(code):
                self.assertEqual(errors.status_name(error), "RESOURCE_EXHAUSTED", error)

    def test_a_failing_disk_is_internal(self) -> None:
        for error in self.told(errno.EIO):
            self.assertEqual(errors.status_name(error), "INTERNAL", error)

    def test_permissions_are_the_requests(self) -> None:
        read, written = self.told(errno.EACCES)
        self.assertIsInstance(read, errors.InvalidRequest)
        self.assertIsInstance(written, errors.OutputError)


if __name__ == "__main__":
    unittest.main()
