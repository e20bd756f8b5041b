//! kill -9 of one of two gateways with very many connections: who was there moves to the other one, and who is at the other one hardly notices.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use roost_loadtest::histogram::LatencyHistogram;
use roost_loadtest::run::Run;
use roost_loadtest::waits::{Waits, histogram};

use super::load::Load;
use super::{Options, check_promises, ms, seconds};
use crate::cluster::{Cluster, Service};
use crate::goals::{Figure, Unit};

/// Descriptors of a ring are limited by RLIMIT_NOFILE; one gateway takes all connections in the end.
const CONNECTIONS_PER_SHARD: u64 = 16_000;
const CALM_WITHIN: Duration = Duration::from_secs(60);
/// Logins a second before the measurement.
const RAMP: u32 = 8_000;
/// Of so many connections half have to be back within two seconds and 99 % within the first limit; of more 99 % within the second.
const CONNECTIONS_FEW: u64 = 30_000;
const HALF_BACK_WITHIN: f64 = 2.0;
const BACK_WITHIN: (f64, f64) = (10.0, 15.0);
/// A gateway that had fewer than this share of what it should have proves little.
const MOVED_SHARE_MIN: f64 = 0.8;

/// Who had to move, and how long that took.
struct Moved {
    count: u64,
    back: LatencyHistogram,
}

impl Moved {
    fn of(run: &Run, fault_us: u64) -> Self {
        let (mut count, mut back) = (run.idle_lost, run.idle_back.clone());
        for absence in run.absences.iter().filter(|absence| absence.lost_us >= fault_us) {
            count += 1;
            if let Some(back_us) = absence.back_us {
                back.record(back_us - absence.lost_us);
            }
        }
        Self { count, back }
    }

    /// After how many seconds this share of all was back; `None`: never.
    fn share_back(&self, share: f64) -> Option<f64> {
        // Those that never came back are beyond every quantile of those that did.
        let quantile = share * self.count as f64 / self.back.count().max(1) as f64;
        (quantile <= 1.0).then(|| self.back.at_quantile(quantile)).flatten().map(seconds)
    }
}

pub(super) fn measure(options: &Options, folder: &Path, roost: &Path) -> Result<Vec<Figure>> {
    let mut shape = options.shape();
    shape.gateways = 2;
    let all = 2 * options.connections + u64::from(options.users);
    shape.shards = shape.shards.max(u16::try_from(all.div_ceil(CONNECTIONS_PER_SHARD))?);
    let mut cluster = Cluster::start(&shape, folder, roost, &mut |line| println!("{line}"))?;
    let further = [
        format!("--idle={}", 2 * options.connections),
        format!("--ramp={RAMP}"),
        "--reconnect".to_owned(),
    ];
    let load = Load::start(options, &cluster, &further)?;
    load.wait_calm(CALM_WITHIN).context("before the kill")?;
    let calm_us = load.clock.now_us();
    std::thread::sleep(Duration::from_secs(options.calm));
    println!("killing {}", cluster.name_of(Service::Gateway(1)));
    let fault_us = load.clock.now_us();
    cluster.kill(Service::Gateway(1));
    load.conductor.record_kill(Instant::now(), true);
    std::thread::sleep(Duration::from_secs(2 * options.away));
    let end_us = load.clock.now_us();
    let run = load.finish()?;
    check_promises(&run)?;

    let moved = Moved::of(&run, fault_us);
    ensure!(
        moved.count as f64 >= options.connections as f64 * MOVED_SHARE_MIN,
        "proves little: {} connections had to move, {} were expected",
        moved.count,
        options.connections
    );
    let waits = Waits::of(&run.history);
    let away: HashSet<&str> = run.absences.iter().map(|absence| absence.user.as_str()).collect();
    let stayed = |wait: &roost_loadtest::waits::Wait| {
        !away.contains(run.history.user_name(wait.sender).as_str())
    };
    let p99 =
        |from_us, to_us| histogram(waits.between(from_us, to_us), end_us, stayed).at_quantile(0.99);
    let (calm, after) = (p99(calm_us, fault_us), p99(fault_us, end_us));
    let ratio = calm.zip(after).map(|(calm, after)| after as f64 / calm as f64);
    let of = |what: &str, unit, measured| Figure::new("gateway killed", what, unit, measured);
    let lost = run.lost() as f64;
    let is_few = options.connections <= CONNECTIONS_FEW;
    let back_most = if is_few { BACK_WITHIN.0 } else { BACK_WITHIN.1 };
    Ok(vec![
        of("connections that had to move", Unit::Count, Some(moved.count as f64)),
        Figure {
            must: is_few.then_some(HALF_BACK_WITHIN),
            ..of("half of them back", Unit::Seconds, moved.share_back(0.5))
        },
        of("99 % of them back", Unit::Seconds, moved.share_back(0.99)).must(back_most).stretch(8.0),
        of("messages acknowledged and lost", Unit::Count, Some(lost)).must(0.0),
        of("ack p99 of users of the other one, before", Unit::Milliseconds, calm.map(ms)),
        of("ack p99 of users of the other one, over before", Unit::Ratio, ratio).must(2.0),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(count: u64, back: u64) -> Moved {
        let mut histogram = LatencyHistogram::default();
        (1..=back).for_each(|n| histogram.record(n * 1_000));
        Moved { count, back: histogram }
    }

    #[test]
    fn who_never_came_back_counts_as_slowest() {
        let all = moved(20_000, 20_000);
        assert!((all.share_back(0.5).unwrap() - 10.0).abs() < 0.1);
        assert!((all.share_back(0.99).unwrap() - 19.8).abs() < 0.1);
        let most = moved(20_000, 19_900);
        assert!((most.share_back(0.5).unwrap() - 10.0).abs() < 0.1);
        assert_eq!(moved(20_000, 19_000).share_back(0.99), None);
        assert_eq!(moved(20_000, 0).share_back(0.5), None);
    }
}
