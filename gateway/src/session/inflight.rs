//! Which questions of a connection are unanswered: the window of sends, and where an answer belongs.
//!
//! Allocated only while something is in flight. A question repeated under its correlation keeps its place: a client that asks
//! again after a timeout does not run out of window. Only 0 may be used several times at a time (clients that
//! identify sends by their `client_msg_id` alone): each answer takes one. An answer to nothing is reported as such, so that repeats from a
//! bus that delivers at least once do not reach the client as news.
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

    /// Takes a place among at most `max` questions of this sort.
    pub fn ask(
        &mut self,
        question: Question,
        correlation: u16,
        max: u16,
        now_ms: u32,
    ) -> Result<(), WindowFull> {
        let again = |a: &Asked| a.correlation == correlation && a.question == question;
        if correlation != 0
            && let Some(position) = self.asked.iter().position(again)
        {
            self.asked.remove(position);
        }
        if self.asked.len() >= usize::from(max) && self.count(question) >= usize::from(max) {
            self.expire(now_ms);
            if self.count(question) >= usize::from(max) {
                return Err(WindowFull);
            }
        }
        self.asked.push(Asked { at_ms: now_ms, correlation, question });
        Ok(())
    }

    /// Gives the place back; false when this was not asked, or is answered already.
    pub fn answer(&mut self, question: Question, correlation: u16) -> bool {
        let position = self
            .asked
            .iter()
            .position(|asked| asked.correlation == correlation && asked.question == question);
        if let Some(position) = position {
            self.asked.remove(position);
            if self.asked.is_empty() {
                self.asked = Vec::new();
            }
        }
        position.is_some()
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

    #[test]
    fn the_window_is_per_sort() {
        let mut inflight = Inflight::default();
        for correlation in 0..64 {
            assert_eq!(inflight.ask(Question::Send, correlation, 64, 0), Ok(()));
        }
        assert_eq!(inflight.ask(Question::Send, 64, 64, 0), Err(WindowFull));
        assert_eq!(inflight.ask(Question::Request, 64, 64, 0), Ok(()));
        assert!(inflight.answer(Question::Send, 5));
        assert_eq!(inflight.ask(Question::Send, 65, 64, 0), Ok(()));
    }

    #[test]
    fn each_answer_takes_one() {
        let mut inflight = Inflight::default();
        inflight.ask(Question::Send, 0, 64, 0).unwrap();
        inflight.ask(Question::Send, 0, 64, 0).unwrap();
        assert!(!inflight.answer(Question::Request, 0));
        assert!(inflight.answer(Question::Send, 0));
        assert!(inflight.answer(Question::Send, 0));
        assert!(!inflight.answer(Question::Send, 0));
        assert!(inflight.is_empty());
    }

    #[test]
    fn a_repeated_question_keeps_its_place() {
        let mut inflight = Inflight::default();
        assert_eq!(inflight.ask(Question::Send, 7, 1, 0), Ok(()));
        assert_eq!(inflight.ask(Question::Send, 7, 1, 3_000), Ok(()));
        assert_eq!(inflight.ask(Question::Send, 8, 1, 3_000), Err(WindowFull));
        assert!(inflight.answer(Question::Send, 7));
        assert!(!inflight.answer(Question::Send, 7));
    }

    #[test]
    fn lost_answers_do_not_fill_the_window_for_ever() {
        let mut inflight = Inflight::default();
        let start = u32::MAX - 10;
        inflight.ask(Question::Send, 1, 1, start).unwrap();
        assert_eq!(inflight.ask(Question::Send, 2, 1, start.wrapping_add(29_999)), Err(WindowFull));
        assert_eq!(inflight.ask(Question::Send, 2, 1, start.wrapping_add(30_000)), Ok(()));
        assert!(!inflight.answer(Question::Send, 1));
    }
}
