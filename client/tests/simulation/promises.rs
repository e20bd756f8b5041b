//! What must hold when the faults have ended.

use std::collections::{BTreeSet, HashMap};

use super::world::World;

impl World {
    /// The promises.
    pub(crate) fn check(&self) {
        for d in &self.devices {
            let who = format!("{}/{}", d.user, d.device);
            assert_eq!(d.stopped, None, "{who} never stops by itself");
            assert!(d.core.is_online(), "{who} is online");
            assert_eq!(d.sends_left, 0, "{who} sent everything");
            assert_eq!(d.core.unsent(), 0, "{who}: the send queue is empty");
            for (id, place) in &d.sent {
                match place {
                    Some((conversation, seq)) => {
                        let stored = &self.logic.logs[conversation][*seq as usize - 1];
                        assert_eq!(stored.client_msg_id, *id);
                        assert!(!d.refused.contains(id));
                    }
                    None => assert!(d.refused.contains(id), "{who}: {id} is resolved"),
                }
            }
            assert_eq!(d.core.inbox_seq(), self.logic.latest_inbox_seq(d.user), "{who}: cursor");
            for (conversation, log) in &self.logic.logs {
                if conversation.split(':').skip(1).any(|member| member == d.user) {
                    let ids: Vec<_> = log.iter().map(|s| s.client_msg_id).collect();
                    assert_eq!(d.shown.get(conversation), Some(&ids), "{who}: {conversation}");
                }
            }
        }
        self.check_sender_order();
        for (connection, c) in self.connections.iter().enumerate() {
            if c.open && self.sessions.get(&c.device) == Some(&connection) {
                assert_eq!(c.acked_inbox_seq, c.delivered_inbox_seq.max(c.acked_inbox_seq));
            }
        }
        for log in self.logic.logs.values() {
            let ids: BTreeSet<_> = log.iter().map(|s| s.client_msg_id).collect();
            assert_eq!(ids.len(), log.len(), "one place per client_msg_id");
        }
    }

    fn check_sender_order(&self) {
        for d in &self.devices {
            let mut last = HashMap::new();
            for id in &d.order {
                if let Some((conversation, seq)) = &d.sent[id] {
                    let last = last.entry(conversation).or_insert(0);
                    assert!(
                        *seq > *last,
                        "{}/{}: {conversation} in the order of sending",
                        d.user,
                        d.device
                    );
                    *last = *seq;
                }
            }
        }
    }
}
