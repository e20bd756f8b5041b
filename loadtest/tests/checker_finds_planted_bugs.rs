//! Proves that the checker passes what a correct system does under faults, and that each planted
//! bug of a messaging system is found as a break of the promise that it is known to break.

mod model;

use model::{Bug, run};
use proptest::prelude::*;
use roost_loadtest::checker::{Check, Expectations, History, Verdict, judge};

/// Everything a history of the model contains.
fn expectations() -> Expectations {
    Expectations {
        acks_min: 5,
        final_reading: true,
        settled_min: model::DEVICES as u64,
        kills_min: 0,
        kills_in_flight_min: 0,
        healed: true,
    }
}

fn verdict(seed: u64, turns: usize, bug: Option<Bug>) -> Verdict {
    judge(&run(seed, turns, bug), &expectations())
}

/// Runs seeds with a bug, and demands that it shows as `expected` at least once and that a good
/// part of the seeds fails: a bug that needs a rare accident does not show in each run.
fn check(bug: Bug, expected: Check, name: &str) {
    const SEEDS: u64 = 60;
    let mut failed = 0;
    let mut is_found = false;
    for seed in 0..SEEDS {
        let verdict = verdict(seed, 3000, Some(bug));
        failed += u64::from(!verdict.is_pass());
        is_found |= verdict.violations.iter().any(|v| {
            let has_example = v.examples.first().is_some_and(|e| !e.what.is_empty());
            v.check == expected && v.name == name && has_example
        });
    }
    assert!(is_found, "{bug:?} was never found as {expected:?} {name}");
    assert!(failed * 3 > SEEDS, "{bug:?}: only {failed} of {SEEDS} seeds failed");
}

#[test]
fn acknowledge_before_commit_loses() {
    check(Bug::AckBeforeCommit, Check::C1, "acknowledged_lost");
}

#[test]
fn skipped_dedupe_sequences_twice() {
    check(Bug::SkipDedupe, Check::C3, "sequenced_twice");
}

#[test]
fn fetch_before_subscribe_misses() {
    check(Bug::FetchBeforeSubscribe, Check::C1, "acknowledged_unseen");
    check(Bug::FetchBeforeSubscribe, Check::C6, "displayed_gap");
}

#[test]
fn dropping_the_oldest_of_a_slow_consumer_leaves_a_gap() {
    check(Bug::DropOldest, Check::C6, "displayed_gap");
    check(Bug::DropOldest, Check::C1, "acknowledged_unseen");
}

#[test]
fn accepting_a_stale_epoch_inverts() {
    check(Bug::AcceptStaleEpoch, Check::C7, "sender_order_broken");
}

#[test]
fn acknowledging_the_bus_before_the_push_misses() {
    check(Bug::AutoAck, Check::C1, "acknowledged_unseen");
}

#[test]
fn pushing_without_mandatory_misses() {
    check(Bug::NoMandatory, Check::C1, "acknowledged_unseen");
}

#[test]
fn deleting_the_route_on_close_misses() {
    check(Bug::DeleteRouteOnClose, Check::C1, "acknowledged_unseen");
}

#[test]
fn a_recall_in_place_never_arrives() {
    check(Bug::RecallInPlace, Check::C10, "recall_never_arrived");
}

#[test]
fn a_gap_in_the_sequence_is_seen() {
    check(Bug::Gap, Check::C5, "gap_in_database");
}

#[test]
fn an_inversion_in_a_batch_is_seen() {
    check(Bug::Inversion, Check::C7, "sender_order_broken");
}

#[test]
fn a_duplicate_display_is_seen() {
    check(Bug::DuplicateDisplay, Check::C3, "displayed_twice");
}

#[test]
fn a_reused_id_is_not_acknowledged() {
    check(Bug::IdReuse, Check::C11, "id_reuse_acknowledged");
}

#[test]
fn a_repeated_acknowledgement_that_differs_is_seen() {
    check(Bug::RepeatedAckDiffers, Check::C11, "repeated_ack_differs");
}

#[test]
fn two_sequence_counters_break_real_time_order() {
    check(Bug::RealTimeOrder, Check::C8, "real_time_order_broken");
}

#[test]
fn a_watermark_that_goes_back_is_seen() {
    check(Bug::WatermarkBack, Check::C9, "watermark_went_back");
}

#[test]
fn a_delivery_to_strangers_is_seen() {
    check(Bug::DeliverToStrangers, Check::C12, "seen_outside_membership");
}

#[test]
fn altered_content_is_seen() {
    check(Bug::AlteredContent, Check::C2, "content_differs");
}

#[test]
fn a_forgotten_send_is_unresolved() {
    check(Bug::ForgetSend, Check::C13, "send_unresolved");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// A correct system passes whatever happens to it; so does its history from a file, and when
    /// it is cut in two as by the restart of a recorder.
    #[test]
    fn a_correct_system_passes(seed in any::<u64>(), turns in 400_usize..3000) {
        let mut history = run(seed, turns, None);
        let direct = judge(&history, &expectations());
        prop_assert!(direct.is_pass(), "{direct}");

        let mut file = Vec::new();
        history.append_to(&mut file).unwrap();
        let (read, is_cut) = History::read_from(&mut file.as_slice()).unwrap();
        prop_assert!(!is_cut);
        prop_assert_eq!(judge(&read, &expectations()).counts, direct.counts);

        let mut joined = History::new();
        joined.absorb(&read);
        prop_assert_eq!(judge(&joined, &expectations()).counts, direct.counts);
    }
}
