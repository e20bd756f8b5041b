//! When messages are to be sent: an open loop, decided before the run and deaf to the server.
//!
//! A schedule is a rule and a seed, so two runs offer the same load. The pacer is a thread that
//! sleeps until the next intended time and hands it to the worker of the sending user; a worker or
//! pacer that is late shows as generator lag, never as fewer messages.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::clock::RunClock;

/// The pacer sleeps at least so long: at high rates it hands over several arrivals at once, each at
/// most so much late, instead of waking up a worker for each.
const SLEEP_MIN: Duration = Duration::from_micros(200);

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
    /// Of nobody to nobody: only its time counts, which is the start of the schedule.
    #[must_use]
    pub const fn start(start_us: u64) -> Self {
        Self { intended_us: start_us, sender: u32::MAX, receiver: u32::MAX }
    }

    /// Whether it is the start of the schedule.
    #[must_use]
    pub const fn is_start(&self) -> bool {
        self.sender == u32::MAX
    }
}

/// The pacer's end of the way to one worker.
#[derive(Debug)]
pub struct ToWorker {
    /// Arrivals in the order of their times.
    pub arrivals: Sender<Arrival>,
    /// A byte wakes the worker up. Non-blocking: full, it is being woken up already.
    pub bell: UnixStream,
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
    mut workers: Vec<ToWorker>,
    mut is_stopped: impl FnMut() -> bool,
) -> io::Result<u64> {
    let mut schedule = schedule.peekable();
    let mut is_rung = vec![false; workers.len()];
    let mut offered = 0;
    while let Some(next) = schedule.peek().filter(|_| !is_stopped()) {
        let now_us = clock.now_us();
        if next.intended_us > now_us {
            let wait = Duration::from_micros(next.intended_us - now_us);
            std::thread::sleep(wait.max(SLEEP_MIN));
            continue;
        }
        while let Some(due) = schedule.next_if(|arrival| arrival.intended_us <= now_us) {
            let worker = (due.sender / users_per_worker) as usize;
            workers[worker].arrivals.send(due).map_err(|_| io::ErrorKind::BrokenPipe)?;
            is_rung[worker] = true;
            offered += 1;
        }
        for (worker, is_rung) in workers.iter_mut().zip(&mut is_rung) {
            if std::mem::take(is_rung)
                && let Err(e) = worker.bell.write(&[1])
                && e.kind() != io::ErrorKind::WouldBlock
            {
                return Err(e);
            }
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
        let (bell, mut rung) = UnixStream::pair().unwrap();
        bell.set_nonblocking(true).unwrap();
        let (arrivals, received) = std::sync::mpsc::channel();
        let to_worker = ToWorker { arrivals, bell };
        let schedule = Schedule::new(
            Arrivals::Poisson,
            5000.0,
            Duration::from_millis(100),
            4,
            (clock.now_us(), 7),
        );
        let expected: Vec<Arrival> = schedule.clone().collect();
        let pacer = std::thread::spawn(move || pace(schedule, clock, 4, vec![to_worker], || false));
        let mut in_time = Vec::new();
        for arrival in received {
            assert!(clock.now_us() >= arrival.intended_us);
            in_time.push(arrival);
        }
        assert_eq!(pacer.join().unwrap().unwrap(), expected.len() as u64);
        assert_eq!(in_time, expected);
        let mut rings = Vec::new();
        io::Read::read_to_end(&mut rung, &mut rings).unwrap();
        assert!((1..=expected.len()).contains(&rings.len()));
    }
}
