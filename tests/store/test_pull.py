from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hub_server import BLOCK, HubServer
from store.pull_world import FILE, MB, REPO, World, model_bytes

from myllm.errors import DownloadFailed, HubUnreachable, InsufficientStorage
from myllm.store.pull_download import Stopped

ON_THE_WAY = 4 * MB  # what four connections may have received and not yet written


def test_a_pulled_model_is_the_file_of_the_hub_and_installed(world: World) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())

    model = world.pull("hf.co/org/Some-GGUF:q4_k_m")

    assert (model.name, model.source, model.path) == (f"{REPO}:Q4_K_M", "pulled", world.file())
    assert world.file().read_bytes() == content
    assert world.left() == [f"{REPO}/{FILE}"]
    assert [each.name for each in world.store().list()] == [f"{REPO}:Q4_K_M", "tiny"]


@pytest.mark.parametrize("name", ["some:7b", "some-7b", "some"])
def test_a_model_of_the_catalogue_is_installed_under_its_name_there(world: World, name: str) -> None:
    world.hub.add(REPO, FILE, model_bytes())

    model = world.pull(name)

    assert (model.name, model.template) == ("some:7b", "chatml")
    assert world.store().resolve("some-7b").path == world.file()


def test_one_file_that_was_pulled_under_two_names_is_fetched_once_and_goes_with_the_second(world: World) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())

    world.pull("some:7b")
    world.pull(f"{REPO}/{FILE}")
    served = world.hub.num_served
    world.store().remove("some:7b")
    after_one = world.left()
    world.store().remove(f"{REPO}:Q4_K_M")

    assert served == len(content)
    assert (after_one, world.left()) == ([f"{REPO}/{FILE}"], [])


def test_the_bundled_model_is_there_without_a_look_at_the_hub(world: World) -> None:
    world.hub.close()

    model = world.pull("tiny")

    assert (model.name, model.source) == ("tiny", "bundled")
    assert [report.status for report in world.reports] == ["success"]


def test_a_big_file_comes_over_several_connections(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.rate = 200 * MB

    world.pull()

    assert world.file().read_bytes() == big
    assert world.hub.most_connections == 3
    assert world.hub.num_served == len(big)


def test_the_progress_never_goes_back_and_ends_with_all_bytes(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.rate = 20 * MB
    started = time.monotonic()

    world.pull()

    counts = [report.completed for report in world.reports]
    assert counts == sorted(counts) and counts[-1] == len(big)
    assert {report.total for report in world.reports} == {len(big)}
    assert world.reports[-1].status == "success"
    assert any(report.bytes_per_second and report.seconds_left is not None for report in world.reports)
    assert 3 <= len(counts) <= 10 * (time.monotonic() - started) + 5


@pytest.mark.parametrize("connections", [1, 4])
def test_a_pull_that_was_cut_at_60_percent_goes_on_from_there(world: World, big: bytes, connections: int) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.cut_after = len(big) * 6 // 10

    with pytest.raises(HubUnreachable, match="pull again"):
        world.pull(connections=connections)
    after_cut = world.left()
    world.hub.cut_after = None
    world.pull(connections=connections)

    twice = world.hub.num_served - len(big)
    print(f"{connections} connections: {twice:,} of {len(big):,} bytes fetched twice")
    assert after_cut == [f"{REPO}/{FILE}.part"]
    assert world.file().read_bytes() == big
    assert 0 <= twice <= connections * BLOCK
    assert world.reports[0].completed > len(big) // 2


def test_a_connection_that_breaks_now_and_then_is_mended_within_the_pull(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.failures = [(503, {}), (429, {"Retry-After": "0"}), (500, {})]

    world.pull()

    assert world.file().read_bytes() == big
    assert world.hub.num_served == len(big)


def test_a_puller_that_is_killed_leaves_what_the_next_one_resumes(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.pause_after = len(big) * 6 // 10
    puller = start_puller(world)
    assert world.hub.is_paused.wait(60)

    puller.send_signal(signal.SIGKILL)
    puller.wait()
    world.hub.go_on()
    world.pull()

    twice = world.hub.num_served - len(big)
    print(f"kill -9: {twice:,} of {len(big):,} bytes fetched twice")
    assert world.file().read_bytes() == big
    assert 0 <= twice <= ON_THE_WAY + in_sockets(world.hub)


def test_a_pull_that_is_told_to_stop_stops_and_is_resumed(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.rate = 20 * MB
    stop = threading.Event()
    puller = world.puller()

    def stop_at_a_tenth(report: object) -> None:
        if report.completed > len(big) // 10:
            stop.set()

    with pytest.raises(Stopped):
        puller.pull("some", stop_at_a_tenth, stop)
    world.hub.rate = None
    world.pull("some")

    assert world.file().read_bytes() == big
    assert world.reports[0].completed > len(big) // 10


def test_content_with_a_wrong_checksum_is_refused_and_nothing_stays(world: World) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())
    world.hub.promised[FILE] = {"lfs": {"size": len(content), "sha256": "0" * 64, "pointerSize": 134}}

    with pytest.raises(DownloadFailed, match=hashlib.sha256(content).hexdigest()):
        world.pull()

    assert (world.left(), [model.name for model in world.store().list()]) == ([], ["tiny"])


def test_a_resumed_part_that_was_damaged_meanwhile_is_noticed(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.cut_after = len(big) // 2
    with pytest.raises(HubUnreachable):
        world.pull()
    world.hub.cut_after = None
    with world.file(f"{FILE}.part").open("r+b") as part:
        part.seek(10_000)
        part.write(b"damage")

    with pytest.raises(DownloadFailed, match="checksum"):
        world.pull()
    world.pull()

    assert world.file().read_bytes() == big


def test_a_small_file_that_git_holds_is_checked_by_gits_checksum(world: World) -> None:
    content = world.hub.add(REPO, FILE, model_bytes(5_000))
    world.hub.small.add(FILE)

    world.pull()
    world.store().remove(f"{REPO}:Q4_K_M")
    world.hub.promised[FILE] = {"blobId": "0" * 40}

    with pytest.raises(DownloadFailed, match="checksum"):
        world.pull()
    assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != "0" * 40
    assert world.left() == []


def test_a_disk_with_too_little_room_is_an_error_with_both_numbers_before_a_byte_comes(world: World) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())
    world.free = 50_000

    with pytest.raises(InsufficientStorage, match=rf"needs {len(content):,} bytes more .* 50,000 are free"):
        world.pull()

    assert (world.hub.num_served, world.left()) == (0, [])


def test_what_an_earlier_pull_brought_needs_no_room_again(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.cut_after = len(big) // 2
    with pytest.raises(HubUnreachable):
        world.pull()
    world.hub.cut_after = None
    world.free = len(big) * 6 // 10

    world.pull()

    assert world.file().read_bytes() == big


def test_a_disk_that_cannot_hold_the_file_is_told_in_one_line(world: World, big: bytes) -> None:
    """The process's limit on a file's size stands for a file system's, such as 4 GiB of FAT."""
    world.hub.add(REPO, FILE, big)
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, 10**7))"
    )

    puller = start_puller(world, limit)

    _, told = puller.communicate(timeout=60)
    assert (puller.returncode, told.count(b"\n")) == (1, 1)
    assert b"cannot be written: File too large" in told


def test_two_pulls_at_once_share_one_download(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.pause_after = len(big) // 2
    models, seen = [], []

    def pull() -> None:
        models.append(world.puller().pull("some", seen.append))

    threads = [threading.Thread(target=pull) for _ in range(3)]
    for thread in threads:
        thread.start()
    other = start_puller(world)
    assert world.hub.is_paused.wait(60)
    world.hub.go_on()
    for thread in threads:
        thread.join()

    assert other.wait(60) == 0
    assert world.hub.num_served == len(big)
    assert [model.path for model in models] == [world.file()] * 3
    assert world.file().read_bytes() == big
    assert world.left() == [f"{REPO}/{FILE}"]


def test_one_who_waits_sees_the_progress_and_goes_on_where_the_first_one_is_killed(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.pause_after = len(big) // 2
    first = start_puller(world)
    assert world.hub.is_paused.wait(60)
    has_seen = threading.Event()

    def watch(report: object) -> None:
        if report.completed > len(big) // 3:
            has_seen.set()

    second = threading.Thread(target=world.puller().pull, args=("some", watch))
    second.start()
    assert has_seen.wait(60)
    first.kill()
    first.wait()
    world.hub.go_on()
    second.join()

    assert world.file().read_bytes() == big
    assert world.hub.num_served - len(big) <= ON_THE_WAY + in_sockets(world.hub)


def test_a_split_model_is_one_model(world: World) -> None:
    parts = [f"UD/some-Q8_0-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    contents = [world.hub.add(REPO, path, model_bytes(seed=n, split__no=n, split__count=3)) for n, path in enumerate(parts)]

    model = world.pull(f"{REPO}:Q8_0")

    assert (model.name, model.path) == (f"{REPO}:Q8_0", world.file(parts[0]))
    assert [world.file(path).read_bytes() for path in parts] == contents
    assert {report.total for report in world.reports} == {sum(map(len, contents))}
    assert model.metadata.size_bytes == sum(map(len, contents))
    world.store().remove(model.name)
    assert world.left() == []


def test_nobody_sees_half_of_a_split_model(world: World) -> None:
    parts = [f"some-Q8_0-{number:05}-of-00002.gguf" for number in (1, 2)]
    contents = [world.hub.add(REPO, path, model_bytes(split__no=n, split__count=2)) for n, path in enumerate(parts)]
    world.hub.cut_after = len(contents[0]) * 3 // 2

    with pytest.raises(HubUnreachable):
        world.pull(f"{REPO}:Q8_0")
    listed = [model.name for model in world.store().list()]
    world.hub.cut_after = None
    world.pull(f"{REPO}:Q8_0")

    assert listed == ["tiny"]
    assert world.hub.num_served <= sum(map(len, contents)) + BLOCK


def test_a_repository_with_a_part_missing_is_refused_before_a_byte_comes(world: World) -> None:
    world.hub.add(REPO, "some-Q8_0-00002-of-00003.gguf", model_bytes())

    with pytest.raises(DownloadFailed, match="1 of the 3 parts"):
        world.pull(f"{REPO}:Q8_0")

    assert world.hub.num_served == 0


def start_puller(world: World, before: str = "") -> subprocess.Popen[bytes]:
    """`myllm`'s pull of `org/Some-GGUF` in a process of its own."""
    program = f"{before}\nimport sys; from myllm.cli.main import main; sys.argv = ['myllm', 'pull', '{REPO}']; main()"
    env = os.environ | {"HF_ENDPOINT": world.hub.url, "MYLLM_HOME": str(world.home)}
    return subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def in_sockets(hub: HubServer) -> int:
    """What the system may hold between a server that has sent and a client that has not read, a connection."""
    return hub.most_connections * 6 * MB
