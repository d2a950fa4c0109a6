//! What the eight families ask: contents by number, objects to draw, the words of the question.

use super::choices::Choices;
use super::picture::{Colour, Figure, Mark, Shape};
use crate::rng::{Purpose, stream};
use std::fmt::Write;

/// Labels of objects where no option letter may be confused with one.
const LETTERS: [char; 10] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J'];
/// Labels of objects beside lettered options `A` to `D`.
const LATE_LETTERS: [char; 6] = ['E', 'F', 'G', 'H', 'I', 'J'];
/// Labels of the first number, the second number and the sign of a question that is a picture.
pub(super) const RENDERED: [char; 3] = ['X', 'Y', '?'];
/// Objects in a picture of figures.
const FIGURES: usize = 6;

/// One of the eight miniatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    MathVerse,
    DynaMath,
    Mmk12,
    Geo3k,
    MathVision,
    WeMath,
    LogicVista,
    MmmuPro,
}

/// What the items of one cluster share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// A cluster is one item.
    Single,
    /// The same problem, picture and options; the text says more or less of it.
    Versions(u64),
    /// The same question about other values in another picture.
    Variants(u64),
    /// The same picture; the one-step parts of a problem, then the whole.
    Parts(u64),
}

impl Rows {
    /// Items of one cluster.
    pub fn count(self) -> u64 {
        match self {
            Rows::Single => 1,
            Rows::Versions(n) | Rows::Variants(n) | Rows::Parts(n) => n,
        }
    }
}

/// A kind of question: a space of contents of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A task on so many digits.
    Digits(Task, usize),
    /// Count a shape that occurs so many times.
    Count(usize),
    /// Find the object that is a given figure.
    Find,
    /// Find the object with the odd shape.
    Odd,
    /// Find the object with the shape of one object and the colour of another.
    Combine,
    /// Read the question itself from the picture.
    Rendered,
}

/// What has to be worked out. Digit tasks act on the values of the terms in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Sum,
    /// The larger less the smaller.
    Difference,
    Product,
    Mean,
    /// Whether the first is greater: option A is Yes, B is No.
    Greater,
    Point,
    Ratio,
    /// The first to the sum of the other two.
    RatioToSum,
    /// The first times the square root of the second.
    Root,
    /// The difference of the first two, plus the third.
    DifferencePlus,
    Count(Shape),
    Find(Figure),
    Odd,
    Combine,
    Rendered,
}

impl Task {
    /// Whether a problem may be set with these values: its answer is in lowest terms and no giveaway.
    pub fn allows(self, values: &[u8]) -> bool {
        let coprime = |a: u8, b: u8| {
            a >= 1 && b >= 2 && (2..=a.min(b)).all(|d| !a.is_multiple_of(d) || !b.is_multiple_of(d))
        };
        match (self, values) {
            (Task::Difference | Task::Greater | Task::Point | Task::DifferencePlus, [a, b, ..]) => a != b,
            (Task::Product, [a, b]) => *a >= 1 && *b >= 1,
            (Task::Ratio, [a, b]) => coprime(*a, *b),
            (Task::RatioToSum, [a, b, c]) => coprime(*a, b + c),
            (Task::Root, [a, b]) => *a >= 2 && [2, 3, 5, 6, 7].contains(b),
            _ => true,
        }
    }

    /// The labels a question of this task names, in the order of its values. Where order means nothing it
    /// is the alphabetical one, so that no content occurs twice in two guises.
    fn labels(self, terms: usize, pool: &[char], choices: &mut Choices) -> Vec<char> {
        match self {
            Task::Greater | Task::Point | Task::Ratio | Task::Root => choices.ordered(pool, terms),
            Task::RatioToSum => {
                let mut labels = choices.ordered(pool, 1);
                let others: Vec<char> = pool.iter().copied().filter(|&label| label != labels[0]).collect();
                labels.extend(choices.subset(&others, terms - 1));
                labels
            }
            _ => choices.subset(pool, terms),
        }
    }

    /// All values a problem may be set with.
    fn table(self, terms: usize) -> Vec<Vec<u8>> {
        let digits =
            |number: usize| (0..terms).map(|at| (number / 10usize.pow(at as u32) % 10) as u8).collect();
        (0..10usize.pow(terms as u32)).map(digits).filter(|values: &Vec<u8>| self.allows(values)).collect()
    }
}

/// One value a digit task acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Term {
    /// Has to be read from the object with this label.
    Look(char),
    /// Belongs to the object with this label and is given in the text.
    Told(char, u8),
    /// Given in the text, belongs to no object.
    Number(u8),
}

/// A question as posed: everything but the places of the objects, bystanders and options.
#[derive(Debug)]
pub(super) struct Posed {
    /// Names the content: the kind and what the picture shows of it.
    pub key: String,
    /// The words, without picture place and options.
    pub text: String,
    pub task: Task,
    pub terms: Vec<Term>,
    /// Labels and marks the content consists of.
    pub objects: Vec<(char, Mark)>,
}

impl Family {
    pub const ALL: [Family; 8] = [
        Family::MathVerse,
        Family::DynaMath,
        Family::Mmk12,
        Family::Geo3k,
        Family::MathVision,
        Family::WeMath,
        Family::LogicVista,
        Family::MmmuPro,
    ];

    /// The kinds that follow one another from cluster to cluster.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Family::MathVerse => &[Kind::Digits(Task::Sum, 2), Kind::Digits(Task::Difference, 2)],
            Family::DynaMath => {
                &[Kind::Digits(Task::Mean, 2), Kind::Digits(Task::Greater, 2), Kind::Digits(Task::Point, 2)]
            }
            Family::Mmk12 => &[Kind::Digits(Task::Product, 2), Kind::Digits(Task::Sum, 3)],
            Family::Geo3k => &[
                Kind::Digits(Task::Ratio, 2),
                Kind::Digits(Task::RatioToSum, 3),
                Kind::Digits(Task::Root, 2),
            ],
            Family::MathVision => &[
                Kind::Count(1),
                Kind::Digits(Task::Sum, 2),
                Kind::Count(2),
                Kind::Count(3),
                Kind::Digits(Task::Sum, 3),
                Kind::Count(4),
            ],
            Family::WeMath => &[Kind::Digits(Task::DifferencePlus, 3)],
            Family::LogicVista => &[Kind::Find, Kind::Odd, Kind::Combine],
            Family::MmmuPro => &[Kind::Rendered],
        }
    }

    /// How items form clusters.
    pub fn rows(self) -> Rows {
        match self {
            Family::MathVerse => Rows::Versions(3),
            Family::DynaMath => Rows::Variants(5),
            Family::WeMath => Rows::Parts(3),
            _ => Rows::Single,
        }
    }

    /// Labels of digit objects.
    pub fn labels(self) -> &'static [char] {
        match self {
            Family::Geo3k | Family::MathVision => &LETTERS,
            _ => &LATE_LETTERS,
        }
    }

    /// The question of a kind that the choices single out, as the `row`-th item of its cluster.
    pub fn pose(self, kind: Kind, row: u64, world_seed: u64, choices: &mut Choices) -> Posed {
        match kind {
            Kind::Digits(task, terms) => self.pose_digits(task, terms, row, world_seed, choices),
            Kind::Count(times) => pose_count(times, choices),
            Kind::Find => pose_find(choices),
            Kind::Odd => pose_odd(choices),
            Kind::Combine => pose_combine(choices),
            Kind::Rendered => pose_rendered(choices),
        }
    }

    fn pose_digits(
        self,
        task: Task,
        terms: usize,
        row: u64,
        world_seed: u64,
        choices: &mut Choices,
    ) -> Posed {
        let labels = task.labels(terms, self.labels(), choices);
        let mut table = task.table(terms);
        let values = match self.rows() {
            Rows::Variants(rows) => {
                let at = ["variants".into(), terms.into()];
                stream(world_seed, Purpose::World, &at).shuffle(&mut table);
                let rows = rows as usize;
                table[choices.below(table.len() / rows) * rows + row as usize].clone()
            }
            _ => choices.one(&table),
        };
        let objects: Vec<_> = labels.iter().copied().zip(values.iter().copied().map(Mark::Digit)).collect();
        let key = key(&format!("{task:?}"), &objects);
        let (task, terms) = self.asked(task, row, &labels, &values);
        let text = match (self, row) {
            (Family::MathVerse, 0) => format!("{} is {}. {}", labels[0], values[0], words(task, &terms)),
            (Family::MathVerse, 2) => short_words(task, &labels),
            _ => words(task, &terms),
        };
        Posed { key, text, task, terms, objects }
    }

    /// Task and terms of the `row`-th item of a cluster on these values.
    fn asked(self, task: Task, row: u64, labels: &[char], values: &[u8]) -> (Task, Vec<Term>) {
        let mut terms: Vec<Term> = labels.iter().copied().map(Term::Look).collect();
        match (self, row) {
            (Family::MathVerse, 0) => terms[0] = Term::Told(labels[0], values[0]),
            (Family::WeMath, 0) => return (Task::Difference, terms[..2].to_vec()),
            (Family::WeMath, 1) => {
                return (Task::Sum, vec![Term::Number(values[0].abs_diff(values[1])), terms[2]]);
            }
            _ => {}
        }
        (task, terms)
    }

    /// The options under the question, where it has any.
    pub fn options_text(self, options: &[u32]) -> String {
        let listed = |between: &str, end: &str| {
            let one = |(at, number): (usize, &u32)| format!("{}{between}{number}{end}", LETTERS[at]);
            options.iter().enumerate().map(one).collect::<String>()
        };
        match self {
            Family::MathVerse => format!("\nChoices:\n{}", listed(" ", "\n").trim_end()),
            Family::Mmk12 => format!("\n{}", listed(" ", "\n").trim_end()),
            Family::WeMath => format!("\n{}D No correct answer", listed(" ", "; ")),
            _ => String::new(),
        }
    }
}

/// Content key: the kind and the objects by label.
fn key(kind: &str, objects: &[(char, Mark)]) -> String {
    let mut key = kind.to_string();
    for (label, mark) in objects {
        // Writing to a String cannot fail.
        let _ = write!(key, " {label}={mark}");
    }
    key
}

/// The question of a digit task.
fn words(task: Task, terms: &[Term]) -> String {
    let name = |at: usize| match terms.get(at) {
        Some(Term::Look(label) | Term::Told(label, _)) => *label,
        _ => '?',
    };
    let (a, b, c) = (name(0), name(1), name(2));
    match (task, terms) {
        (Task::Sum, [Term::Number(n), _]) => format!("The difference is {n}. Add {b}."),
        (Task::Sum, [_, _, _]) => format!("Find the sum of {a}, {b} and {c}."),
        (Task::Difference, _) => format!("Find the difference of {a} and {b}."),
        (Task::Product, _) => format!("Find the product of {a} and {b}."),
        (Task::Mean, _) => format!("Find the mean of {a} and {b}."),
        (Task::Greater, _) => format!("Is {a} greater than {b}?\nchoice: (A) Yes (B) No"),
        (Task::Point, _) => format!("Find the point ({a}, {b})."),
        (Task::Ratio, _) => format!("Find the ratio of {a} to {b}."),
        (Task::RatioToSum, _) => format!("Find the ratio of {a} to the sum of {b} and {c}."),
        (Task::Root, _) => format!("Find {a} times the root of {b}."),
        (Task::DifferencePlus, _) => format!("Find the difference of {a} and {b}, then add {c}."),
        _ => format!("Find the sum of {a} and {b}."),
    }
}

/// The question with as few words as possible.
fn short_words(task: Task, labels: &[char]) -> String {
    let name = if task == Task::Difference { "Difference" } else { "Sum" };
    format!("{name} of {} and {}?", labels[0], labels[1])
}

fn pose_count(times: usize, choices: &mut Choices) -> Posed {
    let labels = choices.subset(&LETTERS, FIGURES);
    let asked = choices.one(&Shape::ALL);
    let others: Vec<Shape> = Shape::ALL.into_iter().filter(|&shape| shape != asked).collect();
    let counted = choices.subset(&labels, times);
    let shapes: Vec<Shape> = (times..FIGURES).map(|_| choices.one(&others)).collect();
    let colours: Vec<Colour> = (0..FIGURES).map(|_| choices.one(&Colour::ALL)).collect();
    let mut shapes = shapes.into_iter();
    let shape_of = labels.iter().map(|label| match counted.contains(label) {
        true => asked,
        false => shapes.next().unwrap_or(asked),
    });
    let figures = shape_of.zip(colours).map(|(shape, colour)| Mark::Figure(Figure { colour, shape }));
    let objects: Vec<_> = labels.iter().copied().zip(figures).collect();
    Posed {
        key: key(&format!("Count {asked}"), &objects),
        text: format!("How many {} are there?", asked.plural()),
        task: Task::Count(asked),
        terms: Vec::new(),
        objects,
    }
}

fn pose_find(choices: &mut Choices) -> Posed {
    let labels = choices.subset(&LETTERS, FIGURES);
    let figures = choices.ordered(&Figure::all(), FIGURES);
    let asked = choices.one(&figures);
    let objects: Vec<_> = labels.into_iter().zip(figures.into_iter().map(Mark::Figure)).collect();
    Posed {
        key: key(&format!("Find {asked}"), &objects),
        text: format!("Which object is a {asked}?"),
        task: Task::Find(asked),
        terms: Vec::new(),
        objects,
    }
}

fn pose_odd(choices: &mut Choices) -> Posed {
    let labels = choices.subset(&LETTERS, FIGURES);
    let common = choices.one(&Shape::ALL);
    let unlike: Vec<Shape> = Shape::ALL.into_iter().filter(|&shape| shape != common).collect();
    let odd = choices.one(&unlike);
    let odd_label = choices.one(&labels);
    let mark = |label: char, colour| {
        Mark::Figure(Figure { colour, shape: if label == odd_label { odd } else { common } })
    };
    let objects: Vec<_> =
        labels.iter().map(|&label| (label, mark(label, choices.one(&Colour::ALL)))).collect();
    Posed {
        key: key("Odd", &objects),
        text: "Which object is the odd one out?".into(),
        task: Task::Odd,
        terms: Vec::new(),
        objects,
    }
}

/// The first label gives the shape, the second the colour, the third is the answer.
fn pose_combine(choices: &mut Choices) -> Posed {
    let named = choices.ordered(&LETTERS, 3);
    let first = choices.one(&Figure::all());
    let unlike = |figure: &Figure| figure.shape != first.shape && figure.colour != first.colour;
    let second = choices.one(&Figure::all().into_iter().filter(unlike).collect::<Vec<_>>());
    let answer = Figure { colour: second.colour, shape: first.shape };
    let free = |figure: &Figure| ![first, second, answer].contains(figure);
    let rest = choices.ordered(&Figure::all().into_iter().filter(free).collect::<Vec<_>>(), FIGURES - 3);
    let others: Vec<char> = LETTERS.into_iter().filter(|label| !named.contains(label)).collect();
    let labels = named.iter().copied().chain(choices.subset(&others, FIGURES - 3));
    let figures = [first, second, answer].into_iter().chain(rest);
    let objects: Vec<_> = labels.zip(figures.map(Mark::Figure)).collect();
    Posed {
        key: key("Combine", &objects),
        text: format!("Which object has the shape of {} and the colour of {}?", named[0], named[1]),
        task: Task::Combine,
        terms: named[..2].iter().copied().map(Term::Look).collect(),
        objects,
    }
}

fn pose_rendered(choices: &mut Choices) -> Posed {
    let (sign, a, b) = choices.one(&rendered_problems());
    let options = choices.ordered(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], LETTERS.len());
    let question = RENDERED.into_iter().zip([Mark::Digit(a), Mark::Digit(b), Mark::Sign(sign)]);
    let objects: Vec<_> =
        question.chain(LETTERS.into_iter().zip(options.into_iter().map(Mark::Digit))).collect();
    Posed {
        key: key("Rendered", &objects),
        text: "Answer the question in the picture.".into(),
        task: Task::Rendered,
        terms: RENDERED[..2].iter().copied().map(Term::Look).collect(),
        objects,
    }
}

/// Sign and numbers of every problem whose answer is a digit, products with 0 left out.
fn rendered_problems() -> Vec<(char, u8, u8)> {
    let pairs = (0..100u8).map(|n| (n / 10, n % 10));
    let signs = |(a, b): (u8, u8)| {
        [('+', a + b <= 9), ('-', a >= b), ('x', a * b >= 1 && a * b <= 9)]
            .into_iter()
            .filter(|(_, allowed)| *allowed)
            .map(move |(sign, _)| (sign, a, b))
    };
    pairs.flat_map(signs).collect()
}
