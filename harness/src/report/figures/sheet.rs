//! A drawing as a list of marks: what [`super::render`] turns into SVG and PNG alike. Lengths are in units of a figure's
//! page (about a point of text on screen), from the top left.

use super::font::text_width;

/// Red, green, blue.
pub(super) type Colour = (u8, u8, u8);
/// Across, down.
pub(super) type Point = (f64, f64);

/// Width of every figure.
pub(super) const WIDTH: f64 = 420.0;
/// Space around a figure.
pub(super) const MARGIN: f64 = 8.0;
/// Text and axes, which a page may colour anew.
pub(super) const TEXT: Colour = (0x33, 0x33, 0x33);
/// The base model.
const BASE: Colour = (0x77, 0x77, 0x77);
/// Lines of the grid, which a page may colour anew.
pub(super) const GRID: Colour = (0xDD, 0xDD, 0xDD);
/// Published values.
pub(super) const PUBLISHED: Colour = (0xBB, 0xBB, 0xBB);
/// Sizes of text.
pub(super) const TITLE: f64 = 16.0;
pub(super) const LABEL: f64 = 12.5;
pub(super) const TICK: f64 = 12.0;
/// Length of a dash, and of the space behind it.
const DASH: f64 = 4.0;
/// Height of a line of text, in sizes of that text.
const LINE: f64 = 1.3;

/// The colours of Okabe and Ito (2008) that show on white and on black.
const COLOURS: [Colour; 6] = [
    (0x00, 0x72, 0xB2),
    (0xE6, 0x9F, 0x00),
    (0x00, 0x9E, 0x73),
    (0xCC, 0x79, 0xA7),
    (0xD5, 0x5E, 0x00),
    (0x56, 0xB4, 0xE9),
];

/// Form of a dot, which tells apart what has the same colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
}

/// How a series looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub colour: Colour,
    pub shape: Shape,
    /// Whether the shape stands on lines too.
    pub marked: bool,
}

impl Look {
    /// The look of the arm of this number: each of the first 18 has its own.
    pub fn of(number: usize) -> Look {
        let round = number / COLOURS.len();
        let shape = [Shape::Circle, Shape::Square, Shape::Triangle][round % 3];
        Look { colour: COLOURS[number % COLOURS.len()], shape, marked: round > 0 }
    }

    /// The base model's.
    pub fn base() -> Look {
        Look { colour: BASE, shape: Shape::Circle, marked: false }
    }

    /// Published values'.
    pub fn published() -> Look {
        Look { colour: PUBLISHED, shape: Shape::Square, marked: false }
    }
}

/// Where a text stands from its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Middle,
    Right,
}

/// One thing drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mark {
    Path {
        points: Vec<Point>,
        colour: Colour,
        width: f64,
    },
    Area {
        points: Vec<Point>,
        colour: Colour,
        alpha: f64,
    },
    Circle {
        centre: Point,
        radius: f64,
        colour: Colour,
    },
    /// The point is at half the height of a digit.
    Text {
        at: Point,
        text: String,
        size: f64,
        align: Align,
    },
}

/// A page of marks, the later over the earlier.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sheet {
    pub height: f64,
    pub marks: Vec<Mark>,
}

impl Sheet {
    /// A page that begins with a title and a line on what is drawn; [`Sheet::height`] is where the rest begins.
    pub fn titled(title: &str, subtitle: &str) -> Sheet {
        let mut sheet = Sheet { height: MARGIN, marks: vec![] };
        sheet.paragraph(title, TITLE);
        sheet.paragraph(subtitle, LABEL);
        sheet
    }

    /// Lines of text from the left margin, below what is there.
    pub fn paragraph(&mut self, text: &str, size: f64) {
        for line in wrap(text, size, WIDTH - 2.0 * MARGIN) {
            self.text((MARGIN, self.height + size * LINE / 2.0), &line, size, Align::Left);
            self.height += size * LINE;
        }
    }

    pub fn path(&mut self, points: Vec<Point>, colour: Colour, width: f64) {
        self.marks.push(Mark::Path { points, colour, width });
    }

    pub fn line(&mut self, from: Point, to: Point, colour: Colour, width: f64) {
        self.path(vec![from, to], colour, width);
    }

    pub fn area(&mut self, points: Vec<Point>, colour: Colour, alpha: f64) {
        self.marks.push(Mark::Area { points, colour, alpha });
    }

    pub fn rect(&mut self, from: Point, to: Point, colour: Colour) {
        self.area(vec![from, (to.0, from.1), to, (from.0, to.1)], colour, 1.0);
    }

    /// A line of dashes, straight down.
    pub fn dashes(&mut self, (x, top): Point, bottom: f64, colour: Colour) {
        let dashes = ((bottom - top) / DASH).ceil().max(0.0) as usize;
        for dash in (0..dashes).step_by(2) {
            let from = top + DASH * dash as f64;
            self.line((x, from), (x, (from + DASH).min(bottom)), colour, 1.0);
        }
    }

    pub fn dot(&mut self, (x, y): Point, radius: f64, look: Look) {
        let r = radius;
        match look.shape {
            Shape::Circle => {
                self.marks.push(Mark::Circle { centre: (x, y), radius, colour: look.colour });
            }
            Shape::Square => self.rect((x - r, y - r), (x + r, y + r), look.colour),
            Shape::Triangle => {
                self.area(
                    vec![(x, y - 1.3 * r), (x + 1.2 * r, y + r), (x - 1.2 * r, y + r)],
                    look.colour,
                    1.0,
                );
            }
        }
    }

    /// On a bar, what tells its series from that of the same colour.
    pub fn mark_on_bar(&mut self, at: Point, look: Look) {
        if look.marked {
            self.dot(at, 2.0, Look { colour: TEXT, ..look });
        }
    }

    pub fn text(&mut self, at: Point, text: &str, size: f64, align: Align) {
        self.marks.push(Mark::Text { at, text: text.to_owned(), size, align });
    }
}

/// The text in lines no wider than `width`, broken between words; a word that is wider stands alone.
pub(super) fn wrap(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), size) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The text, cut with an ellipsis where it is wider than `width`.
pub(super) fn shortened(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut kept: String = text.to_owned();
    while !kept.is_empty() && text_width(&format!("{kept}…"), size) > width {
        kept.pop();
    }
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn eighteen_arms_look_different() {
        let looks: BTreeSet<String> = (0..18).map(|n| format!("{:?}", Look::of(n))).collect();
        assert_eq!(looks.len(), 18);
        assert!((0..18).all(|n| ![TEXT, GRID, PUBLISHED, BASE].contains(&Look::of(n).colour)));
    }

    #[test]
    fn texts_are_broken_and_cut_to_the_width() {
        let text = "mean of the last ten steps or fewer, with a very long continuation";
        let lines = wrap(text, LABEL, 150.0);
        assert!(lines.len() > 1 && lines.iter().all(|line| text_width(line, LABEL) <= 150.0), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        assert_eq!(wrap("", LABEL, 10.0), Vec::<String>::new());
        assert_eq!(wrap("unbreakable", LABEL, 1.0), ["unbreakable"]);
        let cut = shortened(text, LABEL, 100.0);
        assert!(cut.ends_with('…') && text_width(&cut, LABEL) <= 100.0, "{cut}");
        assert_eq!(shortened("short", LABEL, 100.0), "short");
    }
}
