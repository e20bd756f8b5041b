//! What the passages of a message amount to, in one line.

use std::collections::BTreeSet;

use roost_trace::{Hop, Passage};

use super::Seen;
use super::describe::refusal;

/// One line for people.
pub(super) fn verdict(seen: &[Seen]) -> String {
    let fate = fate(seen);
    let is_committed = at(seen, Hop::Committed).next().is_some();
    if is_committed { format!("{fate}; {}", deliveries(seen)) } else { fate }
}

fn at(seen: &[Seen], hop: Hop) -> impl Iterator<Item = &Passage> {
    seen.iter().map(|seen| &seen.passage).filter(move |passage| passage.hop == hop)
}

fn last(seen: &[Seen], hop: Hop) -> Option<&Passage> {
    at(seen, hop).last()
}

fn texts(seen: &[Seen], hop: Hop) -> BTreeSet<String> {
    at(seen, hop).map(|passage| passage.text.to_text().into_owned()).collect()
}

/// Whether it has its place, and if not how far it came.
fn fate(seen: &[Seen]) -> String {
    if let Some(committed) = last(seen, Hop::Committed) {
        let answered = [Hop::AnswerWritten, Hop::RequestAnswered];
        let is_answered = answered.iter().any(|hop| at(seen, *hop).any(|p| p.code == 0));
        let answer = if is_answered {
            "acknowledged to its sender"
        } else {
            "its sender was not seen to be answered"
        };
        return format!("committed as {} {}; {answer}", committed.text.to_text(), committed.number);
    }
    if at(seen, Hop::Quarantined).next().is_some() {
        return "quarantined by logic: it will not be committed, the operator has a copy"
            .to_owned();
    }
    if at(seen, Hop::DeadLettered).next().is_some() {
        return "its body took logic down too often and is in roost.dead: not committed".to_owned();
    }
    let refused = [Hop::RefusedByLogic, Hop::RefusedByGateway]
        .into_iter()
        .filter_map(|hop| last(seen, hop))
        .max_by_key(|passage| passage.at_ns);
    let moved_on = [Hop::Taken, Hop::PublishConfirmed, Hop::Published, Hop::Received]
        .into_iter()
        .filter_map(|hop| last(seen, hop))
        .map(|passage| passage.at_ns)
        .max();
    match refused {
        Some(refused) if moved_on.is_none_or(|at_ns| at_ns <= refused.at_ns) => {
            let by = if refused.hop == Hop::RefusedByLogic { "logic" } else { "its gateway" };
            return format!("refused by {by}: {}", refusal(refused.code));
        }
        Some(_) | None => {}
    }
    let furthest = [
        (Hop::Taken, "taken by logic, not committed (yet)"),
        (Hop::PublishConfirmed, "on the bus: no logic process among those asked has taken it"),
        (Hop::PublishFailed, "at its gateway: the bus does not confirm it, it is repeated"),
        (Hop::Published, "handed to the bus, which has not confirmed it yet"),
        (Hop::Received, "at its gateway, not handed to the bus yet"),
        (Hop::RequestReceived, "at the HTTP API, not confirmed by the bus yet"),
    ];
    let found = furthest.into_iter().find(|(hop, _)| at(seen, *hop).next().is_some());
    found.map_or("how it was committed is forgotten", |(_, text)| text).to_owned()
}

/// Who has it.
fn deliveries(seen: &[Seen]) -> String {
    let written = texts(seen, Hop::DeliveryWritten);
    let stored = texts(seen, Hop::DeviceAcknowledged);
    let hinted: BTreeSet<_> =
        texts(seen, Hop::DeliveryHinted).difference(&stored).cloned().collect();
    let offline = texts(seen, Hop::Offline);
    let mut parts = Vec::new();
    match (written.len(), stored.intersection(&written).count()) {
        (0, _) => {}
        (1, 1) => parts.push("pushed to 1 device, which has stored it".to_owned()),
        (1, _) => parts.push("pushed to 1 device, which has not acknowledged it".to_owned()),
        (all, some) if all == some => {
            parts.push(format!("pushed to {all} devices, all have stored it"))
        }
        (all, some) => parts.push(format!("pushed to {all} devices, {some} have stored it")),
    }
    if !hinted.is_empty() {
        parts.push(format!("{} too slow and told to fetch it", list(&hinted)));
    }
    if !offline.is_empty() {
        parts.push(format!("{} offline: fetched with the next sync", list(&offline)));
    }
    if at(seen, Hop::RoutesUnavailable).next().is_some() {
        parts.push(
            "not pushed, because routes were unavailable: fetched with the next sync".to_owned(),
        );
    }
    let lost = texts(seen, Hop::PushFailed);
    if !lost.is_empty() {
        parts.push(format!("the push to {} was lost: fetched with the next sync", join(&lost)));
    }
    let confirmed = texts(seen, Hop::PushConfirmed);
    let taken = texts(seen, Hop::PushTaken);
    let silent: BTreeSet<_> = confirmed.difference(&taken).cloned().collect();
    if !silent.is_empty() {
        parts.push(format!("what became of the push to {} is not known here", join(&silent)));
    }
    if parts.is_empty() {
        let has_taken = !taken.is_empty();
        let text = if has_taken {
            "no session for it at any gateway that took it"
        } else {
            "not pushed to anybody (yet)"
        };
        parts.push(text.to_owned());
    }
    parts.join("; ")
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn list(names: &BTreeSet<String>) -> String {
    format!("{} {}", join(names), if names.len() == 1 { "is" } else { "are" })
}

/// How much the clocks of two processes differ at least: something was seen before it can have happened.
pub(super) fn clocks_differ_by_ns(seen: &[Seen]) -> Option<u64> {
    let orders = [
        (Hop::Published, Hop::Taken),
        (Hop::Taken, Hop::AnswerWritten),
        (Hop::Committed, Hop::PushTaken),
        (Hop::Committed, Hop::AnswerWritten),
    ];
    let first = |hop: Hop| seen.iter().find(|seen| seen.passage.hop == hop);
    let inversions = orders.into_iter().filter_map(|(before, after)| {
        let (before, after) = (first(before)?, first(after)?);
        let ns = before.passage.at_ns.saturating_sub(after.passage.at_ns);
        (before.process != after.process && ns > 0).then_some(ns)
    });
    inversions.max()
}

#[cfg(test)]
mod tests {
    use roost_protocol::{ClientMsgId, RefusalCode};
    use roost_trace::Text;

    use super::*;

    fn passage(hop: Hop, text: &str) -> Passage {
        let text = Text::new(text);
        Passage { text, number: 7, ..Passage::new(ClientMsgId([1; 16]), hop, 0) }
    }

    fn seen(passages: &[Passage]) -> Vec<Seen> {
        let at = |(at_ns, passage): (u64, &Passage)| Seen {
            process: "dev dev".to_owned(),
            passage: Passage { at_ns, ..*passage },
        };
        (1..).zip(passages).map(at).collect()
    }

    #[track_caller]
    fn check(passages: &[Passage], expected: &str) {
        assert_eq!(verdict(&seen(passages)), expected);
    }

    #[test]
    fn each_fate_has_its_line() {
        let received = passage(Hop::Received, "alice/d");
        let published = passage(Hop::Published, "");
        let confirmed = passage(Hop::PublishConfirmed, "");
        let taken = passage(Hop::Taken, "");
        check(&[received], "at its gateway, not handed to the bus yet");
        check(&[received, published], "handed to the bus, which has not confirmed it yet");
        check(
            &[received, published, confirmed],
            "on the bus: no logic process among those asked has taken it",
        );
        check(&[received, published, taken], "taken by logic, not committed (yet)");
        let busy = Passage { code: RefusalCode::Busy as u16, ..passage(Hop::RefusedByGateway, "") };
        check(&[busy], "refused by its gateway: busy");
        check(&[busy, received], "at its gateway, not handed to the bus yet");
        check(
            &[received, passage(Hop::Quarantined, "boom")],
            "quarantined by logic: it will not be committed, the operator has a copy",
        );
    }

    #[test]
    fn who_has_a_committed_message() {
        let committed = passage(Hop::Committed, "s:alice:bob");
        let answered = passage(Hop::AnswerWritten, "alice/d");
        let taken = passage(Hop::PushTaken, "gw-1");
        let [phone, laptop] = ["bob/phone", "bob/laptop"].map(|d| passage(Hop::DeliveryWritten, d));
        let stored = passage(Hop::DeviceAcknowledged, "bob/phone");
        let start = "committed as s:alice:bob 7; acknowledged to its sender; ";
        let check = |more: &[Passage], expected: &str| {
            check(&[&[committed, answered], more].concat(), &format!("{start}{expected}"));
        };
        check(&[], "not pushed to anybody (yet)");
        check(&[taken], "no session for it at any gateway that took it");
        check(&[taken, phone], "pushed to 1 device, which has not acknowledged it");
        check(&[taken, phone, stored], "pushed to 1 device, which has stored it");
        check(&[taken, phone, laptop, stored], "pushed to 2 devices, 1 have stored it");
        check(&[passage(Hop::Offline, "bob")], "bob is offline: fetched with the next sync");
        check(
            &[passage(Hop::PushConfirmed, "gw-2")],
            "what became of the push to gw-2 is not known here",
        );
        check(
            &[passage(Hop::PushFailed, "gw-2")],
            "the push to gw-2 was lost: fetched with the next sync",
        );
        check(
            &[taken, passage(Hop::DeliveryHinted, "bob/tv")],
            "bob/tv is too slow and told to fetch it",
        );
    }

    #[test]
    fn clocks_are_told_apart_by_what_cannot_be() {
        let mut seen = seen(&[passage(Hop::Taken, ""), passage(Hop::Published, "")]);
        assert_eq!(clocks_differ_by_ns(&seen), None, "one process has one clock");
        seen[0].process = "logic logic-1".to_owned();
        assert_eq!(clocks_differ_by_ns(&seen), Some(1));
    }
}
