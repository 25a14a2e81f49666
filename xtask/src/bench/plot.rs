//! Line charts as SVG: axes, lines, a legend, and marks at times. The text of a chart is all that a
//! viewer needs; there is no script and no font in it. It knows nothing of benchmarks.

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// The part of the picture that the lines are in.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 730.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 360.0;
/// Colors of the lines, which people who do not tell red from green can tell apart, too.
const COLORS: [&str; 4] = ["#0060a8", "#d55e00", "#009e73", "#7f7f7f"];
/// Ticks of an axis that is not logarithmic, about.
const TICKS: f64 = 5.0;

/// A chart.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// Values of x with a vertical line.
    pub(super) marks: Vec<f64>,
}

#[derive(Debug)]
pub(super) struct Axis {
    pub(super) words: String,
    pub(super) is_log: bool,
    /// Says what stands at a tick.
    pub(super) tick: fn(f64) -> String,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Returns a number without needless digits.
pub(super) fn plain(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    format!("{rounded}")
}

impl Chart {
    /// Returns the chart as the text of an SVG file.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Scale::over(points().map(|point| point.0), self.x.is_log, (LEFT, RIGHT));
        let y = Scale::over(points().map(|point| point.1), self.y.is_log, (BOTTOM, TOP));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
        );
        svg += &text((LEFT + RIGHT) / 2.0, 24.0, "middle", &self.title, " font-size=\"16\"");
        svg += &self.frame(&x, &y);
        for mark in &self.marks {
            svg += &segment((x.at(*mark), TOP), (x.at(*mark), BOTTOM), "#999999");
        }
        for (position, line) in self.lines.iter().enumerate() {
            let color = COLORS[position % COLORS.len()];
            svg += &line.drawn(&x, &y, color);
            let left = LEFT + 160.0 * position as f64;
            svg += &format!("<rect x=\"{left}\" y=\"38\" width=\"12\" height=\"12\" fill=\"{color}\"/>\n");
            svg += &text(left + 18.0, 48.0, "start", &line.name, "");
        }
        svg + "</svg>\n"
    }

    /// Draws axes, ticks and their words.
    fn frame(&self, x: &Scale, y: &Scale) -> String {
        let mut svg = String::new();
        for value in x.ticks() {
            let at = x.at(value);
            svg += &segment((at, TOP), (at, BOTTOM), "#e4e4e4");
            svg += &text(at, BOTTOM + 18.0, "middle", &(self.x.tick)(value), "");
        }
        for value in y.ticks() {
            let at = y.at(value);
            svg += &segment((LEFT, at), (RIGHT, at), "#e4e4e4");
            svg += &text(LEFT - 8.0, at + 4.0, "end", &(self.y.tick)(value), "");
        }
        svg += &segment((LEFT, BOTTOM), (RIGHT, BOTTOM), "#333333");
        svg += &segment((LEFT, TOP), (LEFT, BOTTOM), "#333333");
        svg += &text((LEFT + RIGHT) / 2.0, BOTTOM + 44.0, "middle", &self.x.words, "");
        let middle = (TOP + BOTTOM) / 2.0;
        svg + &text(20.0, middle, "middle", &self.y.words, &format!(" transform=\"rotate(-90 20 {middle})\""))
    }
}

impl Line {
    fn drawn(&self, x: &Scale, y: &Scale, color: &str) -> String {
        let shown = self.points.iter().filter(|point| x.has(point.0) && y.has(point.1));
        let places: Vec<(f64, f64)> = shown.map(|point| (x.at(point.0), y.at(point.1))).collect();
        let words: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let mut svg = format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\n",
            words.join(" ")
        );
        // A few points are measurements of their own; a line of one point would not be seen.
        if places.len() <= 10 {
            for (x, y) in places {
                svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>\n");
            }
        }
        svg
    }
}

/// Where values lie in the picture.
#[derive(Debug)]
struct Scale {
    min: f64,
    max: f64,
    is_log: bool,
    /// The places of `min` and `max`.
    ends: (f64, f64),
}

impl Scale {
    /// Returns a scale that has room for all values. It begins at 0, or at a power of ten.
    fn over(values: impl Iterator<Item = f64>, is_log: bool, ends: (f64, f64)) -> Scale {
        let usable = values.filter(|value| value.is_finite() && (!is_log || *value > 0.0));
        let (low, high) = usable.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        if !is_log {
            let max = if high > 0.0 { (high / step(high)).ceil() * step(high) } else { 1.0 };
            return Scale { min: 0.0, max, is_log, ends };
        }
        if high <= 0.0 {
            return Scale { min: 1.0, max: 10.0, is_log, ends };
        }
        let (min, max) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
        Scale { min, max: if max > min { max } else { min * 10.0 }, is_log, ends }
    }

    fn has(&self, value: f64) -> bool {
        value.is_finite() && (!self.is_log || value > 0.0)
    }

    fn at(&self, value: f64) -> f64 {
        let part = if self.is_log {
            (value / self.min).log10() / (self.max / self.min).log10()
        } else {
            (value - self.min) / (self.max - self.min)
        };
        self.ends.0 + part * (self.ends.1 - self.ends.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            let step = step(self.max);
            let count = (self.max / step).round() as u32;
            return (0..=count).map(|n| f64::from(n) * step).collect();
        }
        let decades = (self.max / self.min).log10().round() as i32;
        // With few decades, there is room between them.
        let within: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let values = (0..=decades).flat_map(|decade| within.iter().map(move |part| (decade, part)));
        let ticks = values.map(|(decade, part)| self.min * 10_f64.powi(decade) * part);
        // The last power is not exactly the end.
        ticks.filter(|tick| *tick <= self.max * 1.001).collect()
    }
}

/// Returns 1, 2 or 5 times a power of ten, of which a few reach `max`.
fn step(max: f64) -> f64 {
    let power = 10_f64.powf((max / TICKS).log10().floor());
    let parts = [1.0, 2.0, 5.0].into_iter().find(|part| part * power * TICKS >= max);
    parts.unwrap_or(10.0) * power
}

fn segment(from: (f64, f64), to: (f64, f64), color: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn text(x: f64, y: f64, anchor: &str, words: &str, more: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{words}</text>\n")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Checks that every element ends, in the right order, and that no value is no number.
    pub(in crate::bench) fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let (tag, words) = tag.split_once('>').unwrap_or_else(|| panic!("<{tag} does not end"));
            assert!(!words.contains('>') && tag.matches('"').count() % 2 == 0, "<{tag}>{words}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "in {svg}");
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default());
            }
        }
        assert!(svg.starts_with("<svg ") && open.is_empty(), "{open:?} do not end");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    fn axis(is_log: bool) -> Axis {
        Axis { words: "a < b & c".into(), is_log, tick: plain }
    }

    fn chart(points: Vec<(f64, f64)>, is_log: bool) -> Chart {
        let line = Line { name: "x".into(), points };
        Chart { title: "t".into(), x: axis(is_log), y: axis(is_log), lines: vec![line], marks: vec![2.0] }
    }

    #[test]
    fn every_chart_is_well_formed() {
        for is_log in [true, false] {
            let odd = vec![(0.0, -1.0), (1.0, f64::NAN), (f64::INFINITY, 2.0), (3.0, 7.5), (400.0, 8000.0)];
            for points in [vec![], vec![(5.0, 5.0)], vec![(0.0, 0.0)], odd] {
                assert_well_formed(&chart(points, is_log).svg());
            }
        }
        assert!(chart(vec![], false).svg().contains("a &lt; b &amp; c"));
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let svg = chart(vec![(1.0, 1.0), (100.0, 100.0)], true).svg();
        assert!(svg.contains("points=\"90.0,360.0 730.0,60.0\""), "{svg}");
        let svg = chart(vec![(0.0, 0.0), (5.0, 10.0)], false).svg();
        assert!(svg.contains("points=\"90.0,360.0 730.0,60.0\""), "{svg}");
    }

    #[test]
    fn ticks_are_round_numbers() {
        let ticks = |values: &[f64], is_log| Scale::over(values.iter().copied(), is_log, (0.0, 1.0)).ticks();
        assert_eq!(ticks(&[7800.0, 5.0], false), [0.0, 2000.0, 4000.0, 6000.0, 8000.0]);
        assert_eq!(ticks(&[3.0, 47.0], true), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(ticks(&[1.0, 9000.0], true).len(), 5);
        assert_eq!(ticks(&[], true), [1.0, 2.0, 5.0, 10.0]);
    }
}
