//! Which of several databases has what: the only place that knows.
//!
//! ```text
//! conversation, its messages, send cursors, watermarks   by the hash of (app, conversation)
//! user, password, refresh tokens, inbox, device cursors  by the hash of (app, user)
//! ```
//! Both are the hashes that choose a partition of the bus, scaled to another number: when the number of partitions is a multiple of the
//! number of databases, all conversations of a partition are in one database, and so are the inboxes of all users of one.
//!
//! For ever: rows are where these functions put them. Another number of databases, or another hash, is another [`VERSION`] or count in
//! the table `installation`, and is refused.

use roost_protocol::topology::StableHash;

/// Of the functions below.
pub(crate) const VERSION: u16 = 1;
/// Most databases of an installation. Each has its share of the 1024 worker ids.
pub(crate) const DATABASES_MAX: usize = 64;

/// Over this many databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) databases: usize,
}

impl Placement {
    /// As an index.
    pub(crate) fn of_conversation(self, app: &str, conversation: &str) -> usize {
        self.of(app, b"/", conversation)
    }

    /// As an index.
    pub(crate) fn of_user(self, app: &str, user: &str) -> usize {
        self.of(app, b"/u:", user)
    }

    fn of(self, app: &str, kind: &[u8], name: &str) -> usize {
        let mut hash = StableHash::new();
        for part in [app.as_bytes(), kind, name.as_bytes()] {
            hash.write(part);
        }
        // Multiply-shift, as for partitions: smaller than the count.
        let index = (u128::from(hash.finish()) * self.databases as u128) >> 64;
        usize::try_from(index).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roost_protocol::id::ConversationId;
    use roost_protocol::topology::Partition;

    use super::*;

    #[test]
    fn stable_for_ever() {
        let three = Placement { databases: 3 };
        let users = ["alice", "bob", "carol", "dave"].map(|user| three.of_user("demo", user));
        let conversations = ["s:alice:bob", "s:bob:carol", "s:carol:dave", "g:team"]
            .map(|conversation| three.of_conversation("demo", conversation));
        // Frozen: a change would lose everything that is stored.
        assert_eq!((users, conversations), ([0, 0, 2, 1], [1, 2, 0, 1]));
    }

    proptest! {
        /// Whatever the names look like, each database gets its share.
        #[test]
        fn databases_are_even(databases in 1..=16_usize, app in "[a-z]{1,8}", name in "[A-Za-z0-9._@-]{0,12}", first in 0..1_000_000_u32) {
            const NAMES: u32 = 4_000;
            let placement = Placement { databases };
            let mut users = vec![0_u32; databases];
            let mut conversations = vec![0_u32; databases];
            for number in first..first + NAMES {
                users[placement.of_user(&app, &format!("{name}{number}"))] += 1;
                conversations[placement.of_conversation(&app, &format!("s:{name}{number}:z"))] += 1;
            }
            let share = NAMES / u32::try_from(databases).unwrap();
            // Six standard deviations of a fair draw.
            let most = 6 * share.isqrt() + 6;
            for count in users.iter().chain(&conversations) {
                prop_assert!(count.abs_diff(share) <= most, "{users:?} {conversations:?}");
            }
        }

        /// A partition is in one database when their numbers divide.
        #[test]
        fn partitions_stay_together(databases in 1..=8_usize, a in "[a-z]{1,9}", b in "[a-z]{1,9}") {
            let (a, b) = if a < b { (a, b) } else { (b, a) };
            let text = format!("s:{a}:{b}");
            let conversation = ConversationId::parse(&text).unwrap();
            let each = 4;
            let partitions = u16::try_from(databases).unwrap() * each;
            let placement = Placement { databases };
            let found = placement.of_conversation("demo", &text);
            let partition = Partition::of_conversation("demo", &conversation, partitions);
            prop_assert_eq!(found, usize::from(partition.0 / each));
            let partition = Partition::of_user("demo", &a, partitions);
            prop_assert_eq!(placement.of_user("demo", &a), usize::from(partition.0 / each));
        }
    }
}
