//! Proves the checks that need no accident, each on a transcript of a few events, and that a run
//! that proves little fails.

use roost_loadtest::checker::{
    ArchiveError, Check, ConversationId, DeviceId, Expectations, History, MessageId, Record,
    UserId, Verdict, WatermarkKind, judge,
};

/// A transcript under construction: alice writes to bob, one microsecond an event.
struct Transcript {
    history: History,
    at_us: u64,
    chat: ConversationId,
    alice: DeviceId,
    bob: DeviceId,
    alice_user: UserId,
    bob_user: UserId,
}

impl Transcript {
    fn new() -> Self {
        let mut history = History::new();
        let chat = history.single_chat("bob", "alice");
        let (alice_user, bob_user) = (history.user("alice"), history.user("bob"));
        let alice = history.device(alice_user, "phone");
        let bob = history.device(bob_user, "phone");
        Self { history, at_us: 0, chat, alice, bob, alice_user, bob_user }
    }

    fn add(mut self, record: Record) -> Self {
        self.at_us += 1;
        self.history.record(self.at_us, record);
        self
    }

    fn message(&mut self, id: u128) -> MessageId {
        self.history.message(self.alice_user, id)
    }

    fn send(mut self, id: u128) -> Self {
        let (device, conversation, message) = (self.alice, self.chat, self.message(id));
        self.add(Record::Send { device, conversation, message, hash: 7, intended_us: 0 })
    }

    fn ack(mut self, id: u128, seq: u64) -> Self {
        let (device, conversation, message) = (self.alice, self.chat, self.message(id));
        self.add(Record::Ack { device, conversation, message, hash: 7, seq, answer: 1 })
    }

    fn refusal(mut self, id: u128) -> Self {
        let (device, conversation, message) = (self.alice, self.chat, self.message(id));
        self.add(Record::Refusal { device, conversation, message, hash: 7, code: 1 })
    }

    fn stored(mut self, id: u128, seq: u64) -> Self {
        let (conversation, message) = (self.chat, self.message(id));
        self.add(Record::Stored { conversation, message, seq, hash: 7, reading: 1 })
    }

    fn displayed(mut self, id: u128, seq: u64) -> Self {
        let (device, conversation, message) = (self.bob, self.chat, self.message(id));
        self.add(Record::Displayed { device, conversation, message, seq, hash: 7 })
    }

    fn watermark(self, seq: u64) -> Self {
        let (observer, conversation, subject) = (self.alice, self.chat, self.bob_user);
        let kind = WatermarkKind::Delivered;
        self.add(Record::Watermark { observer, conversation, subject, kind, seq })
    }

    fn read(self) -> Self {
        let conversation = self.chat;
        self.add(Record::ReadingEnd { conversation, reading: 1 })
    }

    fn settled(self) -> Self {
        let device = self.bob;
        self.add(Record::Settled { device })
    }

    fn healed(self) -> Self {
        self.add(Record::Healed)
    }

    fn verdict(&self) -> Verdict {
        judge(&self.history, &Expectations::default())
    }
}

/// `broken` holds what is found, as `C1 acknowledged_lost`; empty for a pass.
fn check(transcript: Transcript, broken: &[&str]) {
    let verdict = transcript.verdict();
    let found: Vec<String> =
        verdict.violations.iter().map(|v| format!("{:?} {}", v.check, v.name)).collect();
    assert_eq!(found, broken, "{verdict}");
    assert!(verdict.proves_little.is_empty(), "{verdict}");
}

fn one_message() -> Transcript {
    Transcript::new().send(1).ack(1, 1).displayed(1, 1)
}

#[test]
fn one_message_passes() {
    check(one_message().stored(1, 1).read().settled().healed(), &[]);
}

#[test]
fn an_acknowledged_message_must_be_stored_at_its_place() {
    check(one_message().read(), &["C1 acknowledged_lost", "C5 seen_beyond_database"]);
}

#[test]
fn a_device_that_stayed_must_have_it() {
    check(
        Transcript::new().send(1).ack(1, 1).stored(1, 1).read().settled(),
        &["C1 acknowledged_unseen"],
    );
}

#[test]
fn a_device_that_left_need_not_have_it() {
    check(Transcript::new().send(1).ack(1, 1).stored(1, 1).read(), &[]);
}

#[test]
fn an_unknown_outcome_may_be_stored_or_not() {
    check(one_message().send(2).stored(1, 1).read(), &[]);
    check(one_message().send(2).stored(1, 1).stored(2, 2).read(), &[]);
}

#[test]
fn an_unknown_outcome_must_converge_after_healing() {
    let transcript = one_message().send(2).stored(1, 1).stored(2, 2).read().settled().healed();
    check(transcript, &["C13 device_not_converged", "C13 send_unresolved"]);
}

#[test]
fn a_refused_message_must_not_be_seen() {
    check(
        one_message().send(2).refusal(2).stored(1, 1).stored(2, 2).read(),
        &["C2 seen_though_refused"],
    );
}

#[test]
fn a_message_is_not_both_refused_and_acknowledged() {
    check(one_message().refusal(1).stored(1, 1).read(), &["C11 refused_and_acknowledged"]);
}

#[test]
fn what_nobody_sent_must_not_be_seen() {
    check(one_message().stored(1, 1).stored(9, 2).displayed(9, 2).read(), &["C2 never_sent"]);
}

#[test]
fn all_must_agree_on_a_seq() {
    let transcript = one_message().send(2).ack(2, 2).displayed(2, 3).stored(1, 1).stored(2, 2);
    check(
        transcript.read(),
        &["C3 sequenced_twice", "C5 seen_beyond_database", "C6 displayed_gap"],
    );
    let transcript = one_message().send(2).ack(2, 1).stored(1, 1).read();
    check(transcript, &["C1 acknowledged_lost", "C4 seq_disputed"]);
}

#[test]
fn a_seq_is_stored_once() {
    let transcript = one_message().send(2).stored(1, 1).stored(2, 1).read();
    check(transcript, &["C4 seq_disputed", "C5 seq_stored_twice"]);
}

#[test]
fn a_screen_goes_forward() {
    let transcript = one_message().send(2).ack(2, 2).send(3).ack(3, 3);
    check(
        transcript.displayed(3, 3).displayed(2, 2).stored(1, 1).stored(2, 2).stored(3, 3).read(),
        &["C6 displayed_backwards", "C6 displayed_gap"],
    );
}

#[test]
fn a_watermark_stays_within_the_conversation() {
    check(one_message().watermark(1).stored(1, 1).read(), &[]);
    check(one_message().watermark(2).stored(1, 1).read(), &["C9 watermark_beyond_head"]);
}

#[test]
fn a_repeated_acknowledgement_names_the_same_seq() {
    check(
        one_message().ack(1, 2).stored(1, 1).read(),
        &["C3 sequenced_twice", "C5 seen_beyond_database", "C11 repeated_ack_moved"],
    );
}

#[test]
fn nothing_is_left_after_healing() {
    let mut transcript = one_message().stored(1, 1).read().healed();
    let label = transcript.history.label("inbound queue 3");
    check(transcript.add(Record::Residue { label, amount: 0 }), &[]);
    let mut transcript = one_message().stored(1, 1).read().healed();
    let label = transcript.history.label("inbound queue 3");
    check(transcript.add(Record::Residue { label, amount: 2 }), &["C13 residue"]);
}

#[test]
fn an_example_says_where_who_when_and_what() {
    let verdict = one_message().read().verdict();
    let example = &verdict.violations[0].examples[0];
    assert_eq!(example.conversation, "s:alice:bob");
    assert_eq!((example.seq, example.at_us), (1, 2));
    assert_eq!(example.who, "alice/phone");
    assert_eq!(example.message, format!("alice:{:032x}", 1));
    assert!(example.what.contains("database does not have it"), "{}", example.what);
    assert_eq!(verdict.count_of(Check::C1), 1);
}

#[test]
fn a_run_that_proves_little_fails() {
    let all = Expectations {
        acks_min: 2,
        final_reading: true,
        settled_min: 1,
        kills_min: 2,
        kills_in_flight_min: 1,
        healed: true,
    };
    let transcript = one_message()
        .add(Record::Kill { took_effect: true })
        .add(Record::Kill { took_effect: false });
    let verdict = judge(&transcript.history, &all);
    assert!(verdict.violations.is_empty() && !verdict.is_pass());
    let said = verdict.proves_little.join("\n");
    for part in [
        "1 acknowledged messages, expected at least 2",
        "0 devices that stayed",
        "1 kills that took effect, expected at least 2",
        "0 kills that met a message in flight",
        "not read from the database",
        "no event says that the faults ended",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let in_flight = Transcript::new().send(1).add(Record::Kill { took_effect: true }).ack(1, 1);
    assert_eq!(in_flight.verdict().counts.kills_in_flight, 1);
}

#[test]
fn a_file_that_was_cut_is_read_up_to_its_last_block() {
    let mut transcript = one_message();
    let mut file = Vec::new();
    transcript.history.append_to(&mut file).unwrap();
    let whole = file.len();
    let mut transcript = transcript.send(2).ack(2, 2);
    transcript.history.append_to(&mut file).unwrap();

    let (read, is_cut) = History::read_from(&mut file.as_slice()).unwrap();
    assert_eq!((read.count(), is_cut), (transcript.history.count(), false));
    let (read, is_cut) = History::read_from(&mut &file[..file.len() - 1]).unwrap();
    assert_eq!((read.count(), is_cut), (5, true));
    let (read, is_cut) = History::read_from(&mut &file[..whole]).unwrap();
    assert_eq!((read.count(), is_cut), (5, false));

    let is_foreign = History::read_from(&mut &b"<html>"[..]);
    assert!(matches!(is_foreign, Err(ArchiveError::NotAHistory)));
    file[8] = 99;
    let is_damaged = History::read_from(&mut file.as_slice());
    assert!(matches!(is_damaged, Err(ArchiveError::Damaged { at: 8, .. })));
}

#[test]
fn two_histories_are_judged_as_one() {
    let before = Transcript::new().send(1).ack(1, 1).history;
    let mut after = Transcript::new();
    after.at_us = 100;
    let after = after.displayed(1, 1).stored(1, 1).read().settled().healed().history;
    let mut both = History::new();
    both.absorb(&before);
    both.absorb(&after);
    let verdict = judge(&both, &Expectations::default());
    assert!(verdict.is_pass(), "{verdict}");
    assert_eq!(verdict.counts.acked, 1);
}
