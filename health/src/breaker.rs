//! A circuit breaker: what was away a moment ago is not asked again at once, so that nobody waits for its timeout.
//!
//! ```text
//!            failures in a row                 the pause is over
//!  closed ────────────────────► open ────────────────────────────► half_open
//!    ▲                           ▲  the one question failed            │
//!    │                           └─────────────────────────────────────┤
//!    └──────────────────────── it was answered ────────────────────────┘
//! ```
//! Half open, one caller at a time asks; when it never tells what came of it, the next one may after another pause. It does not ask,
//! wait or repeat anything itself.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What is done with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Asked.
    Closed,
    /// Not asked: it failed.
    Open,
    /// One is asked, to find out.
    HalfOpen,
}

impl BreakerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in metrics, logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// See the module text.
#[derive(Debug)]
pub struct Breaker {
    name: &'static str,
    failures_max: u32,
    pause: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    opened: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { until: Instant },
}

impl Breaker {
    /// Opens after so many failures in a row, for `pause`.
    pub fn new(name: &'static str, failures_max: u32, pause: Duration) -> Self {
        let inner = Inner { state: State::Closed { failures: 0 }, opened: 0 };
        Self { name, failures_max, pause, inner: Mutex::new(inner) }
    }

    /// What it stands before.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The state at this time.
    pub fn state(&self) -> BreakerState {
        match self.inner.lock().state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether it lets nobody pass now.
    pub fn is_open(&self, now: Instant) -> bool {
        matches!(self.inner.lock().state, State::Open { until } if now < until)
    }

    /// Times it opened.
    pub fn opened(&self) -> u64 {
        self.inner.lock().opened
    }

    /// Whether to ask. Whoever asks then tells [`note`](Self::note) what came of it.
    pub fn try_pass(&self, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Closed { .. } => true,
            State::Open { until } | State::HalfOpen { until } if now < until => false,
            State::Open { .. } | State::HalfOpen { .. } => {
                inner.state = State::HalfOpen { until: now + self.pause };
                true
            }
        }
    }

    /// What came of a question.
    pub fn note(&self, now: Instant, is_well: bool) {
        let mut inner = self.inner.lock();
        let failures = match inner.state {
            State::Closed { failures } => failures + 1,
            State::Open { .. } | State::HalfOpen { .. } => self.failures_max,
        };
        let was_closed = matches!(inner.state, State::Closed { .. });
        inner.state = match (is_well, failures >= self.failures_max) {
            (true, _) => State::Closed { failures: 0 },
            (false, false) => State::Closed { failures },
            (false, true) => State::Open { until: now + self.pause },
        };
        match (was_closed, inner.state) {
            (true, State::Open { .. }) => {
                inner.opened += 1;
                tracing::warn!(breaker = self.name, "open: it is not asked for a while");
            }
            (false, State::Closed { .. }) => {
                tracing::info!(breaker = self.name, "closed: it answers again");
            }
            (true, State::Closed { .. } | State::HalfOpen { .. })
            | (false, State::Open { .. } | State::HalfOpen { .. }) => {}
        }
    }
}

/// Appends all breakers of a process in the OpenMetrics text format.
pub fn encode<'a>(breakers: impl Iterator<Item = &'a Breaker> + Clone, out: &mut String) {
    if breakers.clone().next().is_none() {
        return;
    }
    // A String takes everything.
    out.push_str(
        "# HELP roost_breaker_state 1 for the state the breaker is in.\n# TYPE roost_breaker_state gauge\n",
    );
    for breaker in breakers.clone() {
        let now = breaker.state();
        for state in BreakerState::ALL {
            let (name, value) = (breaker.name, u8::from(state == now));
            let state = state.as_str();
            _ = writeln!(
                out,
                "roost_breaker_state{{breaker=\"{name}\",state=\"{state}\"}} {value}"
            );
        }
    }
    out.push_str(
        "# HELP roost_breaker_opened Times the breaker opened.\n# TYPE roost_breaker_opened counter\n",
    );
    for breaker in breakers {
        let (name, value) = (breaker.name, breaker.opened());
        _ = writeln!(out, "roost_breaker_opened_total{{breaker=\"{name}\"}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_failures_and_one_question_closes_it() {
        let (breaker, start) = (Breaker::new("redis", 2, PAUSE), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let check = |state, passes: &[(u64, bool)]| {
            assert_eq!(breaker.state(), state);
            for (ms, expected) in passes {
                assert_eq!(breaker.try_pass(at(*ms)), *expected, "at {ms} ms");
            }
        };
        breaker.note(at(0), false);
        breaker.note(at(0), true);
        breaker.note(at(0), false);
        check(BreakerState::Closed, &[(0, true)]);
        breaker.note(at(0), false);
        check(BreakerState::Open, &[(0, false), (999, false), (1_000, true), (1_000, false)]);
        check(BreakerState::HalfOpen, &[]);
        breaker.note(at(1_100), false);
        check(BreakerState::Open, &[(2_099, false), (2_100, true), (2_101, false)]);
        // Who asked never tells: another may after a pause.
        check(BreakerState::HalfOpen, &[(3_099, false), (3_100, true)]);
        breaker.note(at(3_200), true);
        check(BreakerState::Closed, &[(3_200, true)]);
        assert_eq!(breaker.opened(), 1);
    }

    #[test]
    fn the_state_is_a_metric() {
        let breakers = [Breaker::new("one", 1, PAUSE), Breaker::new("two", 1, PAUSE)];
        breakers[1].note(Instant::now(), false);
        let mut text = String::new();
        encode(breakers.iter(), &mut text);
        for line in [
            "roost_breaker_state{breaker=\"one\",state=\"closed\"} 1",
            "roost_breaker_state{breaker=\"two\",state=\"closed\"} 0",
            "roost_breaker_state{breaker=\"two\",state=\"open\"} 1",
            "roost_breaker_state{breaker=\"two\",state=\"half_open\"} 0",
            "roost_breaker_opened_total{breaker=\"two\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert_eq!(text.matches("# TYPE").count(), 2, "one head for all breakers");
    }
}
