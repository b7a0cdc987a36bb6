# SPDX-License-Identifier: GPL-2.0-or-later
"""The history of locks: chained, bounded, and what damage does to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.records import ledger
from mbecguard.records.chain import LOSSES, Head
from mbecguard.records.damage import DamagedError, Loss
from mbecguard.records.ledger import Bounds
from mbecguard.records.store import Store
from mbecguard.values.files import signed, verified
from tests.plans import PLAN, SPANS, keep, kept, make_plan, make_record

pytestmark = pytest.mark.usefixtures("fast_disk")

#: Each boot has another place for its kernel, hence another plan.
PLANS = [make_plan((*SPANS, (50 + number, 51 + number))) for number in range(6)]
RECORDS = [
    make_record(
        boot_id=f"{number}1111111-2222-3333-4444-555555555555",
        generation=number,
        time=f"2026-01-{number + 1:02}T00:00:00+00:00",
        plan_digest=plan.digest,
        totals=plan.totals,
    )
    for number, plan in enumerate(PLANS)
]
LAST = RECORDS[-1].boot_id
NEXT = "f1111111-2222-3333-4444-555555555555"


def fill(folder: Path, bounds: Bounds = Bounds(), count: int = len(RECORDS)) -> Store:  # noqa: B008
    store = Store(folder / "state", bounds)
    for record, plan in zip(RECORDS[:count], PLANS, strict=False):
        store.append(record, plan)
    return store


def file(store: Store, number: int) -> Path:
    return store.folder / f"records/{number:08}.json"


def losses(store: Store) -> list[str]:
    """What is found by a look at everything, as `audit` has it."""
    return [loss.what for loss in store.check(LAST)]


def entry_of(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_bytes())
    return found


def test_each_entry_holds_the_digest_of_the_one_before(tmp_path: Path) -> None:
    store = fill(tmp_path)
    previous = "0" * 64
    for number in range(1, 7):
        entry = entry_of(file(store, number))
        assert (entry["number"], entry["previous"]) == (number, previous)
        content = {key: value for key, value in entry.items() if key != "digest"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert entry["digest"] == previous
    assert entry_of(store.folder / "history.json")["link"] == previous
    assert losses(store) == []


def test_a_record_is_small_and_a_plan_is_kept_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    for record in RECORDS:
        keep(store, record._replace(plan_digest=PLAN.digest))
    assert max(path.stat().st_size for path in (store.folder / "records").iterdir()) < 2500
    (plan,) = store.history.plans.files()
    assert store.plan(RECORDS[0]._replace(plan_digest=PLAN.digest)) == PLAN
    assert plan.name == f"{PLAN.digest}.json.gz"


#
# Bounds
#
def names(store: Store) -> list[str]:
    """All that is kept of the boots, but for the head of the chain."""
    return sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if not path.is_dir())


def names_of(*numbers: int) -> list[str]:
    plans = [PLANS[number - 1].digest for number in numbers]
    return sorted(
        [
            *(f"records/{number:08}.json" for number in numbers),
            *(f"boots/{RECORDS[number - 1].boot_id}" for number in numbers),
            *(f"plans/{digest}.{kind}" for digest in plans for kind in ("json.gz", "last")),
            "history.json",
        ]
    )


@pytest.mark.parametrize(
    ("bounds", "numbers"),
    [
        (Bounds(), (1, 2, 3, 4, 5, 6)),
        (Bounds(size=3 * 8192), (4, 5, 6)),  # a page for each record, and one for its plan
        (Bounds(size=0), (6,)),
        (Bounds(days=1), (4, 5, 6)),  # by the clock of the newest but one, which is a day behind
        (Bounds(days=0), (5, 6)),
    ],
)
def test_what_is_beyond_the_bounds_goes_with_all_that_only_it_needed(
    tmp_path: Path, bounds: Bounds, numbers: tuple[int, ...]
) -> None:
    store = fill(tmp_path, bounds)
    assert names(store) == names_of(*numbers)
    assert kept(store) == [RECORDS[number - 1] for number in numbers]
    assert losses(store) == []
    assert store.history.head().size == 8192 * len(numbers)


def test_a_clock_that_is_far_ahead_once_makes_nothing_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fill(tmp_path, count=5)
    monkeypatch.setattr(ledger, "now", lambda: "2099-01-01T00:00:00+00:00")
    Store(store.folder, Bounds(days=30)).append(RECORDS[5]._replace(time="2099-01-01T00:00:00+00:00"), PLANS[5])
    assert len(kept(store)) == 6


def test_a_plan_stays_as_long_as_any_record_names_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "state", Bounds(size=3 * 4096))
    for record in RECORDS:
        keep(store, record._replace(plan_digest=PLAN.digest))
    assert [record.boot_id for record in kept(store)] == [RECORDS[4].boot_id, LAST]
    assert len(store.history.plans.files()) == 1
    store.append(RECORDS[0], PLANS[0])
    assert [path.name for path in store.history.plans.files()] == [f"{PLANS[0].digest}.json.gz"]


def test_what_is_pruned_can_be_told_from_what_was_cut_off(tmp_path: Path) -> None:
    store = fill(tmp_path, Bounds(size=4 * 8192))
    assert store.history.head().oldest == 3
    assert losses(store) == []
    file(store, 3).unlink()
    assert losses(store) == ["00000003.json: it is gone"]
    # Who cuts off as much as a pruning would, and has the head say so, does not know what the digest was.
    store = fill(tmp_path / "other")
    head = verified((store.folder / "history.json").read_bytes())
    del head["digest"]
    (store.folder / "history.json").write_bytes(signed({**head, "oldest": 3}))
    assert losses(store) == ["00000002.json: it was cut off, and not pruned"]
    assert losses(store) == []  # it is known now
    assert [loss.what for loss in store.losses()] == ["00000002.json: it was cut off, and not pruned"]


def test_no_lock_pays_for_a_bound_that_was_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "PRUNED_AT_ONCE", 2)
    folder = fill(tmp_path).folder
    store = Store(folder, Bounds(size=0))
    for number, left in enumerate((5, 4, 3, 2, 1, 1)):
        keep(store, make_record(boot_id=f"new {number}"))
        assert len(kept(store)) == left


def test_what_is_lost_at_the_old_end_keeps_nothing_from_going(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "PRUNED_AT_ONCE", 2)
    folder = fill(tmp_path).folder
    for number in (1, 2, 3, 5):
        file(Store(folder), number).unlink()
    store = Store(folder, Bounds(size=0))
    assert len(losses(store)) == 4
    keep(store, make_record(boot_id=NEXT))
    assert [record.boot_id for record in kept(store)] == [NEXT]
    assert (losses(store), store.losses()) == ([], ())


#
# Damage
#
def flipped(data: bytes) -> list[bytes]:
    """Each byte with one of its bits turned."""
    return [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in range(len(data))]


def truncated(data: bytes) -> list[bytes]:
    return [data[:at] for at in range(len(data))]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small history that nobody changes but for a moment."""
    return fill(tmp_path_factory.mktemp("sound"), count=3)


@pytest.mark.parametrize("damage", [flipped, truncated])
def test_no_changed_byte_of_the_record_of_this_boot_is_believed(
    sound: Store, damage: Callable[[bytes], list[bytes]]
) -> None:
    path = file(sound, 3)
    data = path.read_bytes()
    try:
        for wrong in damage(data):
            path.write_bytes(wrong)
            with pytest.raises(DamagedError, match=r"00000003\.json: ") as caught:
                sound.last(RECORDS[2].boot_id)
            assert "\n" not in caught.value.message
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("damage", [flipped, truncated])
@pytest.mark.parametrize("name", ["records/00000001.json", "records/00000002.json", "records/00000003.json"])
def test_every_changed_byte_of_a_record_is_found(
    sound: Store, name: str, damage: Callable[[bytes], list[bytes]]
) -> None:
    path = sound.folder / name
    data = path.read_bytes()
    number = int(path.stem)
    try:
        for wrong in damage(data)[:: 11 - number]:
            path.write_bytes(wrong)
            faults = [
                number
                for number, found in sound.history.chain.walk(sound.history.head())
                if not hasattr(found, "record")
            ]
            assert faults == [number]
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("damage", [flipped, truncated])
def test_every_changed_byte_of_the_head_is_found(sound: Store, damage: Callable[[bytes], list[bytes]]) -> None:
    path = sound.folder / "history.json"
    data = path.read_bytes()
    try:
        for wrong in damage(data):
            path.write_bytes(wrong)
            with pytest.raises(DamagedError, match=r"history\.json: "):
                sound.history.head()
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("damage", [flipped, truncated])
def test_a_plan_is_as_it_was_written_or_it_is_none(sound: Store, damage: Callable[[bytes], list[bytes]]) -> None:
    path = sound.folder / f"plans/{PLANS[0].digest}.json.gz"
    data = path.read_bytes()
    refused = 0
    try:
        for wrong in damage(data):
            path.write_bytes(wrong)
            try:
                assert sound.plan(RECORDS[0]) == PLANS[0]  # a bit of gzip's header that means nothing
            except DamagedError:
                refused += 1
    finally:
        path.write_bytes(data)
    assert refused > len(data) - 20


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def garble(path: Path) -> None:
    if path.is_file():
        path.write_bytes(path.read_bytes().replace(b'"pinned":true', b'"pinned":false')[:-1])
    else:
        remove(path)
        path.write_text("nonsense")


def empty(path: Path) -> None:
    remove(path)
    path.touch()


HEAD = b'"mbecguard.history/1"'
DAMAGES: dict[str, Callable[[Path], None]] = {"removed": remove, "garbled": garble, "emptied": empty}
PLACES = (
    *("records/00000001.json", "records/00000003.json", "records/00000006.json", "history.json"),
    *(f"boots/{LAST}", f"plans/{PLANS[5].digest}.json.gz", f"plans/{PLANS[0].digest}.json.gz"),
    *("records", "boots", "plans"),
)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("place", PLACES)
def test_the_next_lock_goes_on_whatever_is_damaged(tmp_path: Path, place: str, damage: Callable[[Path], None]) -> None:
    store = fill(tmp_path)
    damage(store.folder / place)
    before = sorted(path.read_bytes() for path in store.folder.rglob("*") if path.is_file() and not path.is_symlink())
    store.mend(NEXT)
    store.check(NEXT)
    assert store.check(NEXT) == ()  # all is kept aside, and known
    after = [path.read_bytes() for path in store.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    head = {(store.folder / "history.json").read_bytes()}
    assert [
        data for data in before if data not in after and b'"mbecguard.history/1"' not in data
    ] == []  # never deleted
    assert head
    entry = store.append(RECORDS[0]._replace(identity=RECORDS[0].identity._replace(boot_id=NEXT)), PLANS[0])
    assert store.last(NEXT) == entry == store.newest()
    assert store.plan(entry.record) == PLANS[0]
    assert store.check(NEXT) == ()


@pytest.mark.parametrize("number", range(1, 7))
def test_a_lost_record_costs_no_other(tmp_path: Path, number: int) -> None:
    store = fill(tmp_path)
    garble(file(store, number))
    wrong = file(store, number).read_bytes()
    assert losses(store) == [f"{number:08}.json: it is not as it was written"]
    assert (store.folder / f"damaged/{number:08}.json").read_bytes() == wrong
    assert kept(store) == [record for record in RECORDS if record != RECORDS[number - 1]]
    assert [loss.what for loss in store.losses()] == [f"{number:08}.json: it is not as it was written"]
    shutil.rmtree(store.folder / "damaged")  # a person has looked at it
    assert (store.losses(), losses(store)) == ((), [])
    keep(store, make_record(boot_id=NEXT))
    assert losses(store) == []


@pytest.mark.parametrize("number", range(1, 6))
def test_a_record_that_somebody_made_does_not_fit_into_the_chain(tmp_path: Path, number: int) -> None:
    store = fill(tmp_path)
    entry = verified(file(store, number).read_bytes())
    del entry["digest"]
    file(store, number).write_bytes(signed({**entry, "record": {**entry["record"], "pinned": False}}))
    assert losses(store) == [f"{number:08}.json: it is not the one that the next record follows"]
    assert [record.boot_id for record in kept(store)] == [r.boot_id for r in RECORDS if r != RECORDS[number - 1]]


def test_the_newest_record_does_not_fit_what_the_head_says(tmp_path: Path) -> None:
    store = fill(tmp_path)
    newest = store.newest()
    assert newest
    entry = verified(file(store, 6).read_bytes())
    del entry["digest"]
    file(store, 6).write_bytes(signed({**entry, "record": {**entry["record"], "pinned": False}}))
    (loss,) = store.mend(NEXT)
    assert loss.what == "00000006.json: it is not the one that the next record follows"
    assert keep(store, make_record(boot_id=NEXT)).previous == newest.digest  # by which a copy of it can be known


def test_records_in_the_wrong_order_are_found(tmp_path: Path) -> None:
    store = fill(tmp_path)
    second, third = file(store, 2).read_bytes(), file(store, 3).read_bytes()
    file(store, 2).write_bytes(third)
    file(store, 3).write_bytes(second)
    assert sorted(losses(store)) == ["00000002.json: it is entry 3", "00000003.json: it is entry 2"]


def test_a_pointer_to_another_boot_is_no_evidence(tmp_path: Path) -> None:
    store = fill(tmp_path)
    pointer = store.folder / "boots" / LAST
    pointer.unlink()
    pointer.symlink_to("../records/00000001.json")
    with pytest.raises(DamagedError, match="another boot"):
        store.last(LAST)
    assert [loss.what for loss in store.mend(LAST)] == [f"{LAST}: it leads to a record of another boot"]
    assert store.last(LAST) is None
    assert len(kept(store)) == 6


def test_what_a_crash_kept_from_the_head_is_taken_up(tmp_path: Path) -> None:
    store = fill(tmp_path, count=5)
    head = (store.folder / "history.json").read_bytes()
    store.append(RECORDS[5], PLANS[5])
    (store.folder / "history.json").write_bytes(head)
    (store.folder / "boots" / LAST).unlink()
    assert store.mend(NEXT) == ()
    assert kept(store) == RECORDS
    assert store.last(LAST)
    assert losses(store) == []


def test_of_a_lost_head_what_came_before_is_not_known(tmp_path: Path) -> None:
    store = fill(tmp_path, Bounds(size=4 * 8192))
    (store.folder / "history.json").unlink()
    assert [loss.what for loss in store.mend(NEXT)] == ["history.json: it is gone"]
    head = store.history.head()
    assert (head.oldest, head.anchor, head.newest, head.size) == (3, "", 6, 4 * 8192)
    assert kept(store) == RECORDS[2:]
    assert losses(store) == []


def test_what_is_kept_aside_replaces_nothing(tmp_path: Path) -> None:
    store = fill(tmp_path)
    for number in range(3):
        (store.folder / "history.json").write_text(f"{number}")
        store.mend(NEXT)
    found = sorted((store.folder / "damaged").iterdir())
    assert [(path.name, path.read_text()) for path in found] == [
        ("history.json", "0"),
        ("history.json.1", "1"),
        ("history.json.2", "2"),
    ]


def test_a_file_in_the_place_of_what_is_kept_aside_stops_nothing(tmp_path: Path) -> None:
    store = fill(tmp_path)
    (store.folder / "damaged").write_text("mine")
    garble(file(store, 6))
    store.mend(NEXT)
    assert (store.folder / "damaged").read_text() == "mine"
    assert (store.folder / "damaged.1/00000006.json").exists()


def test_damage_is_found_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fill(tmp_path)
    garble(file(store, 2))

    def full(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mbecguard.records.mend.keep_aside", full)
    for _ in range(2):
        assert losses(store) == ["00000002.json: it is not as it was written"]
    assert file(store, 2).exists()


def test_a_look_at_everything_waits_for_no_lock_and_stops_none(tmp_path: Path) -> None:
    store = fill(tmp_path)
    garble(file(store, 2))
    with store.exclusive():
        assert losses(store) == ["00000002.json: it is not as it was written"]
    assert file(store, 2).exists()
    assert losses(store)
    assert not file(store, 2).exists()


@given(st.lists(st.integers(1, 100), max_size=3 * LOSSES))
def test_the_losses_that_are_told_do_not_grow(numbers: list[int]) -> None:
    head = Head(newest=100)
    for number in numbers:
        head = head.without(Loss(number, number, f"{number}: it is gone", "then"))
    assert len(head.lost) <= LOSSES
    assert all(head.lacks(number) for number in numbers)


def test_a_damaged_plan_that_is_made_again_is_whole_again(tmp_path: Path) -> None:
    store = fill(tmp_path)
    path = store.folder / f"plans/{PLANS[5].digest}.json.gz"
    path.write_bytes(b"nonsense")
    with pytest.raises(DamagedError):
        store.require_plan(RECORDS[5])
    store.append(RECORDS[5]._replace(identity=RECORDS[5].identity._replace(boot_id=NEXT)), PLANS[5])
    assert store.plan(RECORDS[5]) == PLANS[5]
    assert (store.folder / "damaged" / path.name).read_bytes() == b"nonsense"
