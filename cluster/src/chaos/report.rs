//! What a run did, and whether it is a success.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use roost_loadtest::run::Run;

use super::Options;
use super::schedule::Kind;

/// Fewer acknowledgements for each minute of faults prove little, whatever the rate.
const ACKS_PER_MINUTE_MIN: f64 = 1_000.0;

/// What was done and found.
#[derive(Debug)]
pub(super) struct Report {
    seed: u64,
    /// By what was done to whom, without durations.
    done: BTreeMap<String, (Kind, Tally)>,
    /// Two faults at the same time; effective when both were.
    together: Tally,
    failures: Vec<String>,
    pub(super) faulty_for: Duration,
    pub(super) run: Option<Run>,
    pub(super) left_over: Vec<String>,
}

#[derive(Debug, Default)]
struct Tally {
    tried: u32,
    effective: u32,
    recovered: Vec<Duration>,
}

impl Tally {
    fn add(&mut self, is_effective: bool, recovered: Option<Duration>) {
        self.tried += 1;
        self.effective += u32::from(is_effective);
        self.recovered.extend(recovered);
    }

    fn line(&self, name: &str) -> String {
        let mut sorted = self.recovered.clone();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).map_or(0.0, Duration::as_secs_f64);
        format!(
            "{name:<48} {:>5}  {:>9}  {:.2} s / {:.2} s",
            self.tried,
            self.effective,
            at(sorted.len() / 2),
            at(sorted.len().saturating_sub(1))
        )
    }
}

/// A fault, as a line says it, and what proves its effect or why it has none.
pub(super) type Done = (String, Kind, Result<String>);

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            done: BTreeMap::new(),
            together: Tally::default(),
            failures: Vec::new(),
            faulty_for: Duration::ZERO,
            run: None,
            left_over: Vec::new(),
        }
    }

    /// Adds what was done at the same time and prints it. `recovered`: how long after healing messages flowed again.
    pub(super) fn add(&mut self, begin: Instant, done: Vec<Done>, recovered: Option<Duration>) {
        let is_alone = done.len() == 1;
        let are_effective = done.iter().all(|(_, _, effect)| effect.is_ok());
        let mut said = Vec::new();
        for (what, kind, effect) in done {
            let (_, tally) =
                self.done.entry(name(&what)).or_insert_with(|| (kind, Tally::default()));
            tally.add(effect.is_ok(), recovered.filter(|_| is_alone));
            said.push(match effect {
                Ok(proof) => format!("{what}: {proof}"),
                Err(error) => format!("{what}: NO EFFECT: {error:#}"),
            });
        }
        if !is_alone {
            self.together.add(are_effective, recovered);
        }
        let said = said.join(" + ");
        let flows = match recovered {
            Some(took) => format!("flows again after {:.2} s", took.as_secs_f64()),
            None => "DOES NOT RECOVER".to_owned(),
        };
        println!("{:7.1} s  {said}; {flows}", begin.elapsed().as_secs_f64());
        if recovered.is_none() {
            self.fail(format!("messages did not flow again after: {said}"));
        }
    }

    pub(super) fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Whether faults took effect often enough to prove something.
    pub(super) fn has_enough(&self, options: &Options, kinds: &[Kind]) -> bool {
        !self.done.is_empty() && self.shortcomings(options, kinds).is_empty()
    }

    /// Whether these faults at the same time would prove something more.
    pub(super) fn needs(&self, done: &[(String, Kind)], options: &Options) -> bool {
        let is_needed = |(what, kind): &(String, Kind)| match kind {
            Kind::Kill => self.killed(tier(&name(what))) < options.kills,
            Kind::Pause
            | Kind::Flush
            | Kind::Purge
            | Kind::Alarm
            | Kind::Partition
            | Kind::Slow
            | Kind::Repeat
            | Kind::Republish
            | Kind::Clock
            | Kind::Disk => self.effective(*kind) == 0,
        };
        done.iter().any(is_needed) || (done.len() > 1 && self.lacks_pairs(options))
    }

    /// Of kinds that were chosen by hand none may go with another.
    fn lacks_pairs(&self, options: &Options) -> bool {
        options.has_all_kinds() && self.together.effective == 0
    }

    fn effective(&self, kind: Kind) -> u32 {
        let of_kind = self.done.values().filter(|(done, _)| *done == kind);
        of_kind.map(|(_, tally)| tally.effective).sum()
    }

    /// Processes of a tier count together.
    fn killed(&self, of: &str) -> u32 {
        let same = self.done.iter().filter(|(name, _)| tier(name) == of);
        same.map(|(_, (_, tally))| tally.effective).sum()
    }

    /// Kinds that took effect too seldom.
    fn shortcomings(&self, options: &Options, kinds: &[Kind]) -> Vec<String> {
        let kills = self.done.iter().filter(|(_, (kind, _))| *kind == Kind::Kill);
        let tiers: BTreeSet<&str> = kills.map(|(name, _)| tier(name)).collect();
        let mut reasons: Vec<String> = { tiers }
            .into_iter()
            .map(|tier| (tier, self.killed(tier)))
            .filter(|(_, count)| *count < options.kills)
            .map(|(tier, count)| {
                format!("{tier} took effect {count} times, {} are needed", options.kills)
            })
            .collect();
        let none = kinds.iter().filter(|kind| self.effective(**kind) == 0);
        reasons.extend(none.map(|kind| format!("no fault of the kind {kind:?} took effect")));
        if self.lacks_pairs(options) {
            reasons.push("no two faults took effect at the same time".to_owned());
        }
        reasons
    }

    /// Prints what was done; fails with the reasons when the run is no success.
    pub(super) fn conclude(mut self, options: &Options, kinds: &[Kind]) -> Result<()> {
        self.print();
        for reason in self.shortcomings(options, kinds) {
            self.fail(format!("proves little: {reason}"));
        }
        let left_over = std::mem::take(&mut self.left_over);
        self.failures.extend(left_over);
        match self.run.take() {
            None => self.fail("the load has no result".to_owned()),
            Some(run) => self.judge(&run, options),
        }
        if self.failures.is_empty() {
            println!("chaos: PASS  (seed {})", self.seed);
            return Ok(());
        }
        for failure in &self.failures {
            println!("  {failure}");
        }
        bail!("chaos: FAIL for {} reasons", self.failures.len());
    }

    fn judge(&mut self, run: &Run, options: &Options) {
        self.failures.extend(run.failures.iter().cloned());
        let Some(verdict) = &run.verdict else {
            return self.fail("nothing was judged".to_owned());
        };
        let counts = verdict.counts;
        println!(
            "{} kills, {} of them with messages in flight; {} acknowledged, {} lost, {} duplicates, {} inversions",
            counts.kills,
            counts.kills_in_flight,
            counts.acked,
            counts.lost,
            counts.duplicates,
            counts.inversions
        );
        if !verdict.is_pass() {
            self.fail(verdict.to_string());
        }
        if (counts.acked as f64) < ACKS_PER_MINUTE_MIN * self.faulty_for.as_secs_f64() / 60.0 {
            self.fail(format!("proves little: {} acknowledgements", counts.acked));
        }
        if counts.acked < options.messages {
            let (acked, wanted) = (counts.acked, options.messages);
            self.fail(format!("proves little: {acked} acknowledgements of {wanted}"));
        }
        if counts.kills_in_flight * 2 < counts.kills {
            self.fail(format!(
                "proves little: {} of {} kills met messages in flight",
                counts.kills_in_flight, counts.kills
            ));
        }
        if counts.settled < u64::from(options.users) {
            self.fail(format!(
                "{} of {} users were there at the end",
                counts.settled, options.users
            ));
        }
    }

    fn print(&self) {
        println!(
            "\nseed {}, {:.1} minutes of faults\n{:<48} tried  effective  flows again after, median / longest",
            self.seed,
            self.faulty_for.as_secs_f64() / 60.0,
            "fault"
        );
        for (name, (_, tally)) in &self.done {
            println!("{}", tally.line(name));
        }
        println!("{}", self.together.line("of these two at the same time"));
        let effective: u32 = self.done.values().map(|(_, tally)| tally.effective).sum();
        println!("{effective} faults took effect");
    }
}

/// Without the number of the process.
fn tier(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Without the duration at its end.
fn name(what: &str) -> String {
    match what.strip_suffix(" s").and_then(|text| text.rsplit_once(' ')) {
        Some((name, number)) if number.parse::<f64>().is_ok() => name.to_owned(),
        Some(_) | None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn report(done: &[(&str, Kind, u32)]) -> Report {
        let mut report = Report::new(1);
        for &(what, kind, count) in done {
            for _ in 0..count {
                let took = Some(Duration::from_millis(1));
                let done = vec![(what.to_owned(), kind, Ok("gone".to_owned()))];
                report.add(Instant::now(), done, took);
            }
        }
        report
    }

    #[track_caller]
    fn check(done: &[(&str, Kind, u32)], kinds: &[Kind], expected: bool) {
        let options = Line::parse_from(["chaos", "--kills", "2", "--only", "kill,pause"]).options;
        assert_eq!(report(done).has_enough(&options, kinds), expected);
    }

    #[test]
    fn a_run_without_enough_effective_faults_proves_little() {
        let kill = Kind::Kill;
        check(&[], &[kill], false);
        check(&[("kill gw-1", kill, 1)], &[kill], false);
        check(&[("kill gw-1", kill, 1), ("kill gw-2", kill, 1)], &[kill], true);
        check(&[("kill gw-1", kill, 2), ("kill Redis", kill, 1)], &[kill], false);
        check(&[("kill gw-1", kill, 2)], &[kill, Kind::Pause], false);
        check(
            &[("kill gw-1", kill, 2), ("pause Redis 1.0 s", Kind::Pause, 1)],
            &[kill, Kind::Pause],
            true,
        );
    }

    #[test]
    fn a_fault_without_effect_does_not_count() {
        let mut report = report(&[("kill gw-1", Kind::Kill, 1)]);
        let nothing = Err(anyhow::anyhow!("it was not there"));
        let took = Some(Duration::ZERO);
        report.add(Instant::now(), vec![("kill gw-1".to_owned(), Kind::Kill, nothing)], took);
        let options = Line::parse_from(["chaos", "--kills", "2", "--only", "kill"]).options;
        assert!(!report.has_enough(&options, &[Kind::Kill]));
    }

    #[test]
    fn of_all_kinds_two_have_to_take_effect_at_the_same_time() {
        let options = Line::parse_from(["chaos", "--kills", "1"]).options;
        let mut report = report(&[("kill gw-1", Kind::Kill, 1), ("flush Redis", Kind::Flush, 1)]);
        let kinds = [Kind::Kill, Kind::Flush];
        assert!(!report.has_enough(&options, &kinds));
        let kill = ("kill gw-1".to_owned(), Kind::Kill);
        let flush = ("flush Redis".to_owned(), Kind::Flush);
        assert!(!report.needs(std::slice::from_ref(&kill), &options));
        assert!(report.needs(&[kill.clone(), flush.clone()], &options));
        let done = [kill, flush].map(|(what, kind)| (what, kind, Ok("gone".to_owned())));
        report.add(Instant::now(), done.into(), Some(Duration::ZERO));
        assert!(report.has_enough(&options, &kinds));
    }

    #[test]
    fn what_did_not_recover_fails_the_run() {
        let mut report = report(&[("kill gw-1", Kind::Kill, 5)]);
        let done = vec![("kill gw-1".to_owned(), Kind::Kill, Ok("gone".to_owned()))];
        report.add(Instant::now(), done, None);
        let options = Line::parse_from(["chaos"]).options;
        assert!(report.has_failed() && report.conclude(&options, &[Kind::Kill]).is_err());
    }
}
