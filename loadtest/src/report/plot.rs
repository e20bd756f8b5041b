//! Line charts as inline SVG. Colours come from the page's style, so that they fit light and dark.

use std::fmt::Write;

use super::format::escape;

const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;

/// How values become places on an axis.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
}

/// One axis: its range, and where it has labels.
pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) title: &'static str,
}

impl Axis {
    /// Where a value lies between 0 and 1.
    fn place(&self, value: f64) -> f64 {
        let (low, high, value) = match self.scale {
            Scale::Linear => (self.min, self.max, value),
            Scale::Logarithmic => (self.min.ln(), self.max.ln(), value.max(f64::MIN_POSITIVE).ln()),
        };
        ((value - low) / (high - low).max(f64::EPSILON)).clamp(0.0, 1.0)
    }

    /// From 0 to at least `max`, with round steps.
    pub(super) fn linear(max: f64, title: &'static str, label: impl Fn(f64) -> String) -> Self {
        let rough = max.max(1.0) / 5.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let fits = [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|step| step * magnitude);
        let step = fits.filter(|step| *step >= rough * 0.999).fold(f64::MAX, f64::min);
        let steps = (max.max(1.0) / step).ceil();
        let ticks = (0..=steps as u32).map(|n| f64::from(n) * step);
        Self {
            scale: Scale::Linear,
            min: 0.0,
            max: step * steps,
            ticks: ticks.map(|at| (at, label(at))).collect(),
            title,
        }
    }

    /// Powers of ten around `min` to `max`; their third steps when there are few.
    pub(super) fn logarithmic(
        (min, max): (f64, f64),
        title: &'static str,
        label: impl Fn(f64) -> String,
    ) -> Self {
        let (low, high) = (min.max(1.0).log10().floor(), max.max(2.0).log10().ceil());
        let high = if high > low { high } else { low + 1.0 };
        let decades = (low as i32)..=(high as i32);
        let mut ticks: Vec<f64> = decades.map(|n| 10f64.powi(n)).collect();
        if high - low <= 2.0 {
            let between: Vec<f64> = ticks.iter().flat_map(|t| [t * 2.0, t * 5.0]).collect();
            ticks.extend(between.into_iter().filter(|t| *t < 10f64.powf(high)));
        }
        Self {
            scale: Scale::Logarithmic,
            min: 10f64.powf(low),
            max: 10f64.powf(high),
            ticks: ticks.into_iter().map(|at| (at, label(at))).collect(),
            title,
        }
    }
}

/// A line; with `lower` also the area between it and that line.
pub(super) struct Series {
    pub(super) name: &'static str,
    /// Class of the page's style: `s1` to `s3`.
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) lower: Option<Vec<(f64, f64)>>,
    /// What a reader sees when pointing at a point.
    pub(super) hint: fn(f64, f64) -> String,
}

/// A figure with its caption and legend.
pub(super) fn figure(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    draw_figure(title, false, (x, y), series)
}

/// The same over the whole width of the page.
pub(super) fn wide_figure(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    draw_figure(title, true, (x, y), series)
}

fn draw_figure(title: &str, is_wide: bool, (x, y): (&Axis, &Axis), series: &[Series]) -> String {
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<figure{}><figcaption>{}{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{}\">",
        if is_wide { " class=\"wide-figure\"" } else { "" },
        escape(title),
        legend(series),
        escape(title)
    );
    grid(&mut svg, x, y);
    for line in series {
        draw(&mut svg, x, y, line);
    }
    svg.push_str("</svg></figure>");
    svg
}

fn legend(series: &[Series]) -> String {
    let keys: Vec<String> = series
        .iter()
        .map(|s| format!("<span class=\"key {}\"><i></i>{}</span>", s.class, escape(s.name)))
        .collect();
    format!("<span class=\"legend\">{}</span>", keys.join(""))
}

fn across(x: &Axis, value: f64) -> f64 {
    LEFT + x.place(value) * (WIDTH - LEFT - RIGHT)
}

fn up(y: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)
}

fn grid(svg: &mut String, x: &Axis, y: &Axis) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for (value, label) in &y.ticks {
        let at = up(y, *value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            escape(label)
        );
    }
    for (value, label) in &x.ticks {
        let at = across(x, *value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 17.0,
            escape(label)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"axis\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text class=\"axis\" transform=\"translate(13 {:.1}) rotate(-90)\" \
         text-anchor=\"middle\">{}</text>",
        HEIGHT - 6.0,
        escape(x.title),
        f64::midpoint(TOP, bottom),
        escape(y.title)
    );
}

fn path(x: &Axis, y: &Axis, points: &[(f64, f64)]) -> String {
    let places = points.iter().map(|(a, b)| format!("{:.1},{:.1}", across(x, *a), up(y, *b)));
    places.collect::<Vec<_>>().join(" ")
}

fn draw(svg: &mut String, x: &Axis, y: &Axis, series: &Series) {
    let Series { class, points, lower, hint, .. } = series;
    if let Some(lower) = lower {
        let back: Vec<(f64, f64)> = lower.iter().rev().copied().collect();
        let _ = write!(
            svg,
            "<polygon class=\"band {class}\" points=\"{} {}\"/>",
            path(x, y, points),
            path(x, y, &back)
        );
    }
    let _ = write!(svg, "<polyline class=\"line {class}\" points=\"{}\"/>", path(x, y, points));
    if let [only] = points.as_slice() {
        let (cx, cy) = (across(x, only.0), up(y, only.1));
        let _ =
            write!(svg, "<circle class=\"dot {class}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"/>");
    }
    for (a, b) in points {
        let _ = write!(
            svg,
            "<circle class=\"hit\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"><title>{}</title></circle>",
            across(x, *a),
            up(y, *b),
            escape(&hint(*a, *b))
        );
    }
}
