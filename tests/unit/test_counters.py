from __future__ import annotations

import threading

from symfuse.counters import Counters


def test_no_increment_is_lost_between_threads() -> None:
    counters = Counters()
    together = threading.Barrier(8)

    def serve() -> None:
        tally = counters.tally()
        together.wait()
        for _ in range(10_000):
            tally.requests["read"] += 1
            tally.bytes_read += 3

    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.requests() == {"read": 80_000}
    assert counters.bytes_read() == 240_000


def test_a_thread_has_one_tally() -> None:
    counters = Counters()
    assert counters.tally() is counters.tally()


def test_the_most_frequent_request_comes_first() -> None:
    counters = Counters()
    counters.tally().requests.update({"open": 1, "read": 3, "lookup": 2})
    assert list(counters.requests()) == ["read", "lookup", "open"]
