"""Whole days at two gates and one server, with everything that can go wrong, made up by chance.

At any moment no gate lets in more guests with a ticket than the server had told it. In the evening, when the
troubles are over, nothing waits any more, server and journals agree on who came in, what was admitted too
often is alarmed at every gate that took part, and all decide alike.

``GATED_MODEL_EXAMPLES=2000`` plays so many days, different ones each time; otherwise a few, always the same.
"""

import asyncio
import contextlib
import os
from collections import Counter
from datetime import timedelta

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gated.api.simulator import Habits, Refusals, Times
from gated.api.simulator import Ticket as ServerTicket
from gated.api.simulator.rules import entry_code
from gated.asking import AskingRules
from gated.core.outbox import UploadRules
from gated.core.overlay import SETTLING
from gated.core.scan import TimeTrust
from gated.core.verdict import Origin
from gated.errors import ApiError, DownloadUnstable
from gated.store import Decided, DeskRules, Passage, Waiting
from tests.model.world import PAGE, ModelGate, PowerCut, Trouble, World
from tests.sync.rig import ENTRY, EXIT, Setup

EXAMPLES = int(os.environ.get("GATED_MODEL_EXAMPLES", "0"))

# Barcode, entries: as remaining_scans, as validation_max_checkins, in both, or in neither.
TICKETS = {
    "ONE": ServerTicket("ONE"),
    "THREE": ServerTicket("THREE", validation_max_checkins=3, remaining_scans=3),
    "BY-MAXIMUM": ServerTicket("BY-MAXIMUM", validation_max_checkins=2, remaining_scans=None),
    "UNCOUNTED": ServerTicket("UNCOUNTED", validation_max_checkins=None, remaining_scans=None),
}
ALLOWED = {"ONE": 1, "THREE": 3, "BY-MAXIMUM": 2, "UNCOUNTED": 1, "SOLD": 1}
BARCODES = st.sampled_from([*ALLOWED, "NOBODY"])
GATES = st.sampled_from([0, 1])
LANES = st.sampled_from([("left", ENTRY), ("right", ENTRY), ("left", ENTRY), ("right", EXIT)])
# More than a second, by which a time that was taken from a Date may be wrong, and none of them whole: hardly
# ever have two scans the same second, which some servers take for a repeat.
BETWEEN_GUESTS = 2.3
PAUSES = st.sampled_from([1.3, 7.9, 31.7, 127.3, 661.1, 3613.9])
A_REFUSED_TOKEN_IS_FORGOTTEN = 601.0
TO_AGREE = 40  # rounds of a quarter of a minute

HABITS = st.builds(
    Habits,
    times=st.sampled_from(Times),
    zero_dates=st.booleans(),
    booleans=st.booleans(),
    numbers_as_strings=st.booleans(),
    php_lists=st.booleans(),
    delta_ignores_header=st.booleans(),
    refusals=st.sampled_from(Refusals),
    code_as_string=st.booleans(),
    checkout_returns_entry=st.booleans(),
    deduplicate_uploads=st.booleans(),
    expired_token_as_400=st.booleans(),
    max_upload_rows=st.sampled_from([None, 2]),
    no_date_header=st.sampled_from([False, False, False, True]),
    clock_offset_s=st.sampled_from([0.0, 0.0, -333.0, 333.0]),
)
SETUPS = st.builds(
    Setup,
    rules=st.builds(DeskRules, upload=st.builds(UploadRules, replay_checkouts=st.booleans())),
    asking=st.builds(AskingRules, deadline=st.just(timedelta(seconds=1)), fall_back=st.booleans()),
    page_size=st.just(PAGE),
)


class Days(RuleBasedStateMachine):
    """What happens at the gates, at the organiser's, and in between."""

    world: World

    @initialize(
        habits=HABITS,
        setup=SETUPS,
        direct=st.lists(st.booleans(), min_size=2, max_size=2),
        lag_s=st.sampled_from([0.0, 0.0, 45.0, 400.0]),
        downloaded=st.booleans(),
    )
    def opens(self, habits: Habits, setup: Setup, direct: list[bool], lag_s: float, downloaded: bool) -> None:
        self.world = World([_copy(each) for each in TICKETS.values()], habits, lag_s=lag_s)
        self.resets: Counter[str] = Counter()
        for each in direct:
            self.world.add_gate(setup, direct=each)
        if downloaded:
            for gate in self.world.gates:
                self.do(gate, gate.downloads.full())

    def do(self, gate: ModelGate, doing) -> object:
        """Does something at a gate, up to an error or to the gate's end, after which it starts again."""
        try:
            return self.world.run(doing)
        except ApiError:
            return None
        except PowerCut:
            self.restart(gate)
            return None

    def restart(self, gate: ModelGate, **clock) -> None:
        async def again() -> None:
            gate.cut_off()
            gate.open(**clock)

        self.world.run(again())

    # The gates

    @rule(number=GATES, barcode=BARCODES, lane=LANES)
    def scan(self, number: int, barcode: str, lane) -> None:
        self.world.pass_time(BETWEEN_GUESTS)
        gate = self.world.gates[number]
        decided = self.do(gate, gate.guest(barcode, *lane))
        if isinstance(decided, Decided) and lane[1] is ENTRY and decided.verdict.admitted:
            self.check_admission(gate, decided)

    @rule(number=GATES, barcodes=st.lists(BARCODES, min_size=2, max_size=5), lane=LANES)
    def queue(self, number: int, barcodes: list[str], lane) -> None:
        """Guests are what most of a day consists of."""
        for barcode in barcodes:
            self.scan(number, barcode, lane)

    def check_admission(self, gate: ModelGate, decided: Decided) -> None:
        barcode = decided.scan.barcode
        if decided.origin in (Origin.DIRECT, Origin.ASK, Origin.REGRANT):
            return  # the server has said so, or the guest was admitted before
        told = gate.told[barcode]
        assert not told.canceled
        assert gate.entries(barcode) <= told.most

    @rule(number=GATES)
    def upload(self, number: int) -> None:
        self.do(self.world.gates[number], self.world.gates[number].uploads.run())

    @rule(number=GATES)
    def delta(self, number: int) -> None:
        self.do(self.world.gates[number], self.world.gates[number].downloads.delta())

    @rule(number=GATES)
    def full(self, number: int) -> None:
        self.do(self.world.gates[number], self.world.gates[number].downloads.full())

    @rule(number=GATES)
    def probe(self, number: int) -> None:
        self.do(self.world.gates[number], self.world.gates[number].link.probe())

    @rule(number=GATES)
    def nobody_passes(self, number: int) -> None:
        gate = self.world.gates[number]
        admitted = [each for each in gate.scans if each.verdict.admitted and each.scan.direction is ENTRY]
        if admitted and admitted[-1].seq is not None:
            self.world.run(_now(gate.store.set_passage, admitted[-1].seq, Passage.NOT_TAKEN))

    # What goes wrong

    @rule(number=GATES, troubles=st.lists(st.sampled_from(Trouble), min_size=1, max_size=3))
    def trouble(self, number: int, troubles: list[Trouble]) -> None:
        self.world.gates[number].wire.troubles += troubles

    @rule(number=GATES, off=st.sampled_from([0.0, -3607.7, 3607.7]))
    def clock_steps(self, number: int, off: float) -> None:
        self.world.gates[number].clock.off = off

    @rule(number=GATES)
    def restarts_without_the_time(self, number: int) -> None:
        self.restart(self.world.gates[number], trust=TimeTrust.UNKNOWN, off=-86_411.3)

    @rule()
    def tokens_are_taken_back(self) -> None:
        self.world.server.revoke_tokens()

    @rule(seconds=PAUSES)
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # The organiser

    @rule(barcode=st.sampled_from(list(TICKETS)), what=st.sampled_from(["reset", "cancel", "allow", "sell"]))
    def organiser(self, barcode: str, what: str) -> None:
        event = self.world.event
        match what:
            case "reset":
                event.reset(barcode)
                self.resets[barcode] += 1
            case "cancel" | "allow":
                event.change(barcode, is_canceled=int(what == "cancel"))
            case "sell" if "SOLD" not in event.tickets:
                event.add_ticket(ServerTicket("SOLD"))

    # The evening

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.run(self.evening())
        finally:
            self.world.close()

    async def evening(self) -> None:
        gates = self.world.gates
        for gate in gates:
            gate.wire.troubles.clear()
            gate.clock.trust, gate.clock.off = TimeTrust.SYNCHRONISED, 0.0
        await asyncio.sleep(A_REFUSED_TOKEN_IS_FORGOTTEN)
        await self.until_nothing_waits()
        for barcode in self.world.event.tickets:
            self.check_counts(barcode)
        self.check_denials()
        await asyncio.sleep((SETTLING + timedelta(minutes=10)).total_seconds())
        for gate in gates:
            await _refresh(gate)
        for gate in gates:
            await self.check_agreement(gate)

    async def until_nothing_waits(self) -> None:
        for _ in range(TO_AGREE):
            await asyncio.sleep(15)
            for gate in self.world.gates:
                if self.world.server.habits.no_date_header:
                    gate.due.append("full")  # the hour is over
                await gate.sync(rounds=1)
                await gate.store.retry_parked()  # a person looks after them
            if not await self.waiting():
                break
        assert await self.waiting() == []
        await asyncio.sleep(self.world.event.lag_s)
        self.world.event.work()
        for gate in self.world.gates:
            await _refresh(gate)

    async def waiting(self) -> list[Waiting]:
        """Scans that the server should have by now.

        One that refuses check-outs with a bare 400 leaves open whether it takes any: they are kept.
        """
        rows = [row for gate in self.world.gates for row in await gate.store.outbox_rows(0, 10_000)]
        bare = self.world.server.habits.refusals is Refusals.MESSAGE_400
        return [row for row in rows if not (bare and row.code == 200)]

    def check_counts(self, barcode: str) -> None:
        """The server has every guest, and none twice but marked; too many are known to all concerned."""
        event = self.world.event
        for gate in self.world.gates:
            counted = event.counted[gate.name, barcode]
            elsewhere = sum(event.counted[each.name, barcode] for each in self.world.gates) - counted
            let_in = gate.entries(barcode)
            doubtful = _lost_calls(gate, barcode) + event.mistaken[gate.name, barcode] if elsewhere else 0
            assert let_in - doubtful <= counted, (gate.name, barcode)
            assert counted <= let_in + _again(gate, barcode) + gate.orphans(barcode), (gate.name, barcode)
            if not self.resets[barcode] and not doubtful and not self.gives_back:
                assert let_in <= ALLOWED[barcode], (gate.name, barcode)
            if let_in and _exceeds(event.tickets[barcode]):
                assert barcode in gate.doubles, (gate.name, barcode)

    @property
    def gives_back(self) -> bool:
        return self.world.server.habits.checkout_returns_entry

    def check_denials(self) -> None:
        """The server keeps every denial of the gates' own, and none twice but marked."""
        scans = [(gate, each) for gate in self.world.gates for each in gate.scans if _is_told(each)]
        ours = Counter((each.scan.barcode, each.verdict.code) for _, each in scans)
        there = Counter(
            (each.scan.barcode_id, each.scan.status_code)
            for each in self.world.server.uploaded
            if each.scan.status_code not in (100, 200)
        )
        assert there.keys() == ours.keys()
        if self.world.server.habits.deduplicate_uploads:
            return
        for key, times in ours.items():
            again = sum(_again(gate, key[0]) for gate in self.world.gates)
            assert times <= there[key] <= times + again, key

    async def check_agreement(self, gate: ModelGate) -> None:
        """All that a gate knew better is settled: it decides as the server would."""
        gate.asker.service = None
        gate.direct = False
        for barcode, ticket in self.world.event.tickets.items():
            decided = await gate.guest(barcode, "left", ENTRY)
            assert decided.verdict.code == entry_code(ticket, self.world.server.now()), (gate.name, barcode)


def _copy(ticket: ServerTicket) -> ServerTicket:
    return msgspec.structs.replace(ticket)


async def _now(call, *arguments):
    await call(*arguments)


async def _refresh(gate: ModelGate) -> None:
    """All tickets anew. A full download that was cut short before a sale goes on first, and is unstable."""
    await gate.downloads.delta()
    with contextlib.suppress(DownloadUnstable):
        await gate.downloads.full()
    await gate.downloads.full()


def _is_told(decided: Decided) -> bool:
    """Whether a denial is one that the server does not know of itself."""
    code = decided.verdict.code
    if decided.verdict.admitted or code is None:
        return False
    return code == 40 or decided.origin not in (Origin.DIRECT, Origin.ASK)


def _exceeds(ticket: ServerTicket) -> bool:
    """Whether the server's row shows more check-ins than its ticket allows."""
    most = ticket.validation_max_checkins
    if most is None and ticket.remaining_scans is None:
        most = 1
    return most is not None and ticket.count_checked_in > most


def _seqs(gate: ModelGate, which: str) -> set[int]:
    return {seq for (seq,) in gate.journal(f"SELECT seq FROM scan WHERE {which}")}


def _again(gate: ModelGate, barcode: str) -> int:
    """How many more copies of a ticket's scans the server may have, since those went again, marked.

    Each upload that was not answered may have left one.
    """
    marked = _seqs(gate, "marked = 1")
    scans = sum(each.scan.barcode == barcode and each.seq in marked for each in gate.scans)
    return scans * max(1, gate.lost_uploads)


def _lost_calls(gate: ModelGate, barcode: str) -> int:
    """Calls about a ticket that were never answered.

    What another gate checked in during such a call can't be told from the call itself.
    """
    lost = _seqs(gate, "call_from IS NOT NULL")
    return sum(each.scan.barcode == barcode and each.seq in lost for each in gate.scans)


Days.TestCase.settings = settings(
    max_examples=EXAMPLES or 20,
    stateful_step_count=50,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestDaysAtTwoGates = Days.TestCase
