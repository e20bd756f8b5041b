//! Planted bugs: the program `roost-planted` leaves out one rule that `roost` keeps, and each has to be found by the checks that judge every
//! fault test.
//!
//! * An attack is the smallest set of faults that the rule is there for. The ordinary program has to survive it (the control) before each of
//!   the bugs that it is to find is looked for with the very same attack.
//! * One cluster's services serve all of it; processes of Roost are started anew for every run, and its users are new.
//! * A loss counts as found when nothing but the digest of a later heartbeat repairs it: a bug is judged [`PATIENCE_BUG`] after the last
//!   message, a control, whose runs end when everybody has everything, only after [`PATIENCE_CONTROL`].

mod attacks;
mod two_sessions;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use roost_loadtest::checker::{Check, Verdict};
use roost_loadtest::scenario::{Conductor, chat};

use crate::cluster::Cluster;
use crate::plan::Shape;
use attacks::{Attack, Scene};

/// Which bug `roost-planted` has.
const VARIABLE: &str = "ROOST_PLANTED_BUG";
/// Below the 45 s after which a client's heartbeat asks whether the last message was lost.
const PATIENCE_BUG: Duration = Duration::from_secs(12);
/// Beyond them.
const PATIENCE_CONTROL: Duration = Duration::from_secs(75);
/// Everybody is online, and messages flow.
const STARTED_ACKS: u64 = 200;
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// How a bug shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The checker names this violation.
    Broken(Check, &'static str),
    /// The attack misses what has to happen meanwhile.
    Missed(&'static str),
}

/// A bug, the attack that provokes it, and how it shows.
#[derive(Debug)]
struct Case {
    bug: &'static str,
    attack: Attack,
    sign: Sign,
}

/// In the order of attacks, so that each control is needed once. The last one leaves a database without its unique index.
const CASES: [Case; 9] = [
    Case {
        bug: "ack-before-commit",
        attack: Attack::StoreDiesInCommit,
        sign: Sign::Broken(Check::C1, "acknowledged_lost"),
    },
    Case {
        bug: "auto-ack",
        attack: Attack::LogicDiesBeforePush,
        sign: Sign::Broken(Check::C1, "acknowledged_unseen"),
    },
    Case {
        bug: "no-mandatory",
        attack: Attack::GatewayAway,
        sign: Sign::Missed(attacks::NOT_TOLD),
    },
    Case {
        bug: "drop-on-slow-consumer",
        attack: Attack::SlowReaders,
        sign: Sign::Broken(Check::C1, "acknowledged_unseen"),
    },
    Case {
        bug: "delete-route-on-close",
        attack: Attack::UsersMove,
        sign: Sign::Broken(Check::C1, "acknowledged_unseen"),
    },
    Case {
        bug: "fetch-before-subscribe",
        attack: Attack::UsersMove,
        sign: Sign::Broken(Check::C1, "acknowledged_unseen"),
    },
    Case {
        bug: "accept-stale-epoch",
        attack: Attack::TwoSessions,
        sign: Sign::Broken(Check::C7, "sender_order_broken"),
    },
    Case {
        bug: "skip-dedupe",
        attack: Attack::AnswersLost,
        sign: Sign::Broken(Check::C2, "seen_though_refused"),
    },
    Case {
        bug: "skip-dedupe",
        attack: Attack::AnswersLostWithoutIndex,
        sign: Sign::Broken(Check::C3, "sequenced_twice"),
    },
];

/// What a run showed.
#[derive(Debug)]
struct Judged {
    verdict: Verdict,
    /// What has to happen during the attack, and did not.
    missed: Vec<&'static str>,
    /// Beside the checker's findings.
    failures: Vec<String>,
    took: Duration,
}

impl Judged {
    fn shows(&self, sign: Sign) -> bool {
        match sign {
            Sign::Broken(check, name) => {
                self.verdict.violations.iter().any(|v| v.check == check && v.name == name)
            }
            Sign::Missed(what) => self.missed.contains(&what),
        }
    }

    fn is_clean(&self) -> bool {
        self.verdict.is_pass() && self.missed.is_empty() && self.failures.is_empty()
    }

    /// One line for people.
    fn summary(&self) -> String {
        let counts = self.verdict.counts;
        let broken = self.verdict.violations.iter();
        let broken = broken.map(|v| format!("{:?} {} x {}", v.check, v.count, v.name));
        let missed = self.missed.iter().map(|what| (*what).to_owned());
        let all: Vec<String> = broken.chain(missed).chain(self.failures.iter().cloned()).collect();
        format!(
            "{} messages, {:.1} s: {}",
            counts.sent,
            self.took.as_secs_f64(),
            if all.is_empty() { "clean".to_owned() } else { all.join("; ") }
        )
    }
}

/// Looks for every bug of the program `planted`, or for those named `only`; `roost` has to survive what finds them.
///
/// # Errors
/// What was not found, or what the ordinary program did not survive.
pub fn run(roost: &Path, planted: &Path, shape: &Shape, only: Option<&str>) -> Result<()> {
    super::partition::remove_leftovers();
    let folder = super::scratch_folder()?;
    let mut cluster = Cluster::start(shape, folder.path(), roost, &mut |line| println!("{line}"))?;
    let failures = hunt(&mut cluster, (roost, planted), only);
    drop(cluster);
    match failures {
        Ok(failures) if failures.is_empty() => Ok(()),
        Ok(failures) => {
            bail!("{}\nlogs are kept in {}", failures.join("\n"), folder.keep().display())
        }
        Err(error) => Err(error.context(format!("logs are kept in {}", folder.keep().display()))),
    }
}

/// What was not as it has to be.
fn hunt(
    cluster: &mut Cluster,
    (roost, planted): (&Path, &Path),
    only: Option<&str>,
) -> Result<Vec<String>> {
    let mut failures = Vec::new();
    let mut survived = None;
    for case in CASES.iter().filter(|case| only.is_none_or(|only| case.bug == only)) {
        if survived != Some(case.attack) {
            let control = play(cluster, roost, case.attack, None)?;
            println!("{:?} | control | {}", case.attack, control.summary());
            if !control.is_clean() {
                failures.push(format!("{:?}, control: {}", case.attack, control.verdict));
            }
            survived = Some(case.attack);
        }
        let judged = play(cluster, planted, case.attack, Some(case.bug))?;
        println!("{:?} | {} | {}", case.attack, case.bug, judged.summary());
        if !judged.shows(case.sign) {
            failures.push(format!("{} is not found as {:?}", case.bug, case.sign));
        }
    }
    Ok(failures)
}

/// One attack on `program`.
fn play(
    cluster: &mut Cluster,
    program: &Path,
    attack: Attack,
    bug: Option<&str>,
) -> Result<Judged> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut variables: Vec<_> = attack.variables().iter().copied().map(own).collect();
    variables.extend(bug.map(|bug| own((VARIABLE, bug))));
    cluster.restart_all_as(program, &variables)?;
    let begin = Instant::now();
    if attack == Attack::TwoSessions {
        let verdict = two_sessions::play(cluster)?;
        let (missed, failures) = (Vec::new(), Vec::new());
        return Ok(Judged { verdict, missed, failures, took: begin.elapsed() });
    }
    let prepared = attack.prepare(cluster)?;
    let patience = if bug.is_some() { PATIENCE_BUG } else { PATIENCE_CONTROL };
    let conductor = Arc::<Conductor>::default();
    let options = attacks::load(&cluster.client_file(), attack, patience)?;
    let (users, directed) = (options.users, Arc::clone(&conductor));
    let load = std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || chat::run_with(options, &directed))?;
    let mut scene = Scene { cluster, conductor: &conductor, load: &load, missed: Vec::new() };
    let acted = scene
        .wait(STARTED_WITHIN, "the load starts", |scene| scene.conductor.acked() >= STARTED_ACKS)
        .and_then(|()| attack.act(&mut scene));
    let missed = std::mem::take(&mut scene.missed);
    conductor.end();
    let run = load.join().map_err(|_| anyhow!("the load panicked"))?;
    drop(prepared);
    acted.with_context(|| format!("{attack:?} with {bug:?}"))?;
    let run = run?;
    let verdict = run.verdict.context("nothing was judged")?;
    let mut failures = run.failures;
    if verdict.counts.settled < u64::from(users) {
        failures.push(format!("{} of {users} users were there", verdict.counts.settled));
    }
    ensure!(verdict.counts.acked >= STARTED_ACKS, "the run proves little");
    Ok(Judged { verdict, missed, failures, took: begin.elapsed() })
}
