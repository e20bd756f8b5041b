//! Figures beside their goals, and the table that says which were missed. All goals here are upper bounds.

use std::fmt;

use anyhow::{Result, ensure};

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    /// Times what it is compared with.
    Ratio,
    Count,
}

/// One measured figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// What it was measured at.
    pub(crate) subject: String,
    pub(crate) what: String,
    /// `None`: too few samples, or it never came to that.
    pub(crate) measured: Option<f64>,
    /// Smallest and largest of several rounds.
    pub(crate) range: Option<(f64, f64)>,
    pub(crate) unit: Unit,
    /// `None`: for information.
    pub(crate) must: Option<f64>,
    pub(crate) stretch: Option<f64>,
}

impl Figure {
    /// One measurement, without a goal.
    pub(crate) fn new(subject: &str, what: &str, unit: Unit, measured: Option<f64>) -> Self {
        let (subject, what) = (subject.to_owned(), what.to_owned());
        Self { subject, what, measured, range: None, unit, must: None, stretch: None }
    }

    /// The median of several rounds; `None` when one of them has no figure.
    pub(crate) fn of_rounds(subject: &str, what: &str, unit: Unit, rounds: &[Option<f64>]) -> Self {
        let mut sorted: Vec<f64> = rounds.iter().copied().flatten().collect();
        sorted.sort_by(f64::total_cmp);
        let is_complete = !rounds.is_empty() && sorted.len() == rounds.len();
        let range = sorted.first().copied().zip(sorted.last().copied());
        let median = is_complete.then(|| sorted[sorted.len() / 2]);
        Self { range, ..Self::new(subject, what, unit, median) }
    }

    /// It has to be at most this.
    pub(crate) fn must(self, most: f64) -> Self {
        Self { must: Some(most), ..self }
    }

    /// It should be at most this.
    pub(crate) fn stretch(self, most: f64) -> Self {
        Self { stretch: Some(most), ..self }
    }

    /// Stays in the table and is not judged.
    pub(crate) fn unjudged(self) -> Self {
        Self { must: None, stretch: None, ..self }
    }

    fn is_within(&self, most: f64) -> bool {
        self.measured.is_some_and(|measured| measured <= most)
    }

    pub(crate) fn is_missed(&self) -> bool {
        self.must.is_some_and(|most| !self.is_within(most))
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Milliseconds => format!("{value:.1} ms"),
            Unit::Ratio => format!("{value:.2}x"),
            Unit::Count => format!("{value:.0}"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goal = |most: Option<f64>| most.map_or_else(|| "-".to_owned(), |m| self.shown(m));
        let mut measured =
            self.measured.map_or_else(|| "not measured".to_owned(), |value| self.shown(value));
        if let Some((least, most)) = self.range {
            measured = format!("{measured} ({}..{})", self.shown(least), self.shown(most));
        }
        let judged = match (self.must, self.stretch) {
            (None, _) => "",
            (Some(_), _) if self.is_missed() => "MISSED",
            (Some(_), Some(stretch)) if self.is_within(stretch) => "stretch met",
            (Some(_), _) => "met",
        };
        write!(
            f,
            "{:<18} {:<58} {measured:>32} {:>9} {:>9}  {judged}",
            self.subject,
            self.what,
            goal(self.must),
            goal(self.stretch)
        )
    }
}

/// Prints the table; fails when a must is missed.
pub(crate) fn conclude(figures: &[Figure]) -> Result<()> {
    println!("\n{:<18} {:<58} {:>32} {:>9} {:>9}", "at", "what", "measured", "must", "stretch");
    figures.iter().for_each(|figure| println!("{figure}"));
    let missed = figures.iter().filter(|figure| figure.is_missed()).count();
    ensure!(missed == 0, "{missed} of {} goals were missed", figures.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rounds: &[Option<f64>], measured: Option<f64>, is_missed: bool) {
        let figure = Figure::of_rounds("gw-1", "p99", Unit::Milliseconds, rounds).must(25.0);
        assert_eq!((figure.measured, figure.is_missed()), (measured, is_missed), "{figure}");
        assert_eq!(conclude(&[figure]).is_err(), is_missed);
    }

    #[test]
    fn a_goal_is_judged_by_the_median_and_missed_without_a_figure() {
        check(&[Some(30.0), Some(10.0), Some(20.0)], Some(20.0), false);
        check(&[Some(25.1)], Some(25.1), true);
        check(&[Some(1.0), None], None, true);
        check(&[], None, true);
    }

    #[test]
    fn what_has_no_goal_is_not_missed() {
        let figure = Figure::new("gw-1", "p99", Unit::Ratio, None).must(2.0);
        assert!(figure.is_missed() && !figure.unjudged().is_missed());
    }
}
