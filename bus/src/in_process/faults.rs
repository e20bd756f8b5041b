//! Faults that the in-process bus injects on demand: what a broker does in its worst hours, drawn from a seed.

use std::time::Duration;

/// What goes wrong, for each direction. The same seed and the same order of publishes give the same faults.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// Start of the random numbers.
    pub seed: u64,
    /// Gateways to logic.
    pub inbound: FaultRates,
    /// Logic to gateways.
    pub outbound: FaultRates,
}

/// Shares of the published bodies, 0.0 to 1.0, each drawn on its own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FaultRates {
    /// Confirmed and then lost, as by a purge.
    pub lose: f64,
    /// Not taken, and the publisher learns that the outcome is unknown.
    pub refuse: f64,
    /// Taken, but the publisher learns that the outcome is unknown.
    pub lose_confirm: f64,
    /// Delivered twice: at once, or after the next body of the same queue.
    pub repeat: f64,
    /// Held back for up to `delay_max`. Inbound: with the whole partition, whose order stays. Outbound: alone, so that later
    /// bodies overtake it.
    pub delay: f64,
    /// Longest delay.
    pub delay_max: Duration,
}

/// When the second copy of a repeated body is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    AtOnce,
    AfterNext,
}

/// The faults of one body.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Draw {
    pub(super) is_lost: bool,
    pub(super) is_refused: bool,
    pub(super) is_confirm_lost: bool,
    pub(super) repeat: Option<Repeat>,
    pub(super) hold: Option<Duration>,
}

/// Draws the faults of each body; without rates it draws nothing.
#[derive(Debug, Default)]
pub(super) struct FaultSource {
    active: Option<(FaultRates, fastrand::Rng)>,
}

impl FaultSource {
    pub(super) fn new(seed: u64, rates: FaultRates) -> Self {
        let is_active = rates != FaultRates::default();
        Self { active: is_active.then(|| (rates, fastrand::Rng::with_seed(seed))) }
    }

    pub(super) fn draw(&mut self) -> Draw {
        let Some((rates, rng)) = &mut self.active else { return Draw::default() };
        let mut hit = |rate: f64| rng.f64() < rate;
        let (is_lost, is_refused) = (hit(rates.lose), hit(rates.refuse));
        let (is_confirm_lost, is_repeated) = (hit(rates.lose_confirm), hit(rates.repeat));
        let (is_held, is_at_once) = (hit(rates.delay), hit(0.5));
        let repeat = if is_at_once { Repeat::AtOnce } else { Repeat::AfterNext };
        let hold = rates.delay_max.mul_f64(rng.f64());
        Draw {
            is_lost,
            is_refused,
            is_confirm_lost,
            repeat: is_repeated.then_some(repeat),
            hold: is_held.then_some(hold),
        }
    }
}
