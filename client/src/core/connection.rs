//! One connection after the other: credentials, addresses, handshake, and what to do when a connection ends.
//!
//! ```text
//!            start              socket open           CONNECTED
//!  Stopped --------> Connecting -----------> Handshaking -----> Online
//!     ^               ^      |                    |               |
//!     | never         |      +--------------------+---------------+
//!     | again         |                  end of the connection
//!     |               | due                       |
//!     +---------------+--- Waiting <--------------+
//!     |               |                           |
//!     |               +--- NeedToken <------------+
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_protocol::close_reason::Reconnect;
use roost_protocol::frame::connect::Connected;
use roost_protocol::{CloseReason, Decoder};

use super::backoff;
use super::config::{Config, Tuning};
use super::event::{Disconnect, NextStep};

/// Where the client stands.
#[derive(Debug)]
pub(crate) enum State {
    /// Not started, closed, or ended for good.
    Stopped,
    /// Without a credential.
    NeedToken,
    /// Until the next attempt.
    Waiting { at: Instant },
    /// The owner of the sockets opens one.
    Connecting { deadline: Instant },
    /// CONNECT is to be sent, or was.
    Handshaking { deadline: Instant, connect_sent: bool, by_resume: bool },
    /// A session.
    Online(Session),
}

/// Clocks of a session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) began: Instant,
    /// SENDs that may be unanswered.
    pub(crate) window: usize,
    heartbeat_interval: Duration,
    last_sent: Instant,
    /// Something was sent that wants an answer, and nothing arrived since.
    awaiting_since: Option<Instant>,
    ping_unanswered: bool,
    /// One PING goes out then, whatever was sent meanwhile.
    digest_at: Option<Instant>,
    /// The server asked to leave.
    pub(crate) leave_at: Option<Instant>,
}

impl Session {
    fn new(now: Instant, connected: &Connected<'_>, rng: &mut fastrand::Rng) -> Self {
        // Below the server's idle timeout by a fifth at least, and spread, so that heartbeats do not come in waves.
        let interval = Duration::from_millis(u64::from(connected.heartbeat_interval_ms.max(1000)));
        let idle = Duration::from_millis(u64::from(connected.idle_timeout_ms.max(1500)));
        let interval = interval.min(idle.mul_f64(0.8));
        Self {
            began: now,
            window: usize::from(connected.inflight_sends_max.max(1)),
            heartbeat_interval: interval.mul_f64(0.9 + 0.1 * rng.f64()),
            last_sent: now,
            awaiting_since: None,
            ping_unanswered: false,
            digest_at: None,
            leave_at: None,
        }
    }

    /// Bytes arrived; `awaiting`: some answer is still due.
    pub(crate) fn on_received(&mut self, now: Instant, awaiting: bool) {
        self.awaiting_since = (awaiting || self.ping_unanswered).then_some(now);
    }

    /// Bytes leave; `awaiting`: some answer is due.
    pub(crate) fn on_sent(&mut self, now: Instant, awaiting: bool) {
        self.last_sent = now;
        if awaiting {
            self.awaiting_since.get_or_insert(now);
        }
    }

    /// Messages flow: their last one may get lost unseen.
    pub(crate) fn on_traffic(&mut self, now: Instant, tuning: &Tuning) {
        self.digest_at = Some(now + tuning.digest_delay);
    }

    pub(crate) fn on_pong(&mut self) {
        self.ping_unanswered = false;
    }

    fn ping_due(&self, tuning: &Tuning) -> Instant {
        let mut due = self.last_sent + self.heartbeat_interval;
        if let Some(digest) = self.digest_at {
            due = due.min(digest);
        }
        match self.awaiting_since {
            Some(_) if self.ping_unanswered => due,
            Some(since) => due.min(since + tuning.silence_timeout / 2),
            None => due,
        }
    }

    /// Whether a PING leaves now; it counts as sent.
    pub(crate) fn take_ping(&mut self, now: Instant, tuning: &Tuning) -> bool {
        if self.ping_due(tuning) > now {
            return false;
        }
        self.digest_at = None;
        self.ping_unanswered = true;
        self.on_sent(now, true);
        true
    }

    fn silent_at(&self, tuning: &Tuning) -> Option<Instant> {
        self.awaiting_since.map(|since| since + tuning.silence_timeout)
    }
}

/// The connection, its credentials and addresses.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) state: State,
    pub(crate) decoder: Decoder,
    pub(crate) session_epoch: u64,
    pub(crate) resume_token: String,
    token: Option<String>,
    /// The access token was given after the present session began.
    token_is_new: bool,
    addresses: Box<[Arc<str>]>,
    address_at: usize,
    redirect: Option<Arc<str>>,
    redirects: u8,
    /// Failures in a row: connections without a session, and sessions that ended soon for another reason than a lost socket.
    attempts: u32,
    /// CONNECTs that were given up without an answer. Each may still be on its way, arrive after a later one, and supersede its session.
    strays: u32,
}

/// What proves who we are, in the next CONNECT.
pub(crate) enum Proof<'a> {
    Token(&'a str),
    Resume(&'a str),
}

/// What a timer calls for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Connect,
    Disconnect(Disconnect),
}

impl Link {
    pub(crate) fn new(config: &mut Config) -> Self {
        Self {
            state: State::Stopped,
            decoder: Decoder::new(),
            session_epoch: config.saved.session_epoch,
            resume_token: std::mem::take(&mut config.saved.resume_token),
            token: config.token.take(),
            token_is_new: true,
            addresses: std::mem::take(&mut config.addresses).into(),
            address_at: 0,
            redirect: None,
            redirects: 0,
            attempts: 0,
            strays: 0,
        }
    }

    pub(crate) fn session(&mut self) -> Option<&mut Session> {
        match &mut self.state {
            State::Online(session) => Some(session),
            State::Stopped
            | State::NeedToken
            | State::Waiting { .. }
            | State::Connecting { .. }
            | State::Handshaking { .. } => None,
        }
    }

    /// Whether there is a socket, or one is being opened.
    pub(crate) fn has_socket(&self) -> bool {
        match self.state {
            State::Stopped | State::NeedToken | State::Waiting { .. } => false,
            State::Connecting { .. } | State::Handshaking { .. } | State::Online(_) => true,
        }
    }

    pub(crate) fn proof(&self) -> Option<Proof<'_>> {
        if !self.resume_token.is_empty() {
            return Some(Proof::Resume(&self.resume_token));
        }
        self.token.as_deref().map(Proof::Token)
    }

    pub(crate) fn set_token(&mut self, token: String) {
        self.token = Some(token);
        self.token_is_new = true;
    }

    /// Where to connect now; `None`: a token is needed first.
    pub(crate) fn begin_connect(&mut self, now: Instant, tuning: &Tuning) -> Option<Arc<str>> {
        if self.proof().is_none() {
            self.state = State::NeedToken;
            return None;
        }
        self.decoder = Decoder::new();
        self.state = State::Connecting { deadline: now + tuning.connect_timeout };
        let listed = || self.addresses[self.address_at % self.addresses.len()].clone();
        Some(self.redirect.clone().unwrap_or_else(listed))
    }

    /// The socket is open.
    pub(crate) fn on_socket_open(&mut self, now: Instant, tuning: &Tuning) {
        if matches!(self.state, State::Connecting { .. }) {
            let by_resume = matches!(self.proof(), Some(Proof::Resume(_)));
            let deadline = now + tuning.connect_timeout;
            self.state = State::Handshaking { deadline, connect_sent: false, by_resume };
        }
    }

    /// CONNECTED arrived.
    pub(crate) fn on_connected(
        &mut self,
        now: Instant,
        connected: &Connected<'_>,
        rng: &mut fastrand::Rng,
    ) {
        self.session_epoch = self.session_epoch.max(connected.session_epoch);
        connected.resume_token.clone_into(&mut self.resume_token);
        self.redirects = 0;
        self.token_is_new = false;
        self.decoder.set_connected();
        self.state = State::Online(Session::new(now, connected, rng));
    }

    /// The one place that ends a connection: decides what follows and enters that state.
    pub(crate) fn end(
        &mut self,
        now: Instant,
        reason: &Disconnect,
        retry_after: Duration,
        tuning: &Tuning,
        rng: &mut fastrand::Rng,
    ) -> NextStep {
        let (leave_at, by_resume) = self.leave_behind(now, reason, tuning);
        let next = match reason {
            Disconnect::OtherUser(_) | Disconnect::Closed => NextStep::Stopped,
            Disconnect::Redirected(address) if self.redirects < tuning.redirects_max => {
                self.redirects += 1;
                self.redirect = Some(address.clone());
                NextStep::Reconnect(now)
            }
            Disconnect::SessionOver => {
                let jitter = backoff::full_jitter(rng, tuning.reconnect_delay / 4);
                NextStep::Reconnect(leave_at.unwrap_or(now + jitter))
            }
            Disconnect::ByServer { reason, .. } => match reason.reconnect() {
                // Not a failure: another key after a restart, or too long away. The access token is tried at once.
                Reconnect::NewToken if by_resume => {
                    self.resume_token.clear();
                    self.token.as_ref().map_or(NextStep::NeedToken, |_| NextStep::Reconnect(now))
                }
                Reconnect::NewToken => {
                    self.resume_token.clear();
                    if !std::mem::take(&mut self.token_is_new)
                        || matches!(reason, CloseReason::BadToken)
                    {
                        self.token = None;
                    }
                    self.reconnect_or_ask(now, tuning, rng)
                }
                Reconnect::Never if *reason == CloseReason::Superseded && self.strays > 0 => {
                    self.strays -= 1;
                    self.reconnect(now, retry_after, leave_at, tuning, rng)
                }
                Reconnect::Never => NextStep::Stopped,
                Reconnect::Backoff => self.reconnect(now, retry_after, leave_at, tuning, rng),
            },
            Disconnect::Redirected(_)
            | Disconnect::Lost
            | Disconnect::ConnectFailed
            | Disconnect::ConnectTimeout
            | Disconnect::Silent
            | Disconnect::Protocol(_) => {
                self.redirect = None;
                self.address_at = self.address_at.wrapping_add(1);
                self.reconnect(now, retry_after, leave_at, tuning, rng)
            }
        };
        self.state = match next {
            NextStep::Reconnect(at) => State::Waiting { at },
            NextStep::NeedToken => State::NeedToken,
            NextStep::Stopped => State::Stopped,
        };
        next
    }

    /// What the ending connection leaves: when GO_AWAY allowed to come back, and whether CONNECT used a resume token.
    fn leave_behind(
        &mut self,
        now: Instant,
        reason: &Disconnect,
        tuning: &Tuning,
    ) -> (Option<Instant>, bool) {
        self.decoder = Decoder::new();
        match &self.state {
            State::Online(session) => {
                let was_stable =
                    now.saturating_duration_since(session.began) >= tuning.stable_session;
                // A session that only lost its socket had succeeded: the server, or the way to it, went away, and is tried
                // soon. One that was refused or faulty as soon as it began may be so again.
                if was_stable || *reason == Disconnect::Lost {
                    self.attempts = 0;
                }
                (session.leave_at, false)
            }
            State::Handshaking { by_resume, connect_sent, .. } => {
                let is_unanswered = matches!(reason, Disconnect::Lost | Disconnect::ConnectTimeout);
                self.strays += u32::from(*connect_sent && is_unanswered);
                (None, *by_resume)
            }
            State::Stopped
            | State::NeedToken
            | State::Waiting { .. }
            | State::Connecting { .. } => (None, false),
        }
    }

    fn reconnect(
        &mut self,
        now: Instant,
        retry_after: Duration,
        leave_at: Option<Instant>,
        tuning: &Tuning,
        rng: &mut fastrand::Rng,
    ) -> NextStep {
        let bound =
            backoff::exponential(tuning.reconnect_delay, self.attempts, tuning.reconnect_delay_max);
        self.attempts = self.attempts.saturating_add(1);
        let at = now + retry_after + backoff::full_jitter(rng, bound);
        NextStep::Reconnect(leave_at.map_or(at, |leave_at| at.max(leave_at)))
    }

    fn reconnect_or_ask(
        &mut self,
        now: Instant,
        tuning: &Tuning,
        rng: &mut fastrand::Rng,
    ) -> NextStep {
        if self.proof().is_none() {
            return NextStep::NeedToken;
        }
        self.reconnect(now, Duration::ZERO, None, tuning, rng)
    }

    /// What the clock calls for.
    pub(crate) fn due(&self, now: Instant, tuning: &Tuning) -> Option<Due> {
        match &self.state {
            State::Stopped | State::NeedToken => None,
            State::Waiting { at } => (*at <= now).then_some(Due::Connect),
            State::Connecting { deadline } | State::Handshaking { deadline, .. } => {
                (*deadline <= now).then_some(Due::Disconnect(Disconnect::ConnectTimeout))
            }
            State::Online(session) => {
                if session.leave_at.is_some_and(|at| at <= now) {
                    return Some(Due::Disconnect(Disconnect::SessionOver));
                }
                let silent = session.silent_at(tuning).is_some_and(|at| at <= now);
                silent.then_some(Due::Disconnect(Disconnect::Silent))
            }
        }
    }

    /// When `due`, or a PING, has something next.
    pub(crate) fn next_deadline(&self, tuning: &Tuning) -> Option<Instant> {
        match &self.state {
            State::Stopped | State::NeedToken => None,
            State::Waiting { at } => Some(*at),
            State::Connecting { deadline } | State::Handshaking { deadline, .. } => Some(*deadline),
            State::Online(session) => {
                let ping = session.ping_due(tuning);
                let others = [session.leave_at, session.silent_at(tuning)];
                Some(others.into_iter().flatten().fold(ping, Instant::min))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use roost_protocol::UserId;

    use super::*;

    /// Sessions that each end after a second for `reason`: the upper bound of the waits between them, in seconds.
    #[track_caller]
    fn check(reason: &Disconnect, wait_max_s: std::ops::RangeInclusive<u64>) {
        let mut config = Config::new("alice", "phone", "server:7401", 1);
        config.token = Some("token".to_owned());
        let tuning = Tuning::default();
        let mut rng = fastrand::Rng::with_seed(5);
        let mut link = Link::new(&mut config);
        let connected = Connected {
            session_epoch: 1,
            user_id: UserId::new("alice").unwrap(),
            gateway: "gw",
            resume_token: "resume",
            server_time_ms: 0,
            heartbeat_interval_ms: 240_000,
            idle_timeout_ms: 300_000,
            inflight_sends_max: 64,
            frame_bytes_max: 65_536,
            body_bytes_max: 16_384,
        };
        let mut now = Instant::now();
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            assert!(link.begin_connect(now, &tuning).is_some());
            link.on_socket_open(now, &tuning);
            link.on_connected(now, &connected, &mut rng);
            now += Duration::from_secs(1);
            let next = link.end(now, reason, Duration::ZERO, &tuning, &mut rng);
            let NextStep::Reconnect(at) = next else { panic!("{next:?}") };
            longest = longest.max(at - now);
            now = at;
        }
        assert!(wait_max_s.contains(&longest.as_secs()), "{longest:?}");
    }

    /// CONNECTs that end for `reasons` before they are answered, then sessions that are superseded: how often the client comes back.
    #[track_caller]
    fn check_superseded(reasons: &[Disconnect], comebacks: usize) {
        let mut config = Config::new("alice", "phone", "server:7401", 1);
        config.token = Some("token".to_owned());
        let (tuning, mut rng) = (Tuning::default(), fastrand::Rng::with_seed(5));
        let mut link = Link::new(&mut config);
        let now = Instant::now();
        let mut end = |link: &mut Link, reason: &Disconnect| {
            let next = link.end(now, reason, Duration::ZERO, &tuning, &mut rng);
            matches!(next, NextStep::Reconnect(_))
        };
        for reason in reasons {
            let deadline = now + tuning.connect_timeout;
            link.state = State::Handshaking { deadline, connect_sent: true, by_resume: false };
            assert!(end(&mut link, reason), "{reason:?}");
        }
        let reason = CloseReason::Superseded;
        let superseded = Disconnect::ByServer { reason, detail: "".into() };
        for _ in 0..comebacks {
            assert!(end(&mut link, &superseded));
        }
        assert!(!end(&mut link, &superseded), "another one took over");
    }

    #[test]
    fn a_connect_of_its_own_that_comes_late_ends_no_client() {
        let draining = Disconnect::ByServer { reason: CloseReason::Draining, detail: "".into() };
        check_superseded(&[], 0);
        check_superseded(&[draining], 0);
        check_superseded(&[Disconnect::ConnectTimeout], 1);
        check_superseded(&[Disconnect::Lost, Disconnect::ConnectTimeout], 2);
    }

    #[test]
    fn a_server_that_was_lost_is_tried_again_soon_one_that_closes_is_not() {
        check(&Disconnect::Lost, 0..=0);
        let reason = CloseReason::RateLimited;
        check(&Disconnect::ByServer { reason, detail: "".into() }, 15..=29);
        check(&Disconnect::Protocol(CloseReason::BadPayload), 15..=29);
    }
}
