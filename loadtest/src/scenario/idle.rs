//! `idle`: how many connections a server holds, how fast they log in, what they cost.
//!
//! Memory by connection is the slope of the server's private memory over the levels of the ramp,
//! each read after a quiet time: never the total over the count.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Result, bail};

use super::{RAMP_PATIENCE_US, Stage, add_ballast};
use crate::ballast::BallastCounters;
use crate::options::Idle;
use crate::run::{Outcome, Run};

/// Fewer levels give no slope.
const LEVELS_MIN: usize = 4;

/// Ramps up, holds, reports.
///
/// # Errors
/// When the server cannot be reached or lets nobody in.
pub fn run(options: Idle) -> Result<Outcome> {
    let mut stage = Stage::set(options.common)?;
    let count = options.connections;
    let ballast = stage.ballast(count)?;
    let counters = Arc::clone(ballast.counters());
    let (mut levels, mut ramp_us) = (Vec::new(), 0);
    for step in 1..=options.steps {
        ramp_us += ramp_to(&mut stage, &counters, count * step / options.steps);
        hold(&mut stage, &counters, options.settle, "settling");
        let held = counters.held.load(Relaxed);
        levels.extend(stage.server_private_bytes().map(|bytes| (held as f64, bytes as f64)));
    }
    let connected = counters.connected.load(Relaxed);
    if connected > 0 {
        hold(&mut stage, &counters, options.hold, "holding");
    }
    let result = ballast.finish()?;
    if connected == 0 {
        let reasons: Vec<&str> = result.failures.keys().map(String::as_str).collect();
        let why = if reasons.is_empty() { "no answer".to_owned() } else { reasons.join("; ") };
        bail!("not one of {count} connections could log in: {why}");
    }
    let mut run = Run {
        scenario: "idle",
        summary: format!("{count} connections held for {} s", options.hold),
        connect_rate: connected as f64 / (ramp_us.max(1) as f64 / 1e6),
        bytes_per_connection: slope(&levels),
        ..Run::default()
    };
    add_ballast(&mut run, count, &result);
    stage.finish(run).map(|run| run.outcome())
}

/// Returns how long it took until the last login, in microseconds.
fn ramp_to(stage: &mut Stage, counters: &BallastCounters, level: u64) -> u64 {
    let start_us = stage.clock.now_us();
    counters.raise_to(level, start_us);
    let (mut progress, mut progress_us) = (0, start_us);
    while !counters.is_ramped(level) && !counters.is_broken() {
        let held = counters.held.load(Relaxed);
        stage.tick(held, format!("connecting: {held} of {level}"));
        let settled = counters.connected.load(Relaxed) + counters.failed.load(Relaxed);
        let now_us = stage.clock.now_us();
        if settled > progress {
            (progress, progress_us) = (settled, now_us);
        } else if now_us - progress_us > RAMP_PATIENCE_US {
            break;
        }
    }
    counters.last_connected_us.load(Relaxed).saturating_sub(start_us)
}

fn hold(stage: &mut Stage, counters: &BallastCounters, seconds: u64, what: &str) {
    let end_us = stage.clock.now_us() + seconds * 1_000_000;
    while stage.clock.now_us() < end_us && !counters.is_broken() {
        let held = counters.held.load(Relaxed);
        let left_s = end_us.saturating_sub(stage.clock.now_us()) / 1_000_000;
        stage.tick(held, format!("{what}: {held} connections, {left_s} s left"));
    }
}

/// Of the line with the least squared distance to the points.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < LEVELS_MIN {
        return None;
    }
    let n = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let joint: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    (spread > 0.0).then(|| joint / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_needs_four_levels_and_ignores_the_base() {
        let line = |n: f64| (n, 1e9 + 200.0 * n);
        let points: Vec<_> = [1e3, 2e3, 3e3, 4e3].map(line).to_vec();
        assert!((slope(&points).unwrap() - 200.0).abs() < 1e-3);
        assert_eq!(slope(&points[..3]), None);
        assert_eq!(slope(&[line(5.0); 4]), None);
    }
}
