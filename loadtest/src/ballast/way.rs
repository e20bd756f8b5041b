//! Where a connection of the ballast goes next, and when: as the client's core decides it.
//!
//! A redirect is followed at once. What was lost or refused is tried at the next gateway after a random part of a bound that doubles with
//! each failure.

use std::net::SocketAddrV4;
use std::time::Duration;

use roost_client::core::config::Tuning;

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Refused or lost; the text says why.
    Failed(String),
    /// The user belongs to the gateway at this address.
    Redirected(String),
}

/// The way of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// Position of the gateway in turn, before it is taken modulo their number.
    turn: u32,
    redirect: Option<SocketAddrV4>,
    redirects: u8,
    failures: u8,
}

impl Way {
    /// Begins at another gateway for each number.
    pub(super) fn new(number: u64) -> Self {
        Self { turn: number as u32, ..Self::default() }
    }

    /// The gateway to connect to; `targets` are all, at least one.
    pub(super) fn target(&self, targets: &[SocketAddrV4]) -> SocketAddrV4 {
        self.redirect.unwrap_or_else(|| targets[self.turn as usize % targets.len()])
    }

    /// Sent elsewhere; false when it was sent around too often.
    pub(super) fn follow(&mut self, target: SocketAddrV4, tuning: &Tuning) -> bool {
        self.redirect = Some(target);
        self.redirects = self.redirects.saturating_add(1);
        self.redirects <= tuning.redirects_max
    }

    /// Logged in.
    pub(super) fn arrive(&mut self) {
        (self.redirects, self.failures) = (0, 0);
    }

    /// To the next gateway, after a random part of this.
    pub(super) fn turn_around(&mut self, tuning: &Tuning) -> Duration {
        let doubled =
            tuning.reconnect_delay * 2_u32.saturating_pow(u32::from(self.failures).min(16));
        self.failures = self.failures.saturating_add(1);
        self.turn = self.turn.wrapping_add(1);
        (self.redirect, self.redirects) = (None, 0);
        doubled.min(tuning.reconnect_delay_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways() -> [SocketAddrV4; 2] {
        ["10.0.0.1:7401", "10.0.0.2:7401"].map(|address| address.parse().unwrap())
    }

    #[test]
    fn connections_begin_at_every_gateway_and_fail_over_to_the_next() {
        let (all, tuning) = (gateways(), Tuning::default());
        let mut way = Way::new(0);
        assert_eq!((way.target(&all), Way::new(1).target(&all)), (all[0], all[1]));
        let bounds: Vec<Duration> = (0..7).map(|_| way.turn_around(&tuning)).collect();
        assert_eq!(bounds[..3], [1, 2, 4].map(Duration::from_secs));
        assert_eq!(bounds[6], tuning.reconnect_delay_max);
        assert_eq!(way.target(&all), all[1]);
        way.arrive();
        assert_eq!(way.turn_around(&tuning), tuning.reconnect_delay);
    }

    #[test]
    fn a_redirect_is_followed_until_it_leads_nowhere() {
        let (all, tuning) = (gateways(), Tuning::default());
        let mut way = Way::new(0);
        assert!(way.follow(all[1], &tuning));
        assert_eq!(way.target(&all), all[1]);
        // The way back to a gateway that refuses leads past it.
        way.turn_around(&tuning);
        way.turn_around(&tuning);
        assert_eq!(way.target(&all), all[0]);
        let followed = (0..10).take_while(|_| way.follow(all[1], &tuning)).count();
        assert_eq!(followed, usize::from(tuning.redirects_max));
    }
}
