"""The storage, on a folder and on an S3 server that runs in this process."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from services import BUCKET, S3Server, s3_server, unanswered

from brainreg import storage as records_storage
from brainreg._utils.timeouts import call_with_timeout
from brainreg.errors import InputError
from brainreg.storage import PATIENCE, Storage, StorageError


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture(params=["folder", "s3"])
def storage(request, tmp_path) -> Storage:
    """An empty storage that nobody made yet."""
    if request.param == "folder":
        return Storage(tmp_path / "searches")
    return Storage(request.getfixturevalue("server").uri(tmp_path.name))


@pytest.fixture
def impatient(monkeypatch):
    """Pauses before another try that a test can wait for."""
    monkeypatch.setattr(records_storage, "_PAUSES", (0.01, 0.02))
    monkeypatch.setattr(records_storage, "_REQUESTS", 1)


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


class TestFiles:
    def test_what_was_written_is_read(self, storage):
        storage.write("a.json", "é 1")
        storage.write("trial_0001/deep/b.bin", b"\0\xff")
        storage.write("empty", b"")
        assert storage.read("a.json").decode() == "é 1"
        assert storage.read("trial_0001/deep/b.bin") == b"\0\xff"
        assert storage.read("empty") == b""

    def test_another_write_replaces_the_file(self, storage):
        storage.write("a", "a longer text")
        storage.write("a", "short")
        assert storage.read("a") == b"short"

    def test_a_file_of_several_parts(self, storage):
        """S3 takes a large file in parts of a few megabytes."""
        content = os.urandom(1 << 20) * 12
        storage.write("checkpoint.pt", content)
        assert storage.read("checkpoint.pt") == content

    def test_a_missing_file_is_none(self, storage):
        assert storage.read("a") is None and storage.read("no/such/folder") is None
        storage.write("a", "a file")
        assert storage.read("a/b") is None and storage.read("A") is None

    def test_exists(self, storage):
        assert not storage.exists("a")
        storage.write("folder/a", "1")
        assert storage.exists("folder/a") and storage.exists("folder")
        assert not storage.exists("folder/b") and not storage.exists("fold")

    def test_names_are_those_of_files_and_folders(self, storage):
        assert storage.names() == []
        for name in ("b", "a/1", "a/2", "c/d/e"):
            storage.write(name, "x")
        assert storage.names() == ["a", "b", "c"] and storage.child("a").names() == ["1", "2"]
        assert storage.child("none").names() == []

    def test_a_child_is_a_folder_in_it(self, storage):
        child = storage.child("s").child("trial_0001")
        child.write("a", "1")
        assert storage.read("s/trial_0001/a") == b"1" and child.read("a") == b"1"
        assert child.path("a") == f"{storage}/s/trial_0001/a" == storage.path("s/trial_0001/a")
        assert str(child) == f"{storage}/s/trial_0001"

    def test_an_address_and_a_pickle_lead_to_the_same_files(self, storage):
        child = storage.child("s")
        child.write("a", "1")
        for other in (Storage(child.uri), pickle.loads(pickle.dumps(child)), Storage(Storage(child.uri).uri)):
            assert other.read("a") == b"1" and other.names() == ["a"]
            assert (other.uri, str(other), other.is_local) == (child.uri, str(child), child.is_local)

    def test_its_file_system_is_pyarrows(self, storage):
        """Ray Tune writes with it, on other machines, too."""
        filesystem = pickle.loads(pickle.dumps(storage.filesystem))
        filesystem.create_dir(f"{storage.root}/ray")
        with filesystem.open_output_stream(f"{storage.root}/ray/a") as file:
            file.write(b"1")
        assert storage.read("ray/a") == b"1"

    def test_fetch(self, storage, tmp_path):
        storage.write("trial/checkpoint.pt", b"network")
        copies = tmp_path / "copies"
        copies.mkdir()
        path = storage.child("trial").fetch("checkpoint.pt", copies)
        assert path.read_bytes() == b"network"
        own = Path(storage.root, "trial", "checkpoint.pt")
        assert path == (own if storage.is_local else copies / "checkpoint.pt")
        with pytest.raises(StorageError, match=r"/other.pt: no such file$"):
            storage.fetch("other.pt", copies)


def test_a_folder_may_be_called_as_it_likes(tmp_path, monkeypatch):
    """None of these is an address, whatever the characters mean in one."""
    monkeypatch.chdir(tmp_path)
    for name in ("my results", "50%", "a#b", "really?", "ä&b=c"):
        storage = Storage(name).child("s")
        storage.write("a", name)
        assert storage.read("a").decode() == name and storage.exists("a") and storage.names() == ["a"]
        assert storage.uri == str(tmp_path / name / "s") and Storage(storage.uri).exists("a")


class TestFailures:
    def test_a_full_disk_leaves_the_old_content(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
        if os.getuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("only root can mount a disk as small as that")
        try:
            storage = Storage(disk)
            storage.write("trial/a", "old")
            with pytest.raises(StorageError) as caught:
                storage.write("trial/a", os.urandom(100_000))
            assert str(caught.value) == f"{disk}/trial/a: cannot be written (No space left on device)"
            assert storage.read("trial/a") == b"old" and not parts(disk)
            storage.write("trial/a", "new")  # the failed write took no room
            assert storage.read("trial/a") == b"new"
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_write_that_fails_at_its_end_leaves_the_old_content(self, tmp_path, monkeypatch):
        storage = Storage(tmp_path)
        storage.write("a", "old")

        def no_quota(*arguments):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        for function in ("fsync", "replace"):
            with monkeypatch.context() as patch:
                patch.setattr(os, function, no_quota)
                with pytest.raises(StorageError, match=r"/a: cannot be written \(Disk quota exceeded\)$"):
                    storage.write("a", "new")
            assert storage.read("a") == b"old" and not parts(tmp_path)

    def test_a_reader_sees_one_content_or_the_other(self, tmp_path):
        storage = Storage(tmp_path)
        contents = [letter * 100_000 for letter in (b"a", b"b")]
        storage.write("a", contents[0])
        writer = threading.Thread(target=lambda: [storage.write("a", contents[i % 2]) for i in range(50)])
        writer.start()
        while writer.is_alive():
            assert storage.read("a") in contents
        writer.join()

    def test_what_cannot_be_read_or_written(self, tmp_path):
        storage = Storage(tmp_path)
        storage.write("file", "x")
        storage.write("folder/a", "x")
        with pytest.raises(StorageError, match=r"/folder: cannot be read \(Is a directory\)$"):
            storage.read("folder")
        with pytest.raises(StorageError, match=r"/file/a: cannot be written \((File exists|Not a directory)\)$"):
            storage.write("file/a", "x")
        with pytest.raises(StorageError, match=r"/folder: cannot be written \(Is a directory\)$"):
            storage.write("folder", "x")
        assert storage.read("file") == b"x" and storage.read("folder/a") == b"x" and not parts(tmp_path)

    def test_a_network_that_is_lost_leaves_the_old_content(self, server, impatient):
        storage = Storage(server.uri("lost"))
        storage.write("a", "old")
        server.stop()
        try:
            for action, words in (
                (lambda: storage.write("a", "new"), "a: cannot be written ("),
                (lambda: storage.read("a"), "a: cannot be read ("),
                (lambda: storage.exists("a"), "a: cannot be read ("),
                (storage.names, "lost: cannot be read ("),
            ):
                with pytest.raises(StorageError) as caught:
                    action()
                assert words in str(caught.value) and "\n" not in str(caught.value)
        finally:
            server.start()
        assert storage.read("a") == b"old"

    def test_a_network_that_comes_back_loses_nothing(self, server):
        storage = Storage(server.uri("back"))
        storage.write("a", "old")
        storage.write("b", "kept")
        server.stop()
        again = threading.Timer(1.0, server.start)
        again.start()
        with ThreadPoolExecutor() as pool:
            reading = pool.submit(storage.read, "b")
            storage.write("a", "new")
            assert reading.result() == b"kept"
        again.join()
        assert storage.read("a") == b"new"


class TestAddresses:
    @pytest.fixture
    def written(self, server) -> S3Server:
        Storage(server.uri("where")).write("a", "1")
        return server

    def test_a_server_may_be_named_in_the_environment(self, written, monkeypatch):
        storage = Storage(f"s3://{BUCKET}/where")
        assert storage.uri == f"s3://{BUCKET}/where"
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            for end in ("", "/"):
                with monkeypatch.context() as patch:
                    patch.setenv(name, f"http://{written.address}{end}")
                    assert Storage(storage.uri).read("a") == b"1"
                    assert Storage(f"s3://{BUCKET}/where/").child("b").names() == []

    def test_without_keys_and_region(self, written, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{written.address}")
        assert Storage(f"s3://{BUCKET}/where").read("a") == b"1"

    def test_an_address_goes_before_the_environment(self, written, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert Storage(written.uri("where")).read("a") == b"1"
        assert Storage(written.uri("where") + "&region=eu-west-1").read("a") == b"1"

    def test_the_bucket_itself(self, written):
        storage = Storage(written.uri("").replace("/?", "?"))
        assert storage.read("where/a") == b"1" and "where" in storage.names()
        storage.write("b", "2")
        assert storage.read("b") == b"2"

    def test_slashes_too_many(self, written):
        assert Storage(written.uri("/where/")).read("a") == b"1"

    def test_a_bucket_that_is_not_there(self, server, impatient):
        storage = Storage(server.uri("s").replace(BUCKET, "bukket"))
        for action in (lambda: storage.exists("a"), storage.names):
            with pytest.raises(StorageError, match=r"^s3://bukket/s: there is no bucket bukket$"):
                action()
        with pytest.raises(StorageError, match=r"^s3://bukket/s/a: cannot be written \(.*NO_SUCH_BUCKET"):
            storage.write("a", "x")

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("gs://bucket/s", "no such storage"),
            ("file:///tmp/s", "no such storage"),
            ("s3://", "no such storage"),
            ("s3:///s", "no such storage"),
            (f"s3://{BUCKET}/s?endpoint=x", "endpoint: no such option, known: endpoint_override, scheme, region"),
            (f"s3://{BUCKET}/s?endpoint_override=x&scheme=ftp", "ftp"),
        ],
    )
    def test_what_is_no_address(self, address, words):
        began = time.monotonic()
        with pytest.raises(InputError) as caught:
            Storage(address).exists("a")
        assert words in str(caught.value) and str(caught.value).endswith("; must be a folder or s3://BUCKET/PATH")
        assert "\n" not in str(caught.value) and time.monotonic() - began < 2

    def test_keys_in_an_address_are_refused_and_not_repeated(self):
        with pytest.raises(InputError) as caught:
            Storage(f"s3://key:secret@{BUCKET}/s")
        assert "AWS_SECRET_ACCESS_KEY" in str(caught.value) and "secret@" not in str(caught.value)


class TestPatience:
    def test_what_is_done_within_it(self):
        assert call_with_timeout(5, lambda: 3) == 3
        assert call_with_timeout(5, lambda: None) is None

    def test_an_error_is_that_of_the_action(self):
        with pytest.raises(KeyError, match="x"):
            call_with_timeout(5, lambda: {}["x"])

    def test_what_takes_longer_is_left_alone(self):
        began, end = time.monotonic(), threading.Event()
        with pytest.raises(TimeoutError, match=r"^no answer within 0.2 s$"):
            call_with_timeout(0.2, end.wait)
        assert 0.2 <= time.monotonic() - began < 2
        end.set()

    @pytest.mark.parametrize("listening", [False, True])
    def test_a_process_that_gets_no_answer_ends_in_time(self, listening):
        """pyarrow lets no process end before its requests do."""
        with unanswered(listening) as address:
            code = (
                "import time\n"
                "from brainreg._utils.timeouts import call_with_timeout\n"
                "from brainreg.storage import *\n"
                f"storage = Storage('s3://{BUCKET}/s?endpoint_override={address}&scheme=http')\n"
                "print(time.time(), flush=True)\n"
                "try: call_with_timeout(PATIENCE, lambda: storage.exists('a'))\n"
                "except InputError as error: print(error)\n"
            )
            environment = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
            now = time.time()
        began, message = ended.stdout.splitlines()
        assert ended.returncode == 0, ended.stderr
        assert f"s3://{BUCKET}/s/a: cannot be read (" in message and "NETWORK_CONNECTION" in message
        assert now - float(began) < PATIENCE + 2
