//! So many requests per address and minute. IPv6 addresses count by their /64: one customer has at least that.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;

use super::problem::{Code, Problem};

/// Addresses remembered within one minute; beyond, everybody new is refused until the next.
const ADDRESSES_MAX: usize = 100_000;

#[derive(Debug)]
pub(crate) struct RateLimit {
    per_minute: u32,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    minute: u64,
    counts: HashMap<IpAddr, u32>,
}

impl RateLimit {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute, window: Mutex::default() }
    }

    /// Counts one request.
    pub(crate) fn check(&self, address: IpAddr, now_s: u64) -> Result<(), Problem> {
        let mut window = self.window.lock();
        if window.minute != now_s / 60 {
            *window = Window { minute: now_s / 60, counts: HashMap::new() };
        }
        let address = network(address);
        let is_full = window.counts.len() >= ADDRESSES_MAX && !window.counts.contains_key(&address);
        let count = if is_full { u32::MAX } else { *window.counts.entry(address).or_default() };
        if count >= self.per_minute {
            let problem = Problem::new(Code::RateLimited, "too many logins from this address");
            return Err(problem.retry_after_s(60 - now_s % 60));
        }
        window.counts.insert(address, count + 1);
        Ok(())
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(
            || IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
            IpAddr::V4,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_minute() {
        let limit = RateLimit::new(2);
        let check = |address: &str, now_s| limit.check(address.parse().unwrap(), now_s).is_ok();
        assert_eq!(
            [check("1.2.3.4", 60), check("1.2.3.4", 61), check("1.2.3.4", 62)],
            [true, true, false]
        );
        assert!(check("1.2.3.5", 62));
        assert!(check("1.2.3.4", 120));
        assert_eq!(
            [check("2001::1", 120), check("2001::2", 120), check("2001::3", 120)],
            [true, true, false]
        );
    }
}
