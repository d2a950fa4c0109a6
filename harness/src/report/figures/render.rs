//! Sheets as files: the same marks, four times enlarged, as SVG and as pixels. The latter are reduced by half, so that
//! lines and text have soft edges: a PNG has two pixels per unit.

use super::font::{FAMILY, HEIGHT_IN_SIZES, register};
use super::sheet::{Align, Colour, Mark, Point, Sheet, TEXT, WIDTH};
use crate::image::png as encoded;
use crate::types::Rgb;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{
    BitMapBackend, Circle, Color, DrawingArea, DrawingBackend, IntoDrawingArea, IntoFont, PathElement,
    Polygon, RGBColor, SVGBackend, Text, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{ShapeStyle, TextStyle};

/// Coordinates are whole numbers: units of a sheet are this much enlarged.
const ENLARGED: f64 = 4.0;
/// Pixels that are averaged, in both directions, into one of a PNG.
const AVERAGED: usize = 2;

/// How a backend places text: what it multiplies a size by, and where it puts the middle of a digit.
struct Lettering {
    size: f64,
    drop: f64,
}

/// plotters-svg divides sizes by 1.24.
const SVG_TEXT: Lettering = Lettering { size: 1.24, drop: 0.1 };
const PIXEL_TEXT: Lettering = Lettering { size: HEIGHT_IN_SIZES, drop: 0.24 };

fn size_of(sheet: &Sheet) -> (u32, u32) {
    ((WIDTH * ENLARGED).round() as u32, (sheet.height.ceil() * ENLARGED) as u32)
}

/// The SVG file: without a background, scaled to the width of its place by whoever shows it.
pub(super) fn svg(sheet: &Sheet, title: &str) -> Result<String> {
    let size = size_of(sheet);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(sheet, &area, &SVG_TEXT)?;
        area.present().map_err(failed)?;
    }
    Ok(finished(&text, size, title))
}

/// With the size in units instead of enlarged ones, a name for those who cannot see it, and without what is the default.
fn finished(text: &str, (width, height): (u32, u32), title: &str) -> String {
    let (shown_width, shown_height) = (f64::from(width) / ENLARGED, f64::from(height) / ENLARGED);
    let drawn = format!("<svg width=\"{width}\" height=\"{height}\" ");
    let named = format!(
        "<svg width=\"{shown_width}\" height=\"{shown_height}\" role=\"img\" aria-label=\"{}\" ",
        escaped(title)
    );
    text.replacen(&drawn, &named, 1).replace(" opacity=\"1\"", "").replace(" \"/>", "\"/>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The PNG file, on white.
pub(super) fn png(sheet: &Sheet) -> Result<Vec<u8>> {
    let size = size_of(sheet);
    let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(sheet, &area, &PIXEL_TEXT)?;
        area.present().map_err(failed)?;
    }
    let small = reduced(&pixels, size.0 as usize, size.1 as usize);
    let longest = small.width.max(small.height) as usize;
    encoded(&small, longest)
}

/// The mean of each square of pixels.
fn reduced(pixels: &[u8], width: usize, height: usize) -> Rgb {
    let (small_width, small_height) = (width / AVERAGED, height / AVERAGED);
    let mut small = Vec::with_capacity(3 * small_width * small_height);
    let squares = AVERAGED * AVERAGED;
    for y in 0..small_height {
        for x in 0..small_width {
            for channel in 0..3 {
                let of = |i: usize| {
                    let (down, across) = (AVERAGED * y + i / AVERAGED, AVERAGED * x + i % AVERAGED);
                    usize::from(pixels[3 * (down * width + across) + channel])
                };
                small.push(((0..squares).map(of).sum::<usize>() / squares) as u8);
            }
        }
    }
    Rgb { width: small_width as u32, height: small_height as u32, pixels: small }
}

fn draw<B: DrawingBackend>(sheet: &Sheet, area: &DrawingArea<B, Shift>, lettering: &Lettering) -> Result<()> {
    register()?;
    sheet.marks.iter().try_for_each(|mark| draw_mark(mark, area, lettering))
}

fn draw_mark<B: DrawingBackend>(
    mark: &Mark,
    area: &DrawingArea<B, Shift>,
    lettering: &Lettering,
) -> Result<()> {
    match mark {
        Mark::Path { points, colour, width } => {
            let stroke = (width * ENLARGED).round().max(1.0) as u32;
            area.draw(&PathElement::new(placed(points), rgb(*colour).stroke_width(stroke)))
        }
        Mark::Area { points, colour, alpha } => {
            let style: ShapeStyle = rgb(*colour).mix(*alpha).filled();
            area.draw(&Polygon::new(placed(points), style))
        }
        Mark::Circle { centre, radius, colour } => {
            let radius = (radius * ENLARGED).round() as u32;
            area.draw(&Circle::new(place(*centre), radius, rgb(*colour).filled()))
        }
        Mark::Text { at, text, size, align } => {
            let font = (FAMILY, size * ENLARGED * lettering.size).into_font();
            let colour = rgb(TEXT);
            let style = TextStyle::from(font).color(&colour).pos(anchor(*align));
            let at = place((at.0, at.1 + lettering.drop * size));
            area.draw(&Text::new(text.as_str(), at, style))
        }
    }
    .map_err(failed)
}

fn anchor(align: Align) -> Pos {
    let across = match align {
        Align::Left => HPos::Left,
        Align::Middle => HPos::Center,
        Align::Right => HPos::Right,
    };
    Pos::new(across, VPos::Center)
}

fn place((x, y): Point) -> (i32, i32) {
    ((x * ENLARGED).round() as i32, (y * ENLARGED).round() as i32)
}

fn placed(points: &[Point]) -> Vec<(i32, i32)> {
    points.iter().map(|&point| place(point)).collect()
}

fn rgb((red, green, blue): Colour) -> RGBColor {
    RGBColor(red, green, blue)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a figure cannot be drawn: {error}")
}
