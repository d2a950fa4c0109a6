//! The pictures of the tiny world: the smallest square grid of cells that holds the objects.
//!
//! A cell is 28x28 pixels, that is 2x2 patches of a Qwen2.5-VL tower, merged into one visual token. An
//! object's label stands in the top-left patch and its mark in the bottom-right one, so that one patch holds
//! one attribute whole and an attribute looks the same in every cell and at every size of the grid. Between
//! two pictures of the same objects only the cells differ.

use crate::types::Rgb;
use std::fmt;

/// Pixels per side of a cell.
const CELL: usize = 28;
/// Pixels per side of a patch.
const PATCH: usize = 14;

/// Cells per side of a picture of `objects` objects: the smallest square that holds them.
pub(super) fn grid(objects: usize) -> usize {
    (1..).find(|side| side * side >= objects).unwrap_or(1)
}

const WHITE: [u8; 3] = [255, 255, 255];
const BLACK: [u8; 3] = [0, 0, 0];
const YELLOW: [u8; 3] = [250, 210, 60];

/// Outline of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Cross,
}

impl Shape {
    pub const ALL: [Shape; 4] = [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Cross];

    /// The word for more than one.
    pub fn plural(self) -> &'static str {
        match self {
            Shape::Circle => "circles",
            Shape::Square => "squares",
            Shape::Triangle => "triangles",
            Shape::Cross => "crosses",
        }
    }

    /// Whether the shape covers the pixel (x, y) of a patch.
    fn covers(self, x: usize, y: usize) -> bool {
        let (dx, dy) = ((2 * x).abs_diff(PATCH - 1), (2 * y).abs_diff(PATCH - 1));
        match self {
            Shape::Circle => dx * dx + dy * dy <= 144,
            Shape::Square => dx <= 11 && dy <= 11,
            Shape::Triangle => (1..13).contains(&y) && dx < y + 1,
            Shape::Cross => dx.min(dy) <= 3 && dx.max(dy) <= 11,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Circle => "circle",
            Shape::Square => "square",
            Shape::Triangle => "triangle",
            Shape::Cross => "cross",
        })
    }
}

/// Colour of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Green,
    Blue,
}

impl Colour {
    pub const ALL: [Colour; 3] = [Colour::Red, Colour::Green, Colour::Blue];

    fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [220, 30, 30],
            Colour::Green => [20, 160, 50],
            Colour::Blue => [40, 70, 230],
        }
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Colour::Red => "red",
            Colour::Green => "green",
            Colour::Blue => "blue",
        })
    }
}

/// A filled shape; prints as `red circle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figure {
    pub colour: Colour,
    pub shape: Shape,
}

impl Figure {
    /// All figures, by colour, then by shape.
    pub fn all() -> Vec<Figure> {
        let of_colour = |colour| Shape::ALL.map(|shape| Figure { colour, shape });
        Colour::ALL.into_iter().flat_map(of_colour).collect()
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.colour, self.shape)
    }
}

/// What an object shows beside its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// A number from 0 to 9.
    Digit(u8),
    /// A coloured shape.
    Figure(Figure),
    /// A sign of arithmetic: `+`, `-` or `x`.
    Sign(char),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Digit(digit) => write!(f, "{digit}"),
            Mark::Figure(figure) => write!(f, "{figure}"),
            Mark::Sign(sign) => write!(f, "{sign}"),
        }
    }
}

/// A labelled thing in one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// `A` to `J`; in a question that is itself a picture also `X`, `Y` and `?`.
    pub label: char,
    /// What it shows.
    pub mark: Mark,
    /// Its cell, row by row from the top left, below the square of [`grid`].
    pub cell: usize,
}

/// Draws the objects on white; cells of the labels `X`, `Y` and `?` are set off in yellow.
pub(super) fn draw(objects: &[Object]) -> Rgb {
    let grid = grid(objects.len());
    let side = grid * CELL;
    let mut canvas = Canvas { side, pixels: WHITE.repeat(side * side) };
    for object in objects {
        let (x, y) = (object.cell % grid * CELL, object.cell / grid * CELL);
        if "XY?".contains(object.label) {
            canvas.fill(x + PATCH, y, YELLOW, |_, _| true);
            canvas.fill(x, y + PATCH, YELLOW, |_, _| true);
        }
        canvas.glyph(x, y, object.label);
        canvas.mark(x + PATCH, y + PATCH, object.mark);
    }
    Rgb { width: side as u32, height: side as u32, pixels: canvas.pixels }
}

struct Canvas {
    side: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// Colours the covered pixels of the patch whose top-left corner is (left, top).
    fn fill(&mut self, left: usize, top: usize, colour: [u8; 3], covers: impl Fn(usize, usize) -> bool) {
        for (x, y) in (0..PATCH * PATCH).map(|i| (i % PATCH, i / PATCH)) {
            if covers(x, y) {
                let at = 3 * ((top + y) * self.side + left + x);
                self.pixels[at..at + 3].copy_from_slice(&colour);
            }
        }
    }

    /// A 5x7 glyph at twice its size, in the columns 2 to 11 of the patch.
    fn glyph(&mut self, left: usize, top: usize, character: char) {
        let rows = glyph(character);
        self.fill(left, top, BLACK, |x, y| (2..12).contains(&x) && rows[y / 2] >> (4 - (x - 2) / 2) & 1 == 1);
    }

    fn mark(&mut self, left: usize, top: usize, mark: Mark) {
        match mark {
            Mark::Digit(digit) => self.glyph(left, top, char::from(b'0' + digit)),
            Mark::Sign(sign) => self.glyph(left, top, sign),
            Mark::Figure(Figure { colour, shape }) => {
                self.fill(left, top, colour.rgb(), |x, y| shape.covers(x, y));
            }
        }
    }
}

/// Rows of a glyph from the top, five bits each, the leftmost highest; a full block for what has no glyph.
#[rustfmt::skip]
fn glyph(character: char) -> [u8; 7] {
    match character {
        '0' => [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        '2' => [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111],
        '3' => [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
        'A' => [0b00100, 0b01010, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001],
        'B' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110],
        'C' => [0b01111, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b01111],
        'D' => [0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110],
        'E' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
        'F' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000],
        'G' => [0b01110, 0b10001, 0b10000, 0b10111, 0b10001, 0b10001, 0b01110],
        'H' => [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        'I' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b11111],
        'J' => [0b00111, 0b00010, 0b00010, 0b00010, 0b00010, 0b10010, 0b01100],
        'X' => [0b10001, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b10001],
        'Y' => [0b10001, 0b10001, 0b01010, 0b00100, 0b00100, 0b00100, 0b00100],
        '?' => [0b01110, 0b10001, 0b00001, 0b00110, 0b00100, 0b00000, 0b00100],
        '+' => [0b00000, 0b00100, 0b00100, 0b11111, 0b00100, 0b00100, 0b00000],
        '-' => [0b00000, 0b00000, 0b00000, 0b11111, 0b00000, 0b00000, 0b00000],
        'x' => [0b00000, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b00000],
        _ => [0b11111; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all_marks() -> Vec<Mark> {
        let digits = (0..10).map(Mark::Digit);
        digits
            .chain(['+', '-', 'x'].map(Mark::Sign))
            .chain(Figure::all().into_iter().map(Mark::Figure))
            .collect()
    }

    #[test]
    fn the_grid_is_the_smallest_square_that_holds_the_objects() {
        let sides: Vec<usize> = [0, 1, 2, 4, 5, 9, 10, 13, 16, 17].map(grid).to_vec();
        assert_eq!(sides, [1, 1, 2, 2, 3, 3, 4, 4, 4, 5]);
        let objects: Vec<Object> =
            ('A'..='J').map(|label| Object { label, mark: Mark::Digit(3), cell: 0 }).collect();
        for count in [1, 5, 6, 10] {
            let picture = draw(&objects[..count]);
            let side = CELL * grid(count);
            assert_eq!((picture.width as usize, picture.height as usize), (side, side));
            assert_eq!(picture.pixels.len(), 3 * side * side);
        }
    }

    #[test]
    fn every_object_looks_different() {
        let labels: Vec<char> = "ABCDEFGHIJXY?".chars().collect();
        let mut seen = BTreeSet::new();
        for &label in &labels {
            for mark in all_marks() {
                assert!(seen.insert(draw(&[Object { label, mark, cell: 0 }]).pixels), "{label} {mark}");
            }
        }
        assert!(!seen.contains(&draw(&[]).pixels), "an object without a pixel");
    }

    /// The pixels of a cell.
    fn cut(picture: &Rgb, cell: usize) -> Vec<u8> {
        let side = picture.width as usize;
        let (x, y) = (cell % (side / CELL) * CELL, cell / (side / CELL) * CELL);
        (y..y + CELL).flat_map(|row| picture.pixels[3 * (row * side + x)..][..3 * CELL].to_vec()).collect()
    }

    #[test]
    fn an_object_looks_the_same_in_every_cell_and_stays_in_it() {
        for mark in all_marks() {
            let alone = draw(&[Object { label: 'X', mark, cell: 0 }]).pixels;
            for count in [2, 5, 13] {
                let cells = grid(count).pow(2);
                for cell in 0..cells {
                    // The other objects all stand in the next cell, one over the other.
                    let next = (cell + 1) % cells;
                    let mut objects = vec![Object { label: 'A', mark: Mark::Digit(1), cell: next }; count];
                    objects[0] = Object { label: 'X', mark, cell };
                    let picture = draw(&objects);
                    assert_eq!(cut(&picture, cell), alone, "{mark} in cell {cell} of {cells}");
                    let mut others = (0..cells).filter(|&other| other != cell && other != next);
                    assert!(others.all(|other| cut(&picture, other).iter().all(|&level| level == 255)));
                }
            }
        }
    }
}
