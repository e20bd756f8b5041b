//! What a network and a server may do to a client, and how often.

/// How likely each fault is, in 1/1000, where it may strike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lose_send: u32,
    pub(crate) lose_answer: u32,
    pub(crate) lose_delivery: u32,
    pub(crate) repeat_delivery: u32,
    pub(crate) busy: u32,
    pub(crate) cut: u32,
    pub(crate) refuse_connect: u32,
    pub(crate) restart: u32,
    pub(crate) go_away: u32,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        lose_send: 0,
        lose_answer: 0,
        lose_delivery: 0,
        repeat_delivery: 0,
        busy: 0,
        cut: 0,
        refuse_connect: 0,
        restart: 0,
        go_away: 0,
    };
    pub(crate) const LOSSY: Self = Self {
        lose_send: 20,
        lose_answer: 20,
        lose_delivery: 30,
        repeat_delivery: 30,
        busy: 20,
        cut: 3,
        refuse_connect: 100,
        restart: 0,
        go_away: 1,
    };
    pub(crate) const HOSTILE: Self = Self {
        lose_send: 120,
        lose_answer: 120,
        lose_delivery: 200,
        repeat_delivery: 150,
        busy: 150,
        cut: 15,
        refuse_connect: 300,
        restart: 10,
        go_away: 5,
    };
}
