//! When messages are to be sent: an open loop, decided before the run and deaf to the server.
//!
//! A schedule is a rule and a seed, so two runs offer the same load. The pacer is a thread that
//! sleeps until the next intended time and hands it to the worker of the sending user; a worker or
//! pacer that is late shows as generator lag, never as fewer messages.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::clock::RunClock;

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Independent of each other, as from many people: bursts are part of the load.
    Poisson,
    /// One every 1/rate seconds.
    Constant,
}

/// One message to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, in microseconds of the run's clock.
    pub intended_us: u64,
    /// Number of the sending user.
    pub sender: u32,
    /// Number of the receiving user.
    pub receiver: u32,
}

impl Arrival {
    /// Size on the way from pacer to worker.
    pub const BYTES: usize = 16;

    /// For the way.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.intended_us.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.sender.to_le_bytes());
        bytes[12..].copy_from_slice(&self.receiver.to_le_bytes());
        bytes
    }

    /// The reverse of what the pacer writes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *bytes;
        let [i, j, k, l, m, n, o, p] = rest;
        Self {
            intended_us: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sender: u32::from_le_bytes([i, j, k, l]),
            receiver: u32::from_le_bytes([m, n, o, p]),
        }
    }
}

/// Who sends to whom and when.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    interval_us: f64,
    users: u32,
    end_us: f64,
    at_us: f64,
    start_us: u64,
    random: fastrand::Rng,
}

impl Schedule {
    /// `rate` messages a second for `duration`, from `start_us` on, among `users` users who stand
    /// in a ring and write to their neighbours: as many conversations as users.
    #[must_use]
    pub fn new(
        arrivals: Arrivals,
        rate: f64,
        duration: Duration,
        users: u32,
        (start_us, seed): (u64, u64),
    ) -> Self {
        Self {
            arrivals,
            interval_us: 1e6 / rate,
            users,
            end_us: duration.as_micros() as f64,
            at_us: 0.0,
            start_us,
            random: fastrand::Rng::with_seed(seed),
        }
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        self.at_us += match self.arrivals {
            Arrivals::Constant => self.interval_us,
            // The inverse of the exponential distribution's function.
            Arrivals::Poisson => -(1.0 - self.random.f64()).ln() * self.interval_us,
        };
        let sender = self.random.u32(0..self.users);
        let step = if self.random.bool() { 1 } else { self.users - 1 };
        (self.at_us <= self.end_us).then(|| Arrival {
            intended_us: self.start_us + self.at_us as u64,
            sender,
            receiver: (sender + step) % self.users,
        })
    }
}

/// Hands each arrival at its time to the worker of its sender, who owns `users_per_worker` users
/// in a row; returns how many there were. The workers see the end of their streams then.
///
/// # Errors
/// When a worker is gone.
pub fn pace(
    schedule: Schedule,
    clock: RunClock,
    users_per_worker: u32,
    mut workers: Vec<UnixStream>,
    mut is_stopped: impl FnMut() -> bool,
) -> io::Result<u64> {
    let mut schedule = schedule.peekable();
    let mut batches = vec![Vec::new(); workers.len()];
    let mut offered = 0;
    while let Some(next) = schedule.peek().filter(|_| !is_stopped()) {
        let now_us = clock.now_us();
        if next.intended_us > now_us {
            std::thread::sleep(Duration::from_micros(next.intended_us - now_us));
            continue;
        }
        while let Some(due) = schedule.next_if(|arrival| arrival.intended_us <= now_us) {
            batches[(due.sender / users_per_worker) as usize].extend(due.to_bytes());
            offered += 1;
        }
        for (worker, batch) in workers.iter_mut().zip(&mut batches) {
            worker.write_all(batch)?;
            batch.clear();
        }
    }
    Ok(offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(arrivals: Arrivals) -> Vec<Arrival> {
        Schedule::new(arrivals, 1000.0, Duration::from_secs(20), 10, (5_000, 1)).collect()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced() {
        let all = schedule(Arrivals::Constant);
        assert_eq!(all.len(), 20_000);
        assert!(all.windows(2).all(|w| w[1].intended_us - w[0].intended_us == 1_000));
        assert_eq!(all[0].intended_us, 6_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let all = schedule(Arrivals::Poisson);
        assert!((19_400..20_600).contains(&all.len()), "{}", all.len());
        let gaps: Vec<f64> =
            all.windows(2).map(|w| (w[1].intended_us - w[0].intended_us) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // An exponential distribution's deviation is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.1);
    }

    #[test]
    fn neighbours_write_to_each_other_and_nobody_to_itself() {
        for users in [2, 3, 10] {
            let all: Vec<_> =
                Schedule::new(Arrivals::Constant, 1000.0, Duration::from_secs(1), users, (0, 3))
                    .collect();
            assert!(all.iter().all(|a| a.sender != a.receiver && a.receiver < users));
        }
    }

    #[test]
    fn the_pacer_is_never_early_and_sends_everything() {
        let clock = RunClock::start();
        let (to_worker, mut worker) = UnixStream::pair().unwrap();
        let schedule = Schedule::new(
            Arrivals::Poisson,
            5000.0,
            Duration::from_millis(100),
            4,
            (clock.now_us(), 7),
        );
        let expected: Vec<Arrival> = schedule.clone().collect();
        let pacer = std::thread::spawn(move || pace(schedule, clock, 4, vec![to_worker], || false));
        let mut received = Vec::new();
        let mut bytes = [0; Arrival::BYTES];
        while io::Read::read_exact(&mut worker, &mut bytes).is_ok() {
            let arrival = Arrival::from_bytes(&bytes);
            assert!(clock.now_us() >= arrival.intended_us);
            received.push(arrival);
        }
        assert_eq!(pacer.join().unwrap().unwrap(), expected.len() as u64);
        assert_eq!(received, expected);
    }
}
