//! The tiny world: seeded picture questions in eight families, each the miniature of one benchmark.
//!
//! It stands in for the benchmarks and the training set where a run has to fit a laptop. A question names
//! labels; the eye has to find the cell with a label and read what it shows, or the other way round; the rest
//! is short reasoning on what was read. A picture is the smallest square grid of cells that holds its objects:
//! 3x3 cells, 4x4 where the question itself is drawn. A solution is one line in which a value follows its
//! label at once, so that a look is one step:
//!
//! ```text
//! <think> F 7, J 5. 7 + 5 = 12. 12 D. </think>\boxed{D}
//! ```
//!
//! So only a few tokens of a solution depend on the picture, which is what VPPO's token filter is about (paper
//! sections 3.1 and 3.2), and answers take the forms the grader meets in the real benchmarks: option letters,
//! decimals, LaTeX, integers, pairs. Before solutions a model may be taught to read: [`drill`] makes exercises.
//!
//! | family | asks | answer |
//! |---|---|---|
//! | MathVerse | sum or difference, in three versions of the text | letter A-D |
//! | DynaMath | mean, comparison, point, in five variants | decimal, letter A-B, pair |
//! | MMK12 | product, sum of three | letter A-D |
//! | Geo3k | ratio, ratio to a sum, multiple of a root | LaTeX |
//! | MathVision | count of a shape, sum of two or three | integer |
//! | We-Math | two one-step parts and the whole, no option may be right | letter A-D |
//! | LogicVista | given figure, odd one out, shape of one in the colour of another | label A-J |
//! | MMMU-Pro | the question and its ten options stand in the picture | letter A-J |
//!
//! **Disjoint and unique.** All contents of a kind of question (task, labels, values; not the places) are
//! numbered. A seeded permutation orders the numbers; evaluation takes them from the first fifth, training
//! from the rest. No content is in both, and none is met twice before its part is used up; then contents come
//! again in other places. MMK12's product is used up first, after 486 evaluation items (1,944 in training).
//!
//! It does not know the model, the tokenizer, the instruction sentence or the grader.

mod choices;
mod drill;
mod picture;
mod question;
mod teacher;

use crate::rng::{At, Purpose, Stream, stream};
use crate::types::{Example, Picture};
use choices::{Choices, permuted};
use picture::{Mark, Object, draw, grid};
use question::{Family, Kind, Posed, Rows, Task, Term};
use std::sync::Arc;
use teacher::{Errors, Found, Options, Teacher};

pub use drill::drill;

/// Names of the families: those of the benchmarks they are miniatures of.
pub const FAMILIES: [&str; 8] =
    ["MathVerse", "DynaMath", "MMK12", "Geo3k", "MathVision", "We-Math", "LogicVista", "MMMU-Pro"];

/// Of every so many contents one is for evaluation.
const EVAL_SHARE: u64 = 5;
/// Objects in a picture of digits.
const DIGIT_OBJECTS: usize = 5;

/// Which part of the contents a question comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For the warm start and for reinforcement learning.
    Train,
    /// For evaluation.
    Eval,
}

impl Split {
    /// `train` or `eval`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Eval => "eval",
        }
    }

    /// The number of the `rank`-th content of this split, of `size` contents in a seeded order.
    fn content(self, seed: u64, name: &str, size: u64, rank: u64) -> u64 {
        let for_eval = (size / EVAL_SHARE).max(1);
        let place = match self {
            Split::Eval => rank % for_eval,
            Split::Train => for_eval + rank % (size - for_eval).max(1),
        };
        permuted(seed, name, size, place)
    }
}

/// A question together with what a teacher needs to work it.
#[derive(Clone, Debug)]
pub struct Item {
    /// The question as a model sees it.
    pub example: Example,
    /// Names the content: kind of question, labels, values. The items of a MathVerse or We-Math cluster are
    /// about one content. Train and eval have none in common.
    pub content: String,
    objects: Vec<Object>,
    task: Task,
    terms: Vec<Term>,
    options: Options,
}

/// The `index`-th question of a family (an index into [`FAMILIES`], modulo 8) in a split of the world.
///
/// A pure function of its arguments. Neighbours share a cluster: `index / 3` in MathVerse and We-Math,
/// `index / 5` in DynaMath.
pub fn generate(world_seed: u64, split: Split, family: usize, index: usize) -> Item {
    let which = family % FAMILIES.len();
    let (name, family) = (FAMILIES[which], Family::ALL[which]);
    let (rows, index) = (family.rows(), index as u64);
    let (cluster, row) = (index / rows.count(), index % rows.count());
    let posed = pose(world_seed, split, family, cluster, row);
    let at = |aspect, row: u64| -> Stream {
        let place: [At; 5] = [split.name().into(), name.into(), cluster.into(), row.into(), At::S(aspect)];
        stream(world_seed, Purpose::World, &place)
    };
    let picture_row = if matches!(rows, Rows::Variants(_)) { row } else { 0 };
    let objects = place_objects(&posed, family, &mut at("picture", picture_row));
    let options_row = if matches!(rows, Rows::Parts(_)) { row } else { 0 };
    let options = make_options(&posed, family, &objects, &mut at("options", options_row));
    let shown = match &options {
        Options::Free => String::new(),
        Options::Listed(numbers) | Options::OrNone(numbers) => family.options_text(numbers),
    };
    let slug = format!("{}-{}", split.name(), name.to_lowercase());
    let (_, answer) = Teacher::new(&objects, None).solve(posed.task, &posed.terms, &options);
    let example = Example {
        id: format!("{slug}-{index}"),
        benchmark: name.into(),
        cluster: format!("{slug}-c{cluster}"),
        problem: format!("<image>{}{shown}", posed.text),
        answer,
        images: vec![Picture::Rgb(Arc::new(draw(&objects)))],
    };
    Item { example, content: posed.key, objects, task: posed.task, terms: posed.terms, options }
}

/// The teacher's worked solution, on one line: looks and reasoning within `<think>` tags, then the boxed answer.
///
/// With probability `misread` per look it reads another value of the same kind, with probability `slip` per
/// step of reasoning the step goes wrong, and goes on from there. Without errors the answer is the gold one.
pub fn solution(item: &Item, stream: &mut Stream, misread: f64, slip: f64) -> String {
    let teacher = Teacher::new(&item.objects, Some(Errors { stream, misread, slip }));
    teacher.solve(item.task, &item.terms, &item.options).0
}

/// Every word and every pattern of punctuation that questions and solutions are made of, as running text: a
/// fixed sample of both and of drills, from which a word-level vocabulary can be built. Not all numbers occur
/// in it; those of the world are 0 to 99.
pub fn words() -> String {
    let mut text = String::new();
    for (family, name) in FAMILIES.into_iter().enumerate() {
        for index in 0..300usize {
            let item = generate(0, Split::Train, family, index);
            let mut draws = stream(0, Purpose::World, &["words".into(), name.into(), index.into()]);
            let right = solution(&item, &mut draws, 0.0, 0.0);
            let wrong = solution(&item, &mut draws, 0.3, 0.3);
            let (exercise, reading) = drill(&item, index, &mut draws, 8);
            let parts = [&item.example.problem, &right, &wrong, &exercise.problem, &reading];
            parts.into_iter().for_each(|part| text.extend([part, "\n"]));
        }
    }
    text
}

/// The question of a cluster's row. Kinds follow one another from cluster to cluster.
fn pose(world_seed: u64, split: Split, family: Family, cluster: u64, row: u64) -> Posed {
    let kinds = family.kinds();
    let kind: Kind = kinds[(cluster % kinds.len() as u64) as usize];
    let mut first = Choices::of(0);
    family.pose(kind, row, world_seed, &mut first);
    let name = format!("{family:?} {kind:?}");
    let number = split.content(world_seed, &name, first.size(), cluster / kinds.len() as u64);
    family.pose(kind, row, world_seed, &mut Choices::of(number))
}

/// Puts the objects of a question, and bystanders where it is about digits, into random cells.
fn place_objects(posed: &Posed, family: Family, draws: &mut Stream) -> Vec<Object> {
    let mut shown = posed.objects.clone();
    if shown.iter().all(|(_, mark)| matches!(mark, Mark::Digit(_))) {
        let used = |label: &char| posed.objects.iter().any(|(other, _)| other == label);
        let mut labels: Vec<char> = family.labels().iter().copied().filter(|label| !used(label)).collect();
        draws.shuffle(&mut labels);
        let bystanders = labels.into_iter().take(DIGIT_OBJECTS - shown.len());
        shown.extend(bystanders.map(|label| (label, Mark::Digit(draws.below(10) as u8))));
    }
    let mut objects: Vec<Object> =
        shown.into_iter().map(|(label, mark)| Object { label, mark, cell: 0 }).collect();
    scatter(&mut objects, draws);
    objects.sort_by_key(|object| object.label);
    objects
}

/// Gives every object a random cell of its own.
fn scatter(objects: &mut [Object], draws: &mut Stream) {
    let mut cells: Vec<usize> = (0..grid(objects.len()).pow(2)).collect();
    draws.shuffle(&mut cells);
    objects.iter_mut().zip(cells).for_each(|(object, cell)| object.cell = cell);
}

/// Options around the right number. The others are what a misread last look leads to, so that neither their
/// size nor a value given in the text tells which is right.
fn make_options(posed: &Posed, family: Family, objects: &[Object], draws: &mut Stream) -> Options {
    let or_none = family == Family::WeMath;
    if !or_none && ![Family::MathVerse, Family::Mmk12].contains(&family) {
        return Options::Free;
    }
    let values: Vec<u8> = posed.terms.iter().map(|term| true_value(term, objects)).collect();
    let place = draws.below(4);
    let mut numbers: Vec<u32> = number_of(posed.task, &values).into_iter().collect();
    let right_shown = !or_none || place < 3;
    let wanted = if or_none { 3 + usize::from(!right_shown) } else { 4 };
    while numbers.len() < wanted {
        let mut other = values.clone();
        if let Some(last) = other.last_mut() {
            *last = draws.below(10) as u8;
        }
        let new = number_of(posed.task, &other).filter(|number| !numbers.contains(number));
        numbers.extend(new.filter(|_| posed.task.allows(&other)));
    }
    let right = numbers.remove(0);
    if right_shown {
        numbers.insert(place, right);
    }
    if or_none { Options::OrNone(numbers) } else { Options::Listed(numbers) }
}

fn true_value(term: &Term, objects: &[Object]) -> u8 {
    match *term {
        Term::Number(value) | Term::Told(_, value) => value,
        Term::Look(label) => objects
            .iter()
            .find_map(|object| match object.mark {
                Mark::Digit(digit) if object.label == label => Some(digit),
                _ => None,
            })
            .unwrap_or(0),
    }
}

/// The number a digit task comes to without errors.
fn number_of(task: Task, values: &[u8]) -> Option<u32> {
    match Teacher::new(&[], None).work(task, values) {
        Found::Number(number) => Some(number),
        Found::Text(_) => None,
    }
}
