"""``python -m gated.api.simulator``: a made-up event served until SIGTERM or SIGINT."""

import argparse
import signal

from gated.api.simulator.made_up import made_up_event
from gated.api.simulator.server import Simulator


def main() -> None:
    """Serves, after one line on standard output that says where."""
    parser = argparse.ArgumentParser(prog="python -m gated.api.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=8090, help="port to listen on, 0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--tickets", type=int, default=0, help="plain tickets, GATED000001 and on (%(default)s)"
    )
    parser.add_argument("--username", default="gate", help="of the scan user (%(default)s)")
    parser.add_argument("--password", default="secret", help="of the scan user (%(default)s)")
    parser.add_argument(
        "--sync-interval", type=int, default=15, help="seconds that gates are told (%(default)s)"
    )
    options = parser.parse_args()

    event = made_up_event(options.tickets)
    event.service.sync_interval = options.sync_interval
    # Blocked before the server's threads begin, so that the signals wait for sigwait instead of killing.
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    with Simulator(
        event, host=options.host, port=options.port, username=options.username, password=options.password
    ) as simulator:
        print(f"listening {simulator.url}", flush=True)
        signal.sigwait(ending)


if __name__ == "__main__":
    main()
