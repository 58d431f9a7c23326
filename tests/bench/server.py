"""A server with so many tickets, in its own process: ``python -m tests.bench.server --tickets N``.

Its tickets are valid for one entry; one in ten has an external barcode, and all have a seat. It stands for
another machine, so it runs in the time that a gate here leaves over (SCHED_IDLE, sched(7)).
"""

import argparse
import os
import signal
import time

from gated.api.simulator import Event, Service, Simulator, Ticket

_DAY = 86_400  # seconds: on sale since yesterday, so that a delta asked for today is empty


def barcode(number: int) -> str:
    """The barcode of a ticket, by its number from 0."""
    return f"GT{number:014}"


def _ticket(number: int) -> Ticket:
    return Ticket(
        barcode(number),
        external_barcode_id=f"87{number:011}" if number % 10 == 0 else None,
        section=f"Block {number // 5000}",
        row=str(number // 50 % 100 + 1),
        seat=str(number % 50 + 1),
    )


def main() -> None:
    """Serves, after one line on standard output that says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickets", type=int, required=True)
    count = parser.parse_args().tickets
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    tickets = {barcode(number): _ticket(number) for number in range(count)}
    # 120 s is the document's example; the simulator's own 15 s would be a delta in each measurement.
    event = Event(Service(sync_interval=120), on_sale=time.time() - _DAY, tickets=tickets)
    with Simulator(event) as simulator:
        print(simulator.url, flush=True)
        signal.sigwait(ending)


if __name__ == "__main__":
    main()
