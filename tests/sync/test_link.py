"""The link: which service, whose time, what is alarmed, and whether the API is thought to answer."""

import asyncio

import pytest

from gated.api.simulator import Event, Fault, Habits, Service
from gated.core.verdict import Origin
from gated.errors import ApiRefused, ServiceNotChosen
from tests.sync.conftest import Open, Serve
from tests.sync.rig import Setup, event, failing

OTHER = Service(uuid="0ther", name="Other entrance")


def two_services(plain: int = 1) -> Event:
    made = event(plain=plain)
    made.other_services.append(OTHER)
    return made


async def test_the_only_service_is_chosen_and_the_mirror_becomes_its_mirror(
    serve: Serve, open_gate: Open
) -> None:
    gate = await open_gate(serve(event(plain=1)))
    service = await gate.link.connect()
    assert gate.link.service == service
    assert gate.asker.service == service.id
    assert (await gate.store.state()).service == service.id


async def test_of_several_services_none_is_chosen_until_one_is_named(serve: Serve, open_gate: Open) -> None:
    server = serve(two_services())
    gate = await open_gate(server)
    assert isinstance(await failing(gate.link.connect), ServiceNotChosen)
    assert not gate.asker.worthwhile
    named = await open_gate(server, Setup(service="Main entrance"), "named")
    assert (await named.link.connect()).id == server.event.service.uuid


async def test_a_service_once_chosen_is_never_swapped_for_another(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    await gate.link.connect()
    server.event.other_services.append(OTHER)
    server.habits = Habits(service_missing=True)
    assert isinstance(await failing(gate.link.connect), ServiceNotChosen)
    assert (await gate.store.state()).service == server.event.service.uuid


async def test_while_the_service_is_missing_nothing_is_asked_and_the_mirror_decides(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    await gate.downloads.full()
    server.habits = Habits(service_missing=True)
    await failing(gate.downloads.delta)
    assert (await gate.scan("NOBODY")).origin is Origin.LOCAL
    assert (await gate.scan("T1")).verdict.admitted
    assert server.requests["checkin"] == 0
    server.habits = Habits()
    await gate.downloads.delta()
    assert (await gate.scan("NOBODY-ELSE")).origin is Origin.ASK


async def test_a_restart_remembers_the_service_that_was_the_only_one(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    await gate.link.connect()
    await gate.close()
    server.event.other_services.append(OTHER)
    again = await open_gate(server)
    assert (await again.link.connect()).id == server.event.service.uuid


async def test_every_answer_teaches_the_time_of_the_server(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1), Habits(clock_offset_s=-600))
    gate = await open_gate(server)
    await gate.link.connect()
    behind = gate.time.wall() - gate.clock.learnt[-1].timestamp()
    assert behind == pytest.approx(600, abs=5)
    taught = len(gate.clock.learnt)
    await gate.downloads.full()
    assert len(gate.clock.learnt) > taught + 1


@pytest.mark.parametrize(
    ("habits", "alarm"),
    [
        (Habits(user_active=False), "user_inactive"),
        (Habits(permissions=("checkout", "lookup")), "permissions_lacking"),
        (Habits(two_users=True), "user_doubtful"),
    ],
)
async def test_what_is_wrong_with_the_user_is_alarmed_while_it_holds_and_refuses_nobody(
    serve: Serve, open_gate: Open, habits: Habits, alarm: str
) -> None:
    server = serve(event(plain=1), habits)
    gate = await open_gate(server)
    await gate.downloads.full()
    assert list(gate.link.alarms) == [alarm]
    await gate.admit("T1")
    server.habits = Habits()
    server.revoke_tokens()
    await gate.downloads.delta()
    assert gate.link.alarms == {}


async def test_permissions_that_are_not_listed_are_no_alarm(serve: Serve, open_gate: Open) -> None:
    gate = await open_gate(serve(event(plain=1), Habits(permissions=None)))
    await gate.link.connect()
    assert gate.link.alarms == {}


async def test_a_change_of_the_services_setup_is_alarmed(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    await gate.link.connect()
    server.event.service.setup = 3
    await gate.link.connect()
    assert gate.link.alarms["service_setup_changed"] == {"setup": "3"}


async def test_an_alarm_is_journalled_once_and_outlives_a_restart(serve: Serve, open_gate: Open) -> None:
    gate = await open_gate(serve(event(plain=1)))
    for scans in (1, 1, 2):
        gate.link.alarm("parked", scans=scans, hint="gated outbox list")
    await asyncio.wait(gate.link._journalling)
    await gate.close()
    assert gate.journal("SELECT kind, lane, what, why FROM occurrence ORDER BY seq") == [
        ("alarm", None, "parked", f"scans: {scans}, hint: gated outbox list") for scans in (1, 2)
    ]


async def test_an_alarm_that_cant_be_journalled_is_still_told(serve: Serve, open_gate: Open) -> None:
    gate = await open_gate(serve(event(plain=1)))
    await gate.close()
    gate.link.alarm("parked", scans=1)
    await asyncio.wait(gate.link._journalling)
    assert gate.link.alarms == {"parked": {"scans": 1}}


async def test_an_odd_answer_to_a_single_scan_is_alarmed(serve: Serve, open_gate: Open) -> None:
    gate = await open_gate(serve(event(plain=1), Habits(answer_code=110, answer_text="for T1: well")))
    await gate.downloads.full()
    await gate.scan("T1", direct=True)
    alarm = gate.link.alarms["answer_odd"]
    assert (alarm["code"], alarm["said"], alarm["tickets"]) == (110, "for …: well", 1)


async def test_a_probe_says_that_the_api_answers_again(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    await gate.link.connect()
    server.faults.add("any", Fault.CLOSED_BEFORE, times=2)
    for _ in range(2):
        await gate.link.probe()
    assert not gate.asker.worthwhile
    assert gate.link.trouble is not None
    await gate.link.probe()
    assert gate.asker.worthwhile
    assert gate.link.trouble is None


async def test_the_first_probe_that_is_answered_connects(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    server.stop()
    gate = await open_gate(server)
    await gate.link.probe()
    server.start()
    await gate.link.probe()
    assert gate.link.service is not None


async def test_a_probe_that_is_told_when_to_come_back_hands_that_on(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    await gate.link.connect()
    server.faults.add("services", Fault.STATUS_429, seconds=40)
    error = await failing(gate.link.probe)
    assert isinstance(error, ApiRefused)
    assert error.retry_after_s == 40
    assert gate.asker.worthwhile


async def test_a_wrong_password_is_trouble_and_no_reason_to_refuse_a_guest(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    await gate.downloads.full()
    await gate.close()
    wrong = await open_gate(server, Setup(password="wrong"))
    await failing(wrong.downloads.full)
    await failing(wrong.uploads.run)
    assert server.requests["login"] == 2
    await wrong.admit("T1")
