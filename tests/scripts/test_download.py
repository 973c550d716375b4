"""download.sh against a local HTTP server: the ways a transfer goes wrong, with each tool that carries it."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "download.sh"
NEEDED = ["bash", "awk", "cat", "cut", "dirname", "find", "grep", "head", "mkdir", "mv", "od", "rm"]
NEEDED += ["tail", "tr", "wc", "sha256sum"]
HTTP_TOOLS = [tool for tool in ("curl", "wget") if shutil.which(tool)]
TOOLS = [*HTTP_TOOLS, "gdown"]
FACES_FILE = "pretrained/celeba256_250000.pt"
FACES = "1norNWWGYP3EZ_o05DmoW1ryKuKMmhlCX"
PLACES = "1QEl-btGbzQz6IwkXiFGd49uQNTUtTHsk"
DATA = "1Q_dxuyI41AAmSv9ti3780BwaJQqwvwMv"
HTML = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>" * 40
# gdown gives up to 512 kB of a broken transfer away, so that a resumable one must be larger.
SIZE, CUT = 2_000_000, 1_400_000


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CHECKPOINT = archive({"archive/data.pkl": random.Random(0).randbytes(SIZE)})
IMAGES = {
    "gts/face/000000.png": b"face",
    "gt_keep_masks/face/000000.png": b"mask",
    "gt_keep_masks/thin/a b.png": b"t",
}


@dataclass
class Asset:
    """Content of one path; `script`: the fate of the first requests (an int: cut after it)."""

    body: bytes
    ranges: bool = True
    length: bool = True
    script: list[int | str] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.assets: dict[str, Asset] = {}
        self.requests: list[tuple[str, int]] = []  # path, first byte asked for


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.strip("/")
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.server.requests.append((name, start))
        asset = self.server.assets.get(name)
        if asset is None:
            return self.send_error(404)
        step = asset.script.pop(0) if asset.script else None
        if step == "503":
            return self.send_error(503)
        if not asset.ranges:
            start = 0
        if start and start >= len(asset.body):
            return self.send_error(416)
        return self.answer(asset, start, step if isinstance(step, int) else None)

    def answer(self, asset: Asset, start: int, cut: int | None) -> None:
        body = asset.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(asset.body) - 1}/{len(asset.body)}")
        if asset.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # a client that refuses the answer hangs up
            self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Project:
    """A folder with a copy of the script and a PATH that holds one download tool only."""

    def __init__(self, root: Path, server: Server, tool: str) -> None:
        self.root, self.server, self.tool = root / "a project", server, tool
        self.bin = root / "bin"
        self.bin.mkdir()
        self.root.mkdir()
        shutil.copy(SCRIPT, self.root)
        for name in [*NEEDED, *({tool} - {"gdown"})]:
            program = shutil.which(name)
            assert program, f"{name} is not installed"
            (self.bin / name).symlink_to(program)
        self.command("python3", f'exec "{sys.executable}" "$@"')
        if tool == "gdown":
            self.command("gdown", f'exec "{sys.executable}" -m gdown "$@"')
        url = f"http://127.0.0.1:{server.server_port}"
        self.env = {"PATH": str(self.bin), "HOME": str(root), "PENUMBRA_MIN_BYTES": "100"}
        self.env |= {"PENUMBRA_OPENAI_URL": url, "PENUMBRA_DRIVE_URL": url}

    def command(self, name: str, body: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{self.bin / 'bash'}\n{body}\n")
        path.chmod(0o755)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "bash"), str(self.root / "download.sh"), *words]
        return subprocess.run(command, env=self.env, cwd="/", capture_output=True, text=True, timeout=60)

    def succeeds(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, word: str, *reasons: str) -> str:
        done = self.run(word)
        assert done.returncode == 1 and all(reason in done.stderr for reason in reasons), done.stderr
        return done.stderr

    def path(self, name: str) -> Path:
        return self.root / "data" / name

    def put(self, name: str, content: bytes) -> Path:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_bytes(content)
        return self.path(name)

    def files(self) -> set[str]:
        data = self.root / "data"
        return {os.path.relpath(path, data) for path in data.rglob("*") if path.is_file()}


@pytest.fixture(params=TOOLS)
def project(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Project:
    return Project(tmp_path, server, request.param)


@pytest.fixture
def folder(tmp_path: Path, server: Server) -> Project:
    """A project with the first tool there is, for tests that do not depend on the tool."""
    return Project(tmp_path, server, TOOLS[0])


@pytest.fixture(params=HTTP_TOOLS)
def http(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Project:
    return Project(tmp_path, server, request.param)


def test_second_run_verifies_without_a_request(project: Project) -> None:
    project.server.assets[FACES] = Asset(CHECKPOINT)
    project.succeeds("faces")
    assert project.path(FACES_FILE).read_bytes() == CHECKPOINT
    assert project.files() == {FACES_FILE, "checksums.txt"}
    assert project.path("checksums.txt").read_text() == f"{digest(CHECKPOINT)}  {FACES_FILE}\n"
    project.server.requests.clear()
    assert "already there" in project.succeeds("faces") and project.server.requests == []


def test_cut_transfer_resumes_within_a_run_and_in_the_next(project: Project) -> None:
    asset = project.server.assets[FACES] = Asset(CHECKPOINT, script=[CUT, "503"])
    project.fails("faces", f"data/{FACES_FILE}: the download failed; run again to resume")
    (partial,) = project.files()
    assert partial.startswith(FACES_FILE) and partial.endswith(".part")
    assert CHECKPOINT.startswith(project.path(partial).read_bytes())
    asset.script = [10_000]
    project.succeeds("faces")
    assert project.server.requests[-1][1] > 0
    assert project.path(FACES_FILE).read_bytes() == CHECKPOINT


def test_web_page_is_refused_and_deleted(http: Project) -> None:
    http.server.assets[FACES] = Asset(HTML)
    http.fails("faces", "web page", f"https://drive.google.com/uc?id={FACES}")
    assert http.files() == set()
    http.put(FACES_FILE + ".part", HTML[:100])
    http.server.assets[FACES] = Asset(CHECKPOINT)
    http.succeeds("faces")
    assert http.path(FACES_FILE).read_bytes() == CHECKPOINT


def test_server_that_ignores_ranges(http: Project) -> None:
    http.server.assets[FACES] = Asset(CHECKPOINT, ranges=False, script=[CUT])
    http.succeeds("faces")
    assert http.path(FACES_FILE).read_bytes() == CHECKPOINT


def test_partial_file_longer_than_the_file_never_passes(http: Project) -> None:
    http.put(FACES_FILE + ".part", CHECKPOINT + bytes(70_000))
    http.server.assets[FACES] = Asset(CHECKPOINT)
    if http.tool == "wget":  # which takes it for whole
        http.fails("faces", "cut short")
    http.succeeds("faces")
    assert http.path(FACES_FILE).read_bytes() == CHECKPOINT


def test_failure_of_one_file_leaves_the_other(http: Project) -> None:
    http.server.assets["256x256_classifier.pt"] = Asset(CHECKPOINT)
    complaints = http.fails("imagenet")
    assert complaints.splitlines()[-1] == "download.sh: failed: data/pretrained/256x256_diffusion.pt"
    assert http.files() == {"pretrained/256x256_classifier.pt", "checksums.txt"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x80\x02}" + bytes(50), "suspiciously small: 53 bytes, at least 100"),
        (b"plain text " * 50, "neither a checkpoint nor an archive"),
        (b"", "neither a checkpoint nor an archive"),
        (CHECKPOINT[:CUT], "cut short"),
    ],
)
def test_incomplete_or_foreign_file_is_refused(folder: Project, body: bytes, reason: str) -> None:
    folder.server.assets[FACES] = Asset(body, length=False)
    folder.fails("faces", reason)
    assert folder.files() == set()


def test_killed_between_transfer_and_check(folder: Project) -> None:
    folder.put(FACES_FILE + ".unchecked", CHECKPOINT)
    folder.succeeds("faces")
    assert folder.server.requests == []
    assert folder.files() == {FACES_FILE, "checksums.txt"}


def test_changed_file_is_named_with_both_checksums(folder: Project) -> None:
    folder.server.assets[FACES] = Asset(CHECKPOINT)
    folder.succeeds("faces")
    tampered = CHECKPOINT[:1000] + bytes([CHECKPOINT[1000] ^ 1]) + CHECKPOINT[1001:]
    folder.put(FACES_FILE, tampered)
    folder.fails("faces", digest(tampered), digest(CHECKPOINT), "delete the file and run again")
    assert folder.path(FACES_FILE).read_bytes() == tampered  # the user's file is the user's to delete


def test_download_unlike_recorded_checksum_is_refused(folder: Project) -> None:
    folder.put("checksums.txt", f"{'0' * 64}  {FACES_FILE}\n".encode())
    folder.server.assets[FACES] = Asset(CHECKPOINT)
    folder.fails("faces", digest(CHECKPOINT), "0" * 64)
    assert folder.files() == {"checksums.txt"}


def test_file_saved_by_hand_is_checked_and_recorded(folder: Project) -> None:
    folder.put(FACES_FILE, CHECKPOINT)
    folder.succeeds("faces")
    assert digest(CHECKPOINT) in folder.path("checksums.txt").read_text()
    folder.put(FACES_FILE, HTML)
    folder.fails("faces", "web page", "delete it and run again")
    del folder.env["PENUMBRA_MIN_BYTES"]
    folder.put(FACES_FILE, CHECKPOINT)
    folder.fails("faces", "at least 1000000000")


@pytest.mark.parametrize("inside", ["", "data/datasets/"])
def test_archive_is_unpacked_without_overwriting(folder: Project, inside: str) -> None:
    members = {inside + name: content for name, content in IMAGES.items()}
    folder.server.assets[DATA] = Asset(archive(members | {"__MACOSX/gts/._face": b"junk"}))
    mine = folder.put("datasets/gts/face/000000.png", b"mine")
    folder.succeeds("data")
    assert folder.files() == {f"datasets/{name}" for name in IMAGES} | {"datasets/data.zip", "checksums.txt"}
    assert mine.read_bytes() == b"mine"
    (lost := folder.path("datasets/gt_keep_masks/thin/a b.png")).unlink()
    folder.succeeds("data")
    assert lost.read_bytes() == b"t" and len(folder.server.requests) == 1


def test_damaged_and_foreign_archives_are_refused(folder: Project) -> None:
    folder.server.assets[DATA] = Asset(archive(IMAGES).replace(b".pngface", b".pngfake"))
    folder.fails("data", "not an intact zip")
    assert folder.files() == set()
    folder.server.assets[DATA] = Asset(archive({"__MACOSX/gts/._face": b"x" * 200}))
    folder.fails("data", "has no folder gts", "failed: data/datasets")


def test_no_argument_fetches_all_four(folder: Project) -> None:
    names = [FACES, PLACES, "256x256_diffusion.pt", "256x256_classifier.pt"]
    folder.server.assets = {name: Asset(b"\x80\x02" + bytes(1000)) for name in names}  # pickles of old
    folder.server.assets[DATA] = Asset(archive(IMAGES))
    folder.succeeds()
    assert [name for name, _ in folder.server.requests] == [*names, DATA]


def test_help_and_unknown_arguments(folder: Project) -> None:
    wrong = folder.run("faces", "facse")
    assert wrong.returncode == 2 and "unknown argument 'facse'" in wrong.stderr
    assert "bash download.sh [faces] [places2] [imagenet] [data]" in folder.succeeds("-h")
    assert folder.server.requests == [] and folder.files() == set()


def test_google_drive_goes_through_gdown(folder: Project) -> None:
    del folder.env["PENUMBRA_DRIVE_URL"]
    folder.put("../source", CHECKPOINT)
    log = folder.root / "arguments"  # this stub is an old gdown, which does not know --retries
    folder.command(
        "gdown", f'[ $1 != --help ] || exit 0; echo $* >"{log}"; cat "{folder.root}/source" >"${{@: -2:1}}"'
    )
    folder.succeeds("faces")
    assert log.read_text() == f"--continue --quiet -O {folder.path(FACES_FILE)}.unchecked {FACES}\n"
    assert folder.path(FACES_FILE).read_bytes() == CHECKPOINT


def test_gdown_missing_says_what_to_do(folder: Project) -> None:
    del folder.env["PENUMBRA_DRIVE_URL"]
    (folder.bin / "gdown").unlink(missing_ok=True)
    folder.command("python3", f'exec "{sys.executable}" -I -S "$@"')  # without site-packages
    folder.fails("faces", "pip install gdown")


def test_shasum_stands_in_for_sha256sum(folder: Project) -> None:
    (folder.bin / "sha256sum").unlink()
    code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), ' -')"
    folder.command("shasum", f'[ "$*" = "-a 256" ] && exec "{sys.executable}" -c "{code}"')
    folder.server.assets[FACES] = Asset(CHECKPOINT)
    folder.succeeds("faces")
    assert digest(CHECKPOINT) in folder.path("checksums.txt").read_text()
