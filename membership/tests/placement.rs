//! Placement is balanced by weight, and a change of membership moves only the users it has to.

use std::collections::BTreeMap;

use proptest::prelude::*;
use roost_membership::ring::{Member, Ring};

fn members(weights: &[u16]) -> Vec<Member> {
    let member = |(i, weight): (usize, &u16)| Member {
        name: format!("gateway-{i}").into(),
        address: format!("10.0.0.{i}:7401").into(),
        weight: *weight,
    };
    weights.iter().enumerate().map(member).collect()
}

fn ring(members: Vec<Member>) -> Ring {
    Ring::new(members).expect("valid members")
}

fn owners(ring: &Ring, users: usize) -> Vec<String> {
    let users: Vec<String> = (0..users).map(|i| format!("user{i}")).collect();
    let owners = ring.owners("demo", users.iter().map(String::as_str));
    owners.into_iter().map(|o| o.map_or(String::new(), |m| m.name.to_string())).collect()
}

/// Each count is within six standard deviations of its share.
#[track_caller]
fn check_balance(weights: &[u16], users: usize) {
    let mut counts = BTreeMap::<String, usize>::new();
    for owner in owners(&ring(members(weights)), users) {
        *counts.entry(owner).or_default() += 1;
    }
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum::<f64>().max(1.0);
    for (i, weight) in weights.iter().enumerate() {
        let share = f64::from(*weight) / total;
        let expected = share * users as f64;
        let deviation = (expected * (1.0 - share)).sqrt();
        let count = counts.get(&format!("gateway-{i}")).copied().unwrap_or(0) as f64;
        let allowed = 6.0 * deviation + 0.002 * expected + 1.0;
        assert!(
            (count - expected).abs() <= allowed,
            "gateway-{i} of weight {weight} has {count} users instead of {expected:.0} ({weights:?})"
        );
    }
}

#[test]
fn equal_members_get_equal_shares() {
    check_balance(&[1; 3], 100_000);
    check_balance(&[1; 30], 100_000);
    check_balance(&[1; 300], 100_000);
}

#[test]
fn shares_follow_weights() {
    check_balance(&[1, 2, 4, 8], 200_000);
    check_balance(&[1000, 1, 0, 500], 200_000);
    let mixed: Vec<u16> = (0..100).map(|i| 1 + i % 7).collect();
    check_balance(&mixed, 200_000);
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(prop_oneof![Just(1u16), 0u16..=10, 0u16..=1000], 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn balance_holds_for_any_weights(weights in weights()) {
        check_balance(&weights, 4000);
    }

    #[test]
    fn a_change_of_one_member_moves_only_its_users(
        weights in weights(),
        changed in any::<prop::sample::Index>(),
        weight in 0u16..=1000,
    ) {
        let changed = changed.index(weights.len());
        let mut after = weights.clone();
        after[changed] = weight;
        let name = format!("gateway-{changed}");
        let pairs = owners(&ring(members(&weights)), 2000).into_iter()
            .zip(owners(&ring(members(&after)), 2000));
        for (before, now) in pairs {
            if before != now {
                let expected = if weight > weights[changed] { &now } else { &before };
                prop_assert_eq!(expected, &name);
            }
        }
    }

    #[test]
    fn a_member_that_leaves_is_the_only_one_to_lose(
        weights in weights(),
        gone in any::<prop::sample::Index>(),
    ) {
        let all = members(&weights);
        let gone = gone.index(all.len());
        let mut rest = all.clone();
        let name = rest.remove(gone).name;
        rest.reverse();
        let pairs = owners(&ring(all), 2000).into_iter().zip(owners(&ring(rest), 2000));
        for (before, now) in pairs {
            prop_assert!(before == now || *before == *name);
            prop_assert_ne!(&*now, &*name);
        }
    }
}
