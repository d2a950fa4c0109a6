//! Exercises for the beginning of the warm start: what captions and arithmetic in the pre-training are to a large model.
//!
//! Worked solutions show each skill once or twice; an exercise shows one skill many times, in the words of the
//! solutions and without errors. Pictures begin with few objects. Exercises are never evaluated and never rewarded.

use super::picture::{Mark, draw};
use super::question::Family;
use super::{Item, scatter};
use crate::rng::Stream;
use crate::types::{Example, Picture};
use std::sync::Arc;

/// An exercise and its answer, on a picture of at most `most` of the item's objects, or on a list of options:
/// to read named objects (and to calculate with their digits), to find objects by what they show, or, in two of four
/// turns, to find options: the skill that takes the longest, and the cheapest to practise.
pub fn drill(item: &Item, turn: usize, stream: &mut Stream, most: usize) -> (Example, String) {
    let (task, lines, shown) = match turn % 4 {
        0 => read(item, stream, most),
        1 => find(item, stream, most),
        _ => choose(stream),
    };
    let images: Vec<Picture> = shown.into_iter().collect();
    let problem = format!("{}{task}", "<image>".repeat(images.len()));
    (Example { problem, images, ..item.example.clone() }, format!("<think> {lines} </think>"))
}

/// Some of the item's objects in new places, in random order, and their picture.
fn some(item: &Item, stream: &mut Stream, most: usize) -> (Vec<(char, Mark)>, Picture) {
    let mut objects = item.objects.clone();
    stream.shuffle(&mut objects);
    objects.truncate(1 + stream.below(most.clamp(1, objects.len().max(1))));
    scatter(&mut objects, stream);
    let picture = Picture::Rgb(Arc::new(draw(&objects)));
    (objects.into_iter().map(|object| (object.label, object.mark)).collect(), picture)
}

/// Label to mark, with an equation on every two digits that follow each other.
fn read(item: &Item, stream: &mut Stream, most: usize) -> (String, String, Option<Picture>) {
    let (objects, picture) = some(item, stream, most);
    let digits: Vec<u8> = objects
        .iter()
        .filter_map(|(_, mark)| if let Mark::Digit(d) = mark { Some(*d) } else { None })
        .collect();
    let equations: String =
        digits.windows(2).map(|pair| format!(" {}", equation(pair[0], pair[1], stream))).collect();
    let labels: Vec<String> = objects.iter().map(|(label, _)| label.to_string()).collect();
    let facts: Vec<String> = objects.iter().map(|(label, mark)| format!("{label} {mark}")).collect();
    (format!("Read {}.", labels.join(", ")), format!("{}.{equations}", facts.join(", ")), Some(picture))
}

/// Mark to label, for marks that occur once.
fn find(item: &Item, stream: &mut Stream, most: usize) -> (String, String, Option<Picture>) {
    let (objects, picture) = some(item, stream, most);
    let times = |mark: Mark| objects.iter().filter(|(_, other)| *other == mark).count();
    let once: Vec<&(char, Mark)> = objects.iter().filter(|(_, mark)| times(*mark) == 1).collect();
    let marks: Vec<String> = once.iter().map(|(_, mark)| mark.to_string()).collect();
    let facts: Vec<String> = once.iter().map(|(label, mark)| format!("{mark} {label}")).collect();
    (format!("Find {}.", marks.join(", ")), format!("{}.", facts.join(", ")), Some(picture))
}

/// Number to the letter of its option; where the last option says that none is right, one number is missing.
fn choose(stream: &mut Stream) -> (String, String, Option<Picture>) {
    let family = *stream.pick(&[Family::MathVerse, Family::Mmk12, Family::WeMath]);
    let or_none = family == Family::WeMath;
    let mut numbers: Vec<u32> = vec![];
    while numbers.len() < 4 {
        let number = stream.below(28) as u32;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    let listed = if or_none { &numbers[..3] } else { &numbers[..] };
    let options = family.options_text(listed);
    let mut order: Vec<usize> = (0..4).collect();
    stream.shuffle(&mut order);
    let asked: Vec<String> = order.iter().map(|&at| numbers[at].to_string()).collect();
    let facts: Vec<String> =
        order.iter().map(|&at| format!("{} {}", numbers[at], ['A', 'B', 'C', 'D'][at])).collect();
    (format!("Find {}.{options}", asked.join(", ")), format!("{}.", facts.join(". ")), None)
}

/// A true equation on two digits.
fn equation(a: u8, b: u8, stream: &mut Stream) -> String {
    let (high, low) = (a.max(b), a.min(b));
    match stream.below(3) {
        0 => format!("{a} + {b} = {}.", a + b),
        1 => format!("{high} - {low} = {}.", high - low),
        _ => format!("{a} x {b} = {}.", a * b),
    }
}
