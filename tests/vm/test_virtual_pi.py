"""What one day at the virtual Pi's gate must show: with the kernel's pins, a USB scanner and systemd.

Seconds are those of an emulated processor, slower than a Pi's; they show that nothing waits for a time-out,
not how fast a gate is. The steps are in guest/scenario.py.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

pytestmark = pytest.mark.vm

Facts = Callable[[str], dict[str, Any]]

PINS = {"entry": 17, "exit": 22}
RELEASES = set(PINS)  # the entry's relay is active-high, the exit's active-low
PULSE_S = 2.0  # in guest/gated.toml
SOON_S = 2.0  # from the last key of a barcode to the release, emulated
SAFE_S = 30.0  # from a kill to a safe line, emulated on a busy host; about 1 on an idle one


# Installing


def test_installing_from_a_wheel_without_a_network_succeeds(fact: Facts) -> None:
    assert fact("install")["status"] == 0, fact("install")["output"]
    assert "enable --now gated" in fact("install")["output"]
    assert fact("install")["command"] == "/opt/gated/bin/gated"


def test_the_gates_user_may_use_pins_keyboards_and_serial_ports(fact: Facts) -> None:
    assert {"gpio", "input", "dialout"} <= set(fact("install")["groups"])


def test_only_root_reads_the_password_and_only_root_writes_the_config(fact: Facts) -> None:
    assert fact("install")["modes"][:3] == [
        "/etc/gated 750 root:gated",
        "/etc/gated/gated.toml 640 root:gated",
        "/etc/gated/api-password 600 root:root",
    ]


def test_installing_again_keeps_config_and_password(fact: Facts) -> None:
    again = fact("install_again")
    assert again["status"] == 0, again["output"]
    assert again["config_kept"]
    assert again["password_kept"]


def test_a_usb_scanner_never_sleeps_and_is_no_modem(fact: Facts) -> None:
    assert fact("udev")["power"] == "on"
    assert fact("udev")["no_modem"]
    assert fact("udev")["rules"] == 0


# The unit's sandbox


@pytest.mark.parametrize(
    "attempt",
    [
        "read the kernel's clock state",
        "call back from C",
        "claim a pin",
        "grab the keyboard",
        "open the serial port",
        "decode JSON",
        "seal",
        "read the password",
        "write its state",
        "open an internet socket",
    ],
)
def test_the_sandbox_allows_what_the_gate_needs(fact: Facts, attempt: str) -> None:
    assert fact("sandbox")["may"][attempt] == "yes"


@pytest.mark.parametrize(
    "attempt",
    [
        "set the kernel's clock state",
        "set the clock",
        "read the password's file",
        "write its config",
        "write its program",
        "map memory to write and run",
        "open a netlink socket",
        "open the disk",
    ],
)
def test_the_sandbox_refuses_everything_else(fact: Facts, attempt: str) -> None:
    assert "Error" in fact("sandbox")["may"][attempt]


def test_systemd_rates_the_exposure_as_ok(fact: Facts) -> None:
    assert fact("sandbox")["exposure"] <= 2.0


# A day


def test_the_written_config_is_good(fact: Facts) -> None:
    assert fact("check_config")["status"] == 0, fact("check_config")["output"]


def test_the_gate_gets_ready_with_its_barriers_locked(fact: Facts) -> None:
    assert fact("start")["enabled"] == "enabled"
    assert len(fact("start")["ready"]) == 1
    assert not RELEASES & set(fact("start")["energised"])


def test_a_full_download_can_be_asked_for(fact: Facts) -> None:
    assert fact("start")["sync"]["status"] == 0, fact("start")["sync"]["output"]


def test_a_running_gate_tells_its_status(fact: Facts) -> None:
    assert fact("status")["status"] == 0, fact("status")["output"]


def test_a_valid_ticket_releases_the_barrier_for_its_pulse(fact: Facts) -> None:
    valid = fact("valid_ticket")
    assert (valid["scan"]["verdict"], valid["scan"]["code"]) == ("ADMIT", 100)
    assert valid["released_after_s"] < SOON_S
    assert valid["pulse_s"] == pytest.approx(PULSE_S, abs=0.3)
    assert valid["releases"] == 1


def test_the_same_ticket_again_is_denied(fact: Facts) -> None:
    again = fact("same_ticket_again")
    assert (again["scan"]["verdict"], again["scan"]["code"]) == ("DENY", 50)
    assert again["releases"] == 0


def test_an_unknown_ticket_is_denied_after_the_server_was_asked(fact: Facts) -> None:
    unknown = fact("unknown_ticket")
    assert (unknown["scan"]["verdict"], unknown["scan"]["code"]) == ("DENY", 40)
    assert unknown["scan"]["origin"] == "ask"
    assert unknown["releases"] == 0


def test_a_ticket_read_at_the_exit_by_a_serial_scanner_leaves(fact: Facts) -> None:
    leaves = fact("ticket_leaves")
    assert (leaves["scan"]["verdict"], leaves["scan"]["code"]) == ("ADMIT", 200)
    assert leaves["scan"]["direction"] == "exit"
    assert leaves["released_after_s"] < SOON_S
    assert leaves["releases"] == 1


def test_the_server_has_each_verdict_with_the_time_of_its_scan(fact: Facts) -> None:
    assert fact("upload")["status"] == 0, fact("upload")["output"]
    uploaded = {
        (row["scan"]["barcode_id"], row["scan"]["status_code"]): row["scan"]["checked_in_time"]
        for row in fact("upload")["server"]["uploaded"]
    }
    for step, code in (("valid_ticket", 100), ("same_ticket_again", 50), ("ticket_leaves", 200)):
        logged = datetime.fromisoformat(fact(step)["scan"]["timestamp"]).timestamp()
        assert uploaded["GATED000001", code] == pytest.approx(logged, abs=5), step


def test_an_operator_releases_the_barrier_by_hand(fact: Facts) -> None:
    assert fact("release")["status"] == 0, fact("release")["output"]
    assert fact("release")["pulse_s"] == pytest.approx(PULSE_S, abs=0.3)


# Stops, crashes, cables


@pytest.mark.parametrize("step", ["stop_in_a_pulse", "restart_in_a_pulse"])
def test_a_stop_or_restart_in_a_pulse_ends_it(fact: Facts, step: str) -> None:
    assert not RELEASES & set(fact(step)["energised"])
    assert fact(step)["pulse_s"] < PULSE_S


def test_a_stopped_gate_ended_well(fact: Facts) -> None:
    assert fact("stop_in_a_pulse")["result"] == "success"
    assert fact("stop_in_a_pulse")["energised"] == []
    assert fact("stop_in_a_pulse")["took_s"] < 8  # TimeoutStopSec is 10


@pytest.mark.parametrize("step", ["start_again", "restart_in_a_pulse", "kill_in_a_pulse"])
def test_the_next_guest_gets_in_after_it_came_back(fact: Facts, step: str) -> None:
    assert fact(step)["then"]["scan"]["code"] == 100
    assert fact(step)["then"]["releases"] == 1


def test_a_killed_gate_comes_back_and_its_barrier_is_locked_long_before_that(fact: Facts) -> None:
    killed = fact("kill_in_a_pulse")
    assert killed["restarts"] == 1
    assert not RELEASES & set(killed["energised"])
    assert killed["safe_after_s"] < min(SAFE_S, killed["back_after_s"] / 2)


def test_a_ticket_admitted_right_before_the_kill_is_used(fact: Facts) -> None:
    assert fact("kill_in_a_pulse")["same_ticket"]["scan"]["code"] == 50
    assert fact("kill_in_a_pulse")["same_ticket"]["releases"] == 0


def test_a_hung_gate_is_restarted_by_the_watchdog(fact: Facts) -> None:
    assert fact("hang")["restarts"] == 1
    assert not RELEASES & set(fact("hang")["energised"])


def test_a_start_that_hangs_is_ended_before_a_minute_is_over_and_says_where_it_hung(fact: Facts) -> None:
    """The time-out of the test is shorter than the unit's, which an emulated start may need."""
    assert fact("start")["time_out"] == "45s"
    hung = fact("hang_in_a_start")
    assert not hung["ready_before"]
    assert hung["gone_after_s"] < 60
    assert hung["stacks"]
    assert hung["then"]["scan"]["code"] == 100


def test_a_scanner_that_was_unplugged_works_again(fact: Facts) -> None:
    unplugged = fact("unplug")
    assert unplugged["same_process"]
    assert unplugged["entry"]["scan"]["code"] == 100
    assert unplugged["exit"]["scan"]["code"] == 200


def test_a_gate_that_starts_without_the_server_admits_what_it_knows(fact: Facts) -> None:
    alone = fact("start_without_server")
    assert alone["valid"]["scan"]["code"] == 100
    assert alone["valid"]["scan"]["origin"] == "local"
    assert alone["valid"]["released_after_s"] < SOON_S
    assert alone["used"]["scan"]["code"] == 50


def test_a_bad_config_is_refused_with_all_its_mistakes_and_not_tried_again(fact: Facts) -> None:
    bad = fact("bad_config")
    assert bad["check"]["status"] != 0
    for text in (bad["check"]["output"], bad["log"]):
        assert "when_off" in text
        assert "pulse_ms" in text
    assert bad["exit_status"] == 2
    assert bad["state"] == "failed"
    assert bad["restarts"] == 0
    assert bad["energised"] == []


def test_no_barrier_was_released_without_a_reason(fact: Facts) -> None:
    # 1 valid, 1 operator; stop, restart and SIGKILL end 1 each, 1 follows each; 1 after a start that hung;
    # 1 after the cable; 1 alone.
    assert fact("day")["entry_releases"] == 11
    assert fact("day")["energised"] == []


def test_no_barcode_came_mutilated(fact: Facts) -> None:
    """The kernel keeps ten keys or so for a reader: whatever holds up the loop for longer loses some."""
    assert fact("day")["malformed"] == []


def test_the_log_shows_no_barcode_whole(fact: Facts) -> None:
    assert fact("day")["clear_barcodes"] == []


# Outputs are de-energised but for a cause


def test_the_fail_safe_makes_every_line_safe_that_it_can_claim_and_names_the_other(fact: Facts) -> None:
    assert fact("fail_safe")["before"] == ["entry", "exit", "green"]
    held = fact("fail_safe")["held"]
    assert (held["status"], held["energised"]) == (1, ["exit"])
    assert held["said"] == "gated.failsafe: GPIO22 can't be driven: Device or resource busy\n"


def test_the_fail_safe_is_quiet_about_success(fact: Facts) -> None:
    assert fact("fail_safe")["free"] == {"status": 0, "said": "", "energised": []}


def test_a_kernel_that_does_not_say_what_becomes_of_outputs_is_warned_of(fact: Facts) -> None:
    [warned] = fact("start")["outputs_outlive_gated"]
    assert warned["kernel"] == "unknown"
    assert "strict_gpiod" in warned["hint"]
