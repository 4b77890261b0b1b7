"""Mark the slow tests of the store's contract as long where the storage is slow, too."""

from __future__ import annotations

import pytest

# On S3 each of these takes seconds. All of them always run on memory, local and cloud storage.
ON_S3 = ("TestS3Store", "TestS3Backend")
SLOW_ON_S3 = {
    "test_one_of_many_concurrent_creates_succeeds",
    "test_keys_lists_all_keys_with_the_prefix",
    "test_a_reader_sees_the_old_or_the_new_bytes",
    "test_put_replaces_a_damaged_copy[2097152]",
    "test_replace_creates_and_overwrites",
    "test_a_lost_answer_does_not_make_two_versions",
    "test_a_store_of_a_newer_format_is_refused",
    "test_names_and_log",
    "test_a_damaged_copy_is_replaced_by_a_push",
    "test_a_reader_never_sees_a_version_that_it_cannot_pull",
    "test_threads_that_push_to_one_name_lose_nothing",
    "test_without_a_hint_probes_grow_with_the_logarithm_of_the_versions",
    "test_a_lost_or_wrong_hint_changes_nothing",
    "test_pull_never_returns_damaged_objects",
    "test_tags_move_and_keep_their_history",
    "test_when_decides_whether_a_tag_moves",
    "test_the_tag_ends_at_the_best_of_many_concurrent_offers",
    "test_threads_that_move_one_tag_lose_nothing",
    "test_a_good_store_verifies_with_counts",
    "test_a_push_that_was_cut_off_leaves_a_hint_one_ahead",
    "test_damaged_records_are_format_errors",
    "test_an_error_for_an_unknown_ref_suggests_known_ones",
    "test_a_wrong_hint_tells_nothing_wrong_about_deletions",
    "test_objects_of_a_restored_version_come_back_from_the_trash",
    "test_a_wrong_hint_of_a_tag_changes_nothing",
    "test_the_history_of_a_tag_is_told",
    "test_a_tag_protects_a_version",
    "test_a_deleted_version_is_not_pulled_and_the_error_says_why",
    "test_a_name_of_which_nothing_stands_is_not_listed",
    "test_prune_keeps_what_any_criterion_keeps",
    "test_a_restored_version_stands_again",
    "test_deleting_what_does_not_exist_is_refused",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests of the store on S3."""
    for item in items:
        cls = getattr(item, "cls", None)
        if cls is not None and cls.__name__ in ON_S3 and item.name in SLOW_ON_S3:
            item.add_marker(pytest.mark.long)
