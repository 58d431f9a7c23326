"""The gaps of the Ticket Scan API's document, and the tests of what gated does about each.

A gap is a place where the document is silent, contradicts itself, or has a slip of the pen. Each has a row
below with the tests that hold the gate to its choice, by file and name; a row whose test is gone fails. They
stand in the order of the document's chapters. What no other file asks is asked at the end of this one.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

from gated.api import wire
from gated.api.simulator import Habits
from gated.core.decide import Now, Rules, decide
from gated.core.overlay import NOTHING
from gated.core.scan import TimeTrust
from gated.core.verdict import Reason
from gated.errors import ApiBadAnswer
from tests.store.desks import NOON, scan

TESTS = Path(__file__).parent.parent

CLIENT, WIRE, GAPS = "api/test_client.py", "api/test_wire.py", "api/test_gaps.py"
LINK, UPLOADS, DOWNLOADS = "sync/test_link.py", "sync/test_uploads.py", "sync/test_downloads.py"
STRANGERS, ASKING = "sync/test_strangers.py", "test_asking.py"
DESK, OUTBOX, DECIDE = "store/test_desk.py", "store/test_outbox.py", "core/test_decide.py"

TABLE: dict[str, tuple[tuple[str, str], ...]] = {
    # Host, transport, headers
    "a service's own url has another host than the api": (
        (CLIENT, "test_a_services_own_url_is_used_only_between_trusted_hosts"),
        (CLIENT, "test_a_services_own_url_that_cant_be_reached_is_given_up_for_the_base_url"),
        (CLIENT, "test_a_services_own_url_without_the_api_is_given_up_for_the_base_url"),
        (CLIENT, "test_a_probe_asks_where_the_direct_calls_go"),
        (CLIENT, "test_no_redirect_is_followed"),
    ),
    "tls 1.1 is said to be enough": (
        (CLIENT, "test_tls_below_1_2_is_not_spoken"),
        (CLIENT, "test_a_certificate_of_a_stranger_is_not_trusted"),
        (CLIENT, "test_a_certificate_out_of_its_time_points_to_the_clock"),
    ),
    "everything is said to be a post, and two calls are gets with a content type": (
        (CLIENT, "test_every_request_carries_the_documented_headers"),
    ),
    "bearer is written in lower case": ((CLIENT, "test_every_request_carries_the_documented_headers"),),
    "the device info is provided and its form is not said": (
        (CLIENT, "test_every_request_carries_the_documented_headers"),
        ("test_config.py", "test_a_mistake_is_told_with_its_line_and_place"),
    ),
    "a jwt secret is provided that no call uses": ((WIRE, "test_the_documents_token_is_read"),),
    "calls from web pages are forbidden": ((CLIENT, "test_every_request_carries_the_documented_headers"),),
    "most statuses are not documented": (
        (CLIENT, "test_each_fault_is_one_error_and_the_next_call_is_good"),
        (CLIENT, "test_an_answer_over_the_cap_is_not_read_to_its_end"),
        ("sync/test_faults.py", "test_a_fault_loses_no_scan_admits_nobody_twice_and_heals_by_itself"),
        (GAPS, "test_json_with_no_numbers_for_numbers_is_a_bad_answer"),
    ),
    "the info message of a refusal has no form": (
        (WIRE, "test_an_errors_message_is_found_wherever_it_is"),
        (CLIENT, "test_a_barcode_that_the_server_repeats_is_masked"),
    ),
    "lists and objects are written as php may write them": (
        (WIRE, "test_a_list_may_be_an_object_with_numbers_for_keys"),
        (WIRE, "test_an_empty_list_has_many_forms"),
        (STRANGERS, "test_a_day_goes_well_whatever_the_servers_habits"),
    ),
    "how long a connection is kept is not said": (
        (CLIENT, "test_an_idle_connection_is_closed_before_a_server_does_it_in_mid_request"),
        (CLIENT, "test_what_httpx_raises_says_what_is_known_of_the_request"),
        (UPLOADS, "test_what_never_left_goes_again_unmarked"),
    ),
    # Login, user, service
    "a token's life is known only from the token": (
        (CLIENT, "test_a_token_is_renewed_early_by_its_own_life"),
        (CLIENT, "test_an_early_renewal_that_fails_leaves_the_old_token_at_work"),
        (CLIENT, "test_wrong_credentials_are_not_tried_again_for_five_minutes"),
        (UPLOADS, "test_an_upload_whose_login_failed_was_never_sent_and_is_not_lost"),
    ),
    "an expired token may be a 400": (
        (CLIENT, "test_a_revoked_token_is_renewed_unnoticed"),
        (CLIENT, "test_a_400_about_something_else_costs_no_login"),
        (WIRE, "test_a_message_about_the_token_is_told_from_one_about_a_ticket"),
    ),
    "a second login may end the first one's token": (
        (CLIENT, "test_tokens_taken_back_again_and_again_point_to_another_device"),
        (STRANGERS, "test_two_devices_with_one_scan_user_get_through_and_are_told_apart_from_a_bad_password"),
    ),
    "the scan user stands in two places of the token": (
        (WIRE, "test_a_token_says_who_it_is_for_and_how_long_it_lives"),
        (LINK, "test_what_is_wrong_with_the_user_is_alarmed_while_it_holds_and_refuses_nobody"),
    ),
    "a user who is not active is not explained": (
        (LINK, "test_what_is_wrong_with_the_user_is_alarmed_while_it_holds_and_refuses_nobody"),
    ),
    "the sample ids are no uuids": (
        (WIRE, "test_the_documents_token_is_read"),
        (CLIENT, "test_a_page_is_asked_for_in_headers"),
    ),
    "a user may have several services": (
        (LINK, "test_of_several_services_none_is_chosen_until_one_is_named"),
        (LINK, "test_a_service_once_chosen_is_never_swapped_for_another"),
        (LINK, "test_while_the_service_is_missing_nothing_is_asked_and_the_mirror_decides"),
        ("store/test_mirror.py", "test_a_mirror_of_another_service_empties_itself"),
    ),
    "setup is not explained": ((LINK, "test_a_change_of_the_services_setup_is_alarmed"),),
    "information_level is not explained": (
        (WIRE, "test_the_documents_service_is_read"),
        ("store/test_store.py", "test_a_stolen_card_gives_away_no_barcode_and_no_external_id"),
    ),
    "sync_interval has no unit": (
        (WIRE, "test_the_sync_interval_is_kept_within_15_and_900_seconds"),
        (DOWNLOADS, "test_services_are_read_with_every_delta"),
    ),
    "permissions are for manual check-ins": (
        (WIRE, "test_permissions_are_names_in_lower_case_or_unknown"),
        (LINK, "test_what_is_wrong_with_the_user_is_alarmed_while_it_holds_and_refuses_nobody"),
        (LINK, "test_permissions_that_are_not_listed_are_no_alarm"),
    ),
    "totals of a service are not explained": (
        (DOWNLOADS, "test_totals_that_agreed_and_no_longer_do_make_a_full_download_due"),
        (WIRE, "test_types_that_cant_all_be_read_limit_nothing"),
        (DESK, "test_the_services_types_count_only_if_read_after_the_tickets_row"),
    ),
    # Getting barcodes
    "the example of a page's number is application/json": ((CLIENT, "test_a_page_is_asked_for_in_headers"),),
    "the end of the list is told in several ways": (
        (WIRE, "test_the_next_page_is_the_one_named_or_follows_from_the_total"),
        (WIRE, "test_without_any_pagination_full_pages_are_followed_by_another"),
        (WIRE, "test_a_next_page_that_is_not_the_next_is_a_bad_answer"),
        (DOWNLOADS, "test_a_next_page_that_is_not_the_next_ends_the_download_and_the_next_try_is_good"),
    ),
    "tickets are sold and removed between two pages": (
        (DOWNLOADS, "test_a_sale_in_mid_download_has_it_fetched_again"),
        (DOWNLOADS, "test_a_row_that_slips_behind_an_unchanged_total_takes_no_ticket_away"),
        (DOWNLOADS, "test_the_third_unstable_download_is_taken_as_it_is_and_removes_nothing"),
        (DOWNLOADS, "test_a_server_that_miscounts_its_tickets_is_merged_and_the_gate_works"),
    ),
    "the compare timestamp is by nobody's named clock": (
        (DOWNLOADS, "test_its_mark_is_the_servers_time_and_not_ours"),
        (DOWNLOADS, "test_its_mark_moves_only_when_all_its_pages_came"),
        (DOWNLOADS, "test_without_the_servers_time_there_is_no_delta_and_the_full_download_still_works"),
        (DOWNLOADS, "test_a_server_whose_clock_was_set_back_behind_the_mark_is_fetched_in_full"),
    ),
    "a removed ticket is not told": (
        (DOWNLOADS, "test_a_delta_removes_nothing"),
        (DOWNLOADS, "test_a_few_that_two_downloads_in_a_row_do_not_show_are_gone"),
        (DOWNLOADS, "test_many_at_once_stay_until_a_person_accepts_it"),
        (DOWNLOADS, "test_an_empty_list_removes_nothing_however_few_there_were"),
    ),
    "a delta may be the whole list": (
        (DOWNLOADS, "test_a_delta_that_is_the_whole_list_changes_nothing_but_what_changed"),
    ),
    "a ticket may be listed twice": (
        (WIRE, "test_of_two_rows_of_one_ticket_on_a_page_the_strictest_counts_and_the_second_is_odd"),
        (STRANGERS, "test_of_a_ticket_that_is_listed_with_two_faces_the_stricter_counts_and_it_is_alarmed"),
        (STRANGERS, "test_a_ticket_that_is_listed_twice_admits_once_and_is_no_reason_to_remove_another"),
    ),
    "a row may be older than our own upload": (
        (DESK, "test_a_server_that_lags_with_the_second_of_two_check_ins_admits_no_third"),
        (DOWNLOADS, "test_an_organisers_reset_counts_once_a_download_is_old_enough_to_know_the_upload"),
        (
            UPLOADS,
            "test_an_acknowledged_entry_gives_none_back_while_the_mirror_shows_older_ones_of_other_gates",
        ),
    ),
    "a barcode may come as a number": (
        (WIRE, "test_a_barcode_that_came_as_a_number_is_read_and_counted_as_odd"),
        (DOWNLOADS, "test_barcodes_that_come_as_numbers_are_found_and_counted"),
    ),
    "rows are full of personal data": (
        (WIRE, "test_what_is_only_shown_is_never_a_reason_to_refuse"),
        ("store/test_store.py", "test_a_stolen_card_gives_away_no_barcode_and_no_external_id"),
    ),
    "a row has a scan status that nobody asked for": (
        (GAPS, "test_the_scan_status_of_a_listed_row_is_ignored"),
    ),
    # Deciding locally
    "flags are 0 and 1, or anything": (
        (WIRE, "test_a_flag_is_read_in_every_form"),
        (WIRE, "test_a_flag_that_cant_be_read_allows_nothing"),
    ),
    "no code is for a cancelled ticket": (
        (DECIDE, "test_each_row_of_the_entry_table_answers_for_its_own_case"),
        (DOWNLOADS, "test_a_delta_brings_what_the_organiser_changed"),
    ),
    "no code is for a ticket that is too early, and ends may be inclusive or not": (
        (DECIDE, "test_the_boundary_instants_of_the_windows"),
        (DECIDE, "test_a_ticket_that_is_too_early_says_from_when_it_is_good"),
    ),
    "expire_from has three names": (
        (WIRE, "test_expire_from_has_other_names_only_where_it_is_absent"),
        (DECIDE, "test_an_expired_ticket_says_since_when_by_the_earlier_limit"),
    ),
    "no form of a time is given": (
        (WIRE, "test_a_time_is_read_in_every_form"),
        (WIRE, "test_a_time_that_cant_be_read_names_its_field_and_allows_nothing"),
        (DOWNLOADS, "test_rows_that_cant_be_read_are_alarmed_at_the_download_until_they_are_mended"),
    ),
    "three counters say how often": (
        (DECIDE, "test_remaining_leads_then_the_maximum_then_one_entry"),
        ("core/test_overlay.py", "test_the_formula"),
    ),
    "whether a check-out gives the entry back is not said": (
        (DECIDE, "test_a_check_out_gives_an_entry_back_only_where_re_entry_is_set"),
        (DESK, "test_a_check_out_that_the_server_gives_back_too_lets_one_guest_in"),
    ),
    "rules of a timeslot or a day do not show in a row": (
        (DESK, "test_which_known_tickets_the_server_is_asked_about"),
        (
            "test_gate_alone.py",
            "test_the_direct_strategy_asks_and_falls_back_to_the_mirror_when_the_server_is_slow",
        ),
    ),
    "the order of the checks is not said": ((DECIDE, "test_the_earlier_of_two_rows_answers"),),
    "a ticket sold a minute ago is not in the list yet": (
        ("test_gate.py", "test_a_ticket_sold_a_minute_ago_is_admitted_by_asking_and_only_once"),
        (ASKING, "test_ten_unknown_barcodes_a_minute_use_up_a_lanes_questions"),
    ),
    "the printed code may be the external one": (
        ("store/test_mirror.py", "test_an_external_id_leads_to_the_barcode_id"),
        ("store/test_mirror.py", "test_a_text_that_stands_for_two_tickets_is_ambiguous"),
        (WIRE, "test_a_ticket_matches_by_its_external_barcode_and_by_a_number"),
    ),
    "an order has a number too": (
        (STRANGERS, "test_the_server_is_never_asked_about_the_number_of_an_order"),
        (
            STRANGERS,
            "test_the_number_of_an_order_not_known_yet_opens_nothing_though_its_tickets_are_checked_in",
        ),
    ),
    "capitals and blanks of a barcode are not spoken of": (
        (STRANGERS, "test_capitals_make_another_barcode"),
        ("core/test_barcode.py", "test_a_barcode_is_1_to_128_printable_characters"),
    ),
    "the clock of a gate may be wrong": (
        (DECIDE, "test_while_the_time_is_unknown_no_ticket_is_too_early"),
        (UPLOADS, "test_scans_of_an_unknown_time_wait_for_the_time_and_are_corrected"),
    ),
    # Direct check-in and check-out
    "201 is documented for an admission only": (
        (CLIENT, "test_a_refusal_is_understood_however_it_is_answered"),
        (CLIENT, "test_a_400_never_admits"),
        (ASKING, "test_a_bare_400_is_a_refusal_and_any_other_status_says_nothing_of_the_ticket"),
    ),
    "a code may be unknown, and its text another's": (
        (STRANGERS, "test_the_code_for_the_ticket_alone_decides_and_no_text_does"),
        (WIRE, "test_what_is_no_number_is_no_code"),
    ),
    "the answer to one scan is a list": (
        (ASKING, "test_only_the_code_of_the_direction_for_the_ticket_alone_admits"),
        (WIRE, "test_another_ticket_or_several_or_none_do_not_match"),
        (
            ASKING,
            "test_an_answer_that_admits_nobody_may_have_recorded_a_check_in_all_the_same_and_is_alarmed",
        ),
        (ASKING, "test_recorded_with_an_answer_that_admits_nobody_is_admitted_once_when_it_comes_again"),
    ),
    "a call without an answer may have been carried out": (
        (ASKING, "test_recorded_and_admitted_here_is_one_check_in_and_is_not_uploaded"),
        (ASKING, "test_recorded_and_not_admitted_is_admitted_once_when_it_comes_again"),
        (ASKING, "test_recorded_late_and_admitted_by_another_scan_meanwhile_is_one_check_in"),
        (ASKING, "test_recorded_late_and_uploaded_for_another_scan_meanwhile_is_marked"),
        (
            "sync/test_slow_faults.py",
            "test_a_slow_server_loses_no_scan_admits_nobody_twice_and_heals_by_itself",
        ),
    ),
    "a direct check-in carries no time": (
        (OUTBOX, "test_a_lost_direct_check_in_is_found_by_a_time_in_its_calls_window"),
        ("core/test_verdict.py", "test_times_in_messages_are_utc"),
    ),
    "an exit may be denied": (
        (DECIDE, "test_the_exit_table"),
        ("core/test_passage.py", "test_every_read_releases_an_exit_that_opens_always"),
    ),
    "the list of the direct strategy's calls is missing": (
        (CLIENT, "test_a_scan_is_sent_as_the_document_has_it"),
    ),
    # Upload
    "the size of a batch is not said": (
        (UPLOADS, "test_a_long_outbox_goes_in_batches"),
        (UPLOADS, "test_batches_stay_smaller_after_413"),
    ),
    "an upload is answered as a whole": (
        (UPLOADS, "test_one_bad_scan_is_parked_and_the_rest_arrives_once"),
        (UPLOADS, "test_a_scan_refused_alone_is_parked_only_when_another_was_accepted"),
        (UPLOADS, "test_a_service_that_refuses_every_scan_is_noticed_after_three_and_parks_none"),
    ),
    "a repeated upload may be stored twice": (
        (UPLOADS, "test_a_lost_upload_that_the_next_delta_shows_is_not_sent_again"),
        (UPLOADS, "test_a_lost_upload_that_the_next_delta_does_not_show_goes_again_marked"),
        (OUTBOX, "test_frozen_rows_never_change"),
    ),
    "checked_in_time is asked of denials as well": (
        (UPLOADS, "test_a_row_has_the_second_of_its_scan_and_the_apis_own_text"),
        (OUTBOX, "test_what_was_stamped_in_the_unknown_waits_and_is_corrected"),
    ),
    "the example's code 50 bears the text of 45": (
        ("core/test_verdict.py", "test_the_message_is_the_apis_with_its_time_filled_in"),
        (DESK, "test_what_the_server_is_told_names_the_ticket_and_the_apis_text"),
    ),
    "which scans are wanted is not said": (
        ("core/test_outbox.py", "test_which_verdicts_go_up_and_in_which_queue"),
        (UPLOADS, "test_check_ins_go_first_and_the_rest_after_them_oldest_first"),
    ),
    "a check-out has no field of its own": (
        (UPLOADS, "test_a_check_out_is_uploaded_with_code_200"),
        (UPLOADS, "test_a_replayed_check_out_is_the_call_that_it_missed"),
    ),
    "one ticket may come in at two gates": (
        (DOWNLOADS, "test_a_ticket_admitted_at_two_gates_is_alarmed_at_both_once"),
        ("model/test_days.py", "TestDaysAtTwoGates"),
    ),
    "upload and delta have an order": ((STRANGERS, "test_tickets_come_down_while_scans_do_not_go_up"),),
    "whose old rows are is not said": (
        (OUTBOX, "test_another_services_scans_go_after_the_current_ones_under_their_own_service"),
        (UPLOADS, "test_scans_of_a_service_that_is_gone_do_not_hold_up_others"),
    ),
    "the age of an upload is not limited": (
        (STRANGERS, "test_scans_of_three_days_ago_go_up_with_their_times"),
    ),
    "a check-in can't be taken back": (
        (DESK, "test_a_lapsed_grant_is_granted_again_once_and_not_sent_again"),
        (DESK, "test_without_a_sensor_that_saw_nobody_there_is_no_re_grant"),
    ),
    "100 is for entries and 200 for exits": (
        (DECIDE, "test_every_question_is_answered_by_a_code_of_its_direction_with_a_reason_that_suits"),
        (ASKING, "test_only_the_code_of_the_direction_for_the_ticket_alone_admits"),
    ),
}


@cache
def _names(file: str) -> frozenset[str]:
    """What a file of tests defines at its top: functions, classes, and classes by assignment."""
    found = set()
    for node in ast.parse((TESTS / file).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


@cache
def _given_in(folder: str) -> frozenset[str | None]:
    """The names of all arguments that the tests of a folder give by name."""
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted((TESTS / folder).glob("*.py"))]
    return frozenset(node.arg for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword))


def test_the_document_has_sixty_eight_gaps() -> None:
    assert len(TABLE) == 68


@pytest.mark.parametrize("tests", TABLE.values(), ids=TABLE)
def test_each_gap_is_held_by_tests_that_exist(tests: tuple[tuple[str, str], ...]) -> None:
    assert tests
    assert {(file, name) for file, name in tests if name not in _names(file)} == set()


@pytest.mark.parametrize("habit", Habits.__dataclass_fields__)
def test_every_habit_that_a_server_may_have_is_tried_on_a_gate(habit: str) -> None:
    assert habit in _given_in("sync")


# What no other file asks


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_json_with_no_numbers_for_numbers_is_a_bad_answer(number: str) -> None:
    body = f'{{"barcodes": [{{"barcode_id": "A", "remaining_scans": {number}}}]}}'.encode()
    with pytest.raises(ApiBadAnswer):
        wire.read_page(body, asked=1, limit=500)


@pytest.mark.parametrize(("code", "text"), [(100, "ADMIT - Ticket is valid"), (50, "DENY"), (None, None)])
def test_the_scan_status_of_a_listed_row_is_ignored(code: int | None, text: str | None) -> None:
    plain = b'{"barcodes": [{"barcode_id": "A", "is_checkin_allowed": 0%s}]}'
    status = (
        b"" if code is None else f', "scan_status_code": {code}, "scan_status_message": "{text}"'.encode()
    )
    (listed,) = wire.read_page(plain % status, asked=1, limit=500).tickets
    (alone,) = wire.read_page(plain % b"", asked=1, limit=500).tickets
    assert listed == alone
    verdict = decide(scan("A"), listed, NOTHING, Rules(), Now(NOON, TimeTrust.SYNCHRONISED))
    assert verdict.reason is Reason.NOT_ALLOWED
