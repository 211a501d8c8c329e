"""From what is there to what is wanted: in order, one at a time, from every state that a deployment can be left in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from boxes import BROKEN, FILE, NEW, OLD, Cut, Engines, site, wanted

from stageline.deploying.planning import BEFORE, Image, Seen, Stop, plan, removal
from stageline.deploying.site import Site
from stageline.errors import NotReadyError

NAMES = ["shop-coordinator-hub", "shop-gateway-hub", "shop-stage-one", "shop-stage-two"]


@pytest.fixture
def about(tmp_path: Path) -> Site:
    return site(tmp_path)


@pytest.fixture
def engines(about: Site) -> Engines:
    """The site as it was deployed once."""
    engines = Engines(about)
    engines.deploy(wanted(about))
    engines.done.clear()
    return engines


def test_an_empty_site_is_made_in_order(about: Site) -> None:
    engines = Engines(about)
    changes = engines.deploy(wanted(about))
    assert engines.done == [
        *(f"transfer {box}" for box in ("hub", "one", "two")),
        *(f"{what} {name}" for name in NAMES for what in ("create", "start")),
    ]
    assert [change.why for change in changes] == ["from this machine"] * 3 + ["new"] * 4
    assert engines.running() == dict.fromkeys(NAMES, OLD)


def test_what_is_there_already_is_not_touched(about: Site, engines: Engines) -> None:
    assert engines.deploy(wanted(about)) == () and engines.done == []


def test_workers_are_updated_one_at_a_time_after_they_drained(about: Site, engines: Engines) -> None:
    together: list[int] = []
    engines.watch = lambda: together.append(len(engines.running()))
    changes = engines.deploy(wanted(about, threads="3"))
    for name in NAMES[2:]:
        steps = [f"{what} {name}" for what in ("stop", "rename", "create", "start")] + [f"remove {name}{BEFORE}"]
        first = engines.done.index(steps[0])
        assert engines.done[first : first + 5] == steps
    assert len(engines.done) == 10 and min(together) == 3
    assert [change.why for change in changes] == ["settings changed"] * 2


def test_an_image_is_brought_before_anything_is_stopped(about: Site, engines: Engines) -> None:
    changes = plan(wanted(about, NEW), engines.seen())
    images = ["image stageline-control", "image stageline-stage", "image stageline-stage"]
    assert [change.what for change in changes] == [*images, "coordinator", "gateway", "stage", "stage"]
    assert changes[-1].why == "image aaaaaaaaaaaa → bbbbbbbbbbbb"


def test_an_image_that_is_on_the_box_is_not_brought(about: Site) -> None:
    there = [replace(one, image=Image("own", NEW)) for one in wanted(about)]
    assert not [change for change in plan(there, Seen()) if change.what.startswith("image")]


def test_what_does_not_come_up_is_taken_back_and_the_rest_left(about: Site, engines: Engines) -> None:
    broken = tuple(
        replace(one, image=replace(one.image, id=BROKEN)) if one.service.role == "stage" else one
        for one in wanted(about)
    )
    with pytest.raises(NotReadyError, match=r"box one: the stage did not come up: it did not join within 5 s .* again"):
        engines.deploy(broken)
    assert engines.running() == dict.fromkeys(NAMES, OLD) and len(engines.boxes) == 4
    assert not [done for done in engines.done if "two" in done and "transfer" not in done]
    with pytest.raises(NotReadyError):
        engines.deploy(broken)
    assert engines.deploy(wanted(about)) == ()


def test_a_new_service_that_does_not_come_up_says_so(about: Site) -> None:
    engines = Engines(about)
    with pytest.raises(NotReadyError, match=r"box hub: the coordinator did not come up: .*`stageline deploy logs`"):
        engines.deploy(wanted(about, BROKEN))
    assert list(engines.boxes) == NAMES[:1]


@pytest.mark.parametrize("image", [NEW, BROKEN])
def test_cut_short_anywhere_it_goes_on(about: Site, image: str) -> None:
    """After each single request of an update, the next run ends where an undisturbed one does."""
    cut = 0
    while True:
        engines = Engines(about)
        engines.deploy(wanted(about))
        engines.cut = len(engines.done) + cut
        try:
            engines.deploy(wanted(about, image))
            break
        except NotReadyError:
            assert image == BROKEN
            break
        except Cut:
            engines.cut = -1
        assert any(name.startswith(NAMES[0]) for name in engines.boxes)
        if image == BROKEN:
            with pytest.raises(NotReadyError):
                engines.deploy(wanted(about, image))
        else:
            engines.deploy(wanted(about, image))
        assert engines.running() == dict.fromkeys(NAMES, OLD if image == BROKEN else NEW), cut
        assert len(engines.boxes) == 4
        assert image == BROKEN or engines.deploy(wanted(about, image)) == ()
        cut += 1
    assert cut > (6 if image == BROKEN else 20)


def test_cut_short_and_then_wanted_otherwise_the_confirmed_one_is_kept(about: Site, engines: Engines) -> None:
    engines.cut = 7  # three images, stop, rename, create, start: nobody waited for it to the end
    with pytest.raises(Cut):
        engines.deploy(wanted(about, BROKEN))
    assert f"{NAMES[0]}{BEFORE}" in engines.boxes
    engines.cut = -1
    engines.deploy(wanted(about, NEW))
    assert engines.running() == dict.fromkeys(NAMES, NEW) and len(engines.boxes) == 4


def test_who_stopped_is_started_and_waited_for(about: Site, engines: Engines) -> None:
    engines.stop(NAMES[2], 20)
    engines.done.clear()
    (change,) = engines.deploy(wanted(about))
    assert (change.why, engines.done) == ("is exited", [f"start {NAMES[2]}"])


def test_boxes_come_and_go_with_their_keys(about: Site, engines: Engines, tmp_path: Path) -> None:
    assert engines.let == {"gateway-hub", "one", "two"}
    other = FILE.replace("two: {address: 10.0.0.3,", "three: {address: 10.0.0.4,")
    engines.site = site(tmp_path, other)
    engines.deploy(wanted(engines.site))
    assert engines.done == [
        "transfer three",
        "let in ['three']",
        "create shop-stage-three",
        "start shop-stage-three",
        "stop shop-stage-two",
        "remove shop-stage-two",
        "let out ['two']",
    ]
    assert engines.deploy(wanted(engines.site)) == ()


def test_removal_stops_workers_first_and_the_coordinator_last(engines: Engines) -> None:
    steps = [step for change in removal(engines.seen().containers) for step in change.steps]
    stopped = [step.container for step in steps if isinstance(step, Stop)]
    assert stopped == [NAMES[2], NAMES[3], NAMES[1], NAMES[0]]
