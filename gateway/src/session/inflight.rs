//! Which questions of a connection are unanswered: the window of sends, and where an answer belongs.
//!
//! Allocated only while something is in flight. A question repeated under its correlation keeps its place: a client that asks
//! again after a timeout does not run out of window. Only 0 may be used several times at a time (clients that
//! identify sends by their `client_msg_id` alone): each answer takes one. An answer to nothing is reported as such, so that repeats from a
//! bus that delivers at least once do not reach the client as news.
//!
//! A repeat joins the question that is on its way, and is not passed on, until that one is overdue by the time answers take
//! now ([`AnswerTime`]): under overload, repeats would be the load that keeps logic from answering.
//!
//! An answer can be lost with a logic worker that was given up. Such a place is taken back after [`ANSWER_TIMEOUT_MS`], long
//! after the client asked again by its own clock.

/// After this long a place in the window is free again, answered or not.
pub const ANSWER_TIMEOUT_MS: u32 = 30_000;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// SEND, answered by SEND_ACK or SEND_REFUSED.
    Send,
    /// REQUEST, answered by RESPONSE.
    Request,
}

/// What a question that was asked is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A new one.
    New,
    /// A repeat of one whose answer is overdue.
    Overdue,
    /// A repeat of one that is on its way: nothing to do.
    Joined,
}

/// The window has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowFull;

#[derive(Clone, Copy, Debug)]
struct Asked {
    at_ms: u32,
    correlation: u16,
    question: Question,
}

const _: () = assert!(size_of::<Asked>() == 8);

/// How long answers take now: an average over about the last eight.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerTime {
    eight_times_ms: u32,
}

impl AnswerTime {
    /// A question was answered after this long.
    pub fn add(&mut self, ms: u32) {
        self.eight_times_ms =
            self.eight_times_ms - self.eight_times_ms / 8 + ms.min(ANSWER_TIMEOUT_MS);
    }

    /// Whether a question this old should have been answered.
    fn is_overdue(self, age_ms: u32) -> bool {
        age_ms >= self.eight_times_ms / 4
    }
}

/// The unanswered questions, oldest first.
#[derive(Debug, Default)]
pub struct Inflight {
    asked: Vec<Asked>,
}

impl Inflight {
    /// Whether nothing is unanswered.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Unanswered questions of one sort.
    pub fn count(&self, question: Question) -> usize {
        self.asked.iter().filter(|asked| asked.question == question).count()
    }

    /// Takes a place among at most `max` questions of this sort, or finds the one it has.
    pub fn ask(
        &mut self,
        question: Question,
        correlation: u16,
        max: u16,
        (now_ms, answer_time): (u32, AnswerTime),
    ) -> Result<Ask, WindowFull> {
        let again = |a: &Asked| a.correlation == correlation && a.question == question;
        if correlation != 0
            && let Some(position) = self.asked.iter().position(again)
        {
            if !answer_time.is_overdue(now_ms.wrapping_sub(self.asked[position].at_ms)) {
                return Ok(Ask::Joined);
            }
            self.asked.remove(position);
            self.asked.push(Asked { at_ms: now_ms, correlation, question });
            return Ok(Ask::Overdue);
        }
        if self.asked.len() >= usize::from(max) && self.count(question) >= usize::from(max) {
            self.expire(now_ms);
            if self.count(question) >= usize::from(max) {
                return Err(WindowFull);
            }
        }
        self.asked.push(Asked { at_ms: now_ms, correlation, question });
        Ok(Ask::New)
    }

    /// Gives the place back, and when it was taken; `None` when this was not asked, or is answered already.
    pub fn answer(&mut self, question: Question, correlation: u16) -> Option<u32> {
        let position = self
            .asked
            .iter()
            .position(|asked| asked.correlation == correlation && asked.question == question)?;
        let at_ms = self.asked.remove(position).at_ms;
        if self.asked.is_empty() {
            self.asked = Vec::new();
        }
        Some(at_ms)
    }

    /// When the oldest question was asked.
    pub fn oldest_ms(&self) -> Option<u32> {
        self.asked.first().map(|asked| asked.at_ms)
    }

    /// Takes back the places of questions that are too old; how many.
    pub fn expire(&mut self, now_ms: u32) -> usize {
        let before = self.asked.len();
        self.asked.retain(|asked| now_ms.wrapping_sub(asked.at_ms) < ANSWER_TIMEOUT_MS);
        if self.asked.is_empty() {
            self.asked = Vec::new();
        }
        before - self.asked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        inflight: &mut Inflight,
        correlation: u16,
        max: u16,
        now_ms: u32,
    ) -> Result<Ask, WindowFull> {
        inflight.ask(Question::Send, correlation, max, (now_ms, AnswerTime::default()))
    }

    #[test]
    fn the_window_is_per_sort() {
        let mut inflight = Inflight::default();
        for correlation in 0..64 {
            assert_eq!(ask(&mut inflight, correlation, 64, 0), Ok(Ask::New));
        }
        assert_eq!(ask(&mut inflight, 64, 64, 0), Err(WindowFull));
        let now = (0, AnswerTime::default());
        assert_eq!(inflight.ask(Question::Request, 64, 64, now), Ok(Ask::New));
        assert_eq!(inflight.answer(Question::Send, 5), Some(0));
        assert_eq!(ask(&mut inflight, 65, 64, 0), Ok(Ask::New));
    }

    #[test]
    fn each_answer_takes_one() {
        let mut inflight = Inflight::default();
        ask(&mut inflight, 0, 64, 7).unwrap();
        ask(&mut inflight, 0, 64, 8).unwrap();
        assert_eq!(inflight.answer(Question::Request, 0), None);
        assert_eq!(inflight.answer(Question::Send, 0), Some(7));
        assert_eq!(inflight.answer(Question::Send, 0), Some(8));
        assert_eq!(inflight.answer(Question::Send, 0), None);
        assert!(inflight.is_empty());
    }

    #[test]
    fn a_repeated_question_keeps_its_place() {
        let mut inflight = Inflight::default();
        assert_eq!(ask(&mut inflight, 7, 1, 0), Ok(Ask::New));
        assert_eq!(ask(&mut inflight, 7, 1, 3_000), Ok(Ask::Overdue));
        assert_eq!(ask(&mut inflight, 8, 1, 3_000), Err(WindowFull));
        assert_eq!(inflight.answer(Question::Send, 7), Some(3_000));
        assert_eq!(inflight.answer(Question::Send, 7), None);
    }

    #[test]
    fn a_repeat_joins_while_answers_take_as_long() {
        let mut time = AnswerTime::default();
        (0..50).for_each(|_| time.add(4_000));
        let mut inflight = Inflight::default();
        let mut ask = |now_ms| inflight.ask(Question::Send, 7, 64, (now_ms, time));
        assert_eq!(ask(0), Ok(Ask::New));
        assert_eq!(ask(3_000), Ok(Ask::Joined));
        assert_eq!(ask(9_000), Ok(Ask::Overdue));
        assert_eq!(ask(12_000), Ok(Ask::Joined), "counted from the last one passed on");
        assert_eq!(inflight.count(Question::Send), 1);
        (0..50).for_each(|_| time.add(2));
        assert_eq!(inflight.ask(Question::Send, 7, 64, (12_100, time)), Ok(Ask::Overdue));
    }

    #[test]
    fn lost_answers_do_not_fill_the_window_for_ever() {
        let mut inflight = Inflight::default();
        let start = u32::MAX - 10;
        ask(&mut inflight, 1, 1, start).unwrap();
        assert_eq!(ask(&mut inflight, 2, 1, start.wrapping_add(29_999)), Err(WindowFull));
        assert_eq!(ask(&mut inflight, 2, 1, start.wrapping_add(30_000)), Ok(Ask::New));
        assert_eq!(inflight.answer(Question::Send, 1), None);
    }
}
