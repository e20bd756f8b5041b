//! Everything a run yielded: the input of every form of the report, and its outcome.
//!
//! Invariant: the outcome is decided here and nowhere else, in this order: a broken promise fails
//! even a disturbed run; a disturbed run is void, whatever else it measured; a run that proves
//! little or misses a threshold fails; the rest is good.

use crate::checker::{History, Verdict};
use crate::environment::Environment;
use crate::histogram::{Latency, LatencyHistogram};
use crate::server_watch::ServerUsage;
use crate::slo::SloResult;
use crate::user::Absence;

/// What a run says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was broken, every threshold met.
    Good,
    /// A promise was broken, the run proves little, or a threshold was missed.
    Failed,
    /// The generator or the machine was disturbed: neither good nor bad.
    Void,
}

impl Outcome {
    /// Of the process; 3 is for runs that could not be made.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Failed => 1,
            Self::Void => 2,
        }
    }

    /// In a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Failed => "failed",
            Self::Void => "void",
        }
    }
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Second {
    /// Seconds since the first connection attempt.
    pub at_s: f64,
    /// Connections logged in.
    pub connections: u64,
    /// The server's memory and CPU, when it is on this machine.
    pub server: Option<ServerUsage>,
}

/// The record of one run.
#[derive(Debug, Default)]
pub struct Run {
    /// `idle` or `chat`.
    pub scenario: &'static str,
    /// What was asked for, in a sentence.
    pub summary: String,
    /// Connections logged in at the end of the hold, ballast and users.
    pub connections_held: u64,
    /// Connections wanted.
    pub connections_wanted: u64,
    /// Logins a second while ramping up.
    pub connect_rate: f64,
    /// From starting to connect to being logged in.
    pub connect: LatencyHistogram,
    /// Idle connections that were lost or sent elsewhere after they were logged in.
    pub idle_lost: u64,
    /// How long those took until they were logged in again.
    pub idle_back: LatencyHistogram,
    /// When users of a chat were away, in no order.
    pub absences: Vec<Absence>,
    /// What happened, event by event; empty without messages.
    pub history: History,
    /// Messages of the schedule.
    pub offered: u64,
    /// Messages handed to a socket at least once.
    pub sent: u64,
    /// Displays at receiving devices.
    pub delivered: u64,
    /// Send to acknowledgement.
    pub ack: Latency,
    /// Send to display at the receiver.
    pub delivery: Latency,
    /// Intended to real send time.
    pub generator_lag: LatencyHistogram,
    /// Of the server, at the end.
    pub server: Option<ServerUsage>,
    /// The server's private memory by connection: the slope over at least four levels.
    pub bytes_per_connection: Option<f64>,
    /// By second.
    pub timeline: Vec<Second>,
    /// Fingerprint.
    pub environment: Environment,
    /// The checker's answer; a run without messages has none.
    pub verdict: Option<Verdict>,
    /// Thresholds.
    pub slo: Vec<SloResult>,
    /// Why the run is void; empty when it is not.
    pub void_reasons: Vec<String>,
    /// Why the run failed beside checker and thresholds, such as refused connections.
    pub failures: Vec<String>,
    /// What a reader should know but is no failure, such as connections that were made again.
    pub notes: Vec<String>,
}

impl Run {
    /// Good, failed or void.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let is_broken = self.verdict.as_ref().is_some_and(|v| !v.violations.is_empty());
        let proves_little = self.verdict.as_ref().is_some_and(|v| !v.proves_little.is_empty());
        let is_missed = self.slo.iter().any(|result| !result.is_met);
        if is_broken {
            Outcome::Failed
        } else if !self.void_reasons.is_empty() {
            Outcome::Void
        } else if proves_little || is_missed || !self.failures.is_empty() {
            Outcome::Failed
        } else {
            Outcome::Good
        }
    }

    /// Why the outcome is not good, a sentence each.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for v in self.verdict.iter().flat_map(|verdict| &verdict.violations) {
            let promise = v.check.promise();
            reasons.push(format!("{:?} ({promise}) broken: {} {} times", v.check, v.name, v.count));
        }
        reasons.extend(self.void_reasons.iter().map(|reason| format!("void: {reason}")));
        let little = self.verdict.iter().flat_map(|verdict| &verdict.proves_little);
        reasons.extend(little.map(|reason| format!("proves little: {reason}")));
        for missed in self.slo.iter().filter(|result| !result.is_met) {
            let measured = missed.measured.map_or("not measured".to_owned(), |m| m.to_string());
            reasons
                .push(format!("missed: {} is {measured}, limit {}", missed.metric, missed.limit));
        }
        reasons.extend(self.failures.iter().cloned());
        reasons
    }

    /// Messages acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.verdict.as_ref().map_or(0, |v| v.counts.acked)
    }

    /// Acknowledged and lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.verdict.as_ref().map_or(0, |v| v.counts.lost)
    }

    /// Sequenced or displayed twice.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.verdict.as_ref().map_or(0, |v| v.counts.duplicates)
    }

    /// Out of order.
    #[must_use]
    pub fn inversions(&self) -> u64 {
        self.verdict.as_ref().map_or(0, |v| v.counts.inversions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Check, Counts, Violation};

    fn verdict(is_broken: bool, proves_little: bool) -> Verdict {
        let violation =
            Violation { check: Check::C1, name: "acknowledged_lost", count: 1, examples: vec![] };
        Verdict {
            violations: is_broken.then_some(violation).into_iter().collect(),
            unjudged: Vec::new(),
            proves_little: proves_little.then(|| "few".to_owned()).into_iter().collect(),
            counts: Counts::default(),
        }
    }

    #[track_caller]
    fn check(is_broken: bool, is_void: bool, proves_little: bool, expected: Outcome) {
        let run = Run {
            verdict: Some(verdict(is_broken, proves_little)),
            void_reasons: is_void.then(|| "lag".to_owned()).into_iter().collect(),
            ..Run::default()
        };
        assert_eq!(run.outcome(), expected);
        assert_eq!(run.reasons().is_empty(), expected == Outcome::Good);
    }

    #[test]
    fn a_loss_fails_even_a_disturbed_run() {
        check(false, false, false, Outcome::Good);
        check(true, false, false, Outcome::Failed);
        check(true, true, false, Outcome::Failed);
        check(false, true, true, Outcome::Void);
        check(false, false, true, Outcome::Failed);
    }
}
