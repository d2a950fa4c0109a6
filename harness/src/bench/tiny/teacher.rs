//! Worked solutions: a few looks at the picture, short reasoning, one boxed answer, all on one line.
//!
//! One routine works for the perfect teacher, who also makes the gold answers, and for the one who errs: an
//! error changes a value and all that follows is consistent with it. A reading by label is written `F 7` and a
//! step of arithmetic `7 + 5 = 12.` wherever it occurs; no word stands between a label and its value.

use super::picture::{Colour, Figure, Mark, Object, Shape};
use super::question::{RENDERED, Task, Term};
use crate::rng::Stream;

/// Where the answer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Options {
    /// The answer itself.
    Free,
    /// The letter of one of these numbers.
    Listed(Vec<u32>),
    /// The letter of one of these numbers, or the next letter where none of them is right.
    OrNone(Vec<u32>),
}

/// How and by which draws a teacher errs.
pub(super) struct Errors<'a> {
    /// Source of all its errors.
    pub stream: &'a mut Stream,
    /// Probability of reading another value at one look.
    pub misread: f64,
    /// Probability of going wrong at one step of reasoning.
    pub slip: f64,
}

/// Someone who looks at a picture and writes.
pub(super) struct Teacher<'a> {
    objects: &'a [Object],
    errors: Option<Errors<'a>>,
    sentences: Vec<String>,
}

/// What a task comes to.
pub(super) enum Found {
    /// A number, which an option may stand for.
    Number(u32),
    /// The final answer.
    Text(String),
}

impl<'a> Teacher<'a> {
    /// One who makes no errors if there are none to make.
    pub fn new(objects: &'a [Object], errors: Option<Errors<'a>>) -> Self {
        Self { objects, errors, sentences: Vec::new() }
    }

    /// The worked solution and its answer.
    pub fn solve(mut self, task: Task, terms: &[Term], options: &Options) -> (String, String) {
        let answer = match task {
            Task::Count(shape) => self.count(shape).to_string(),
            Task::Find(figure) => self.find_figure(figure).to_string(),
            Task::Odd => self.find_odd().to_string(),
            Task::Combine => self.combine(terms).to_string(),
            Task::Rendered => self.rendered(terms).to_string(),
            _ => {
                let values = self.read(terms);
                match self.work(task, &values) {
                    Found::Text(answer) => answer,
                    Found::Number(number) => self.choose(number, options),
                }
            }
        };
        (format!("<think> {} </think>\\boxed{{{answer}}}", self.sentences.join(" ")), answer)
    }

    fn write(&mut self, sentence: String) {
        self.sentences.push(sentence);
    }

    // --- errors ---

    fn misreads(&mut self) -> bool {
        self.errors.as_mut().is_some_and(|errors| errors.stream.chance(errors.misread))
    }

    fn slips(&mut self) -> bool {
        self.errors.as_mut().is_some_and(|errors| errors.stream.chance(errors.slip))
    }

    /// A uniform draw of those who err; who does not err takes the first.
    fn any<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        let at = self.errors.as_mut().map_or(0, |errors| errors.stream.below(items.len()));
        items.get(at).cloned()
    }

    /// What a look at `seen` yields: itself or, misread, another of `all`.
    fn look<T: Clone + PartialEq>(&mut self, seen: T, all: &[T]) -> T {
        if !self.misreads() {
            return seen;
        }
        let others: Vec<T> = all.iter().filter(|&other| *other != seen).cloned().collect();
        self.any(&others).unwrap_or(seen)
    }

    /// What a step of reasoning to `exact` yields: itself or, after a slip, `by` more or less.
    fn step(&mut self, exact: u32, by: u32) -> u32 {
        match self.slips() {
            false => exact,
            true if exact < by => exact + by,
            true => self.any(&[exact - by, exact + by]).unwrap_or(exact),
        }
    }

    // --- looks ---

    fn mark(&self, label: char) -> Option<Mark> {
        self.objects.iter().find(|object| object.label == label).map(|object| object.mark)
    }

    /// The value of every term; writes down, in one sentence, those that belong to an object.
    fn read(&mut self, terms: &[Term]) -> Vec<u8> {
        let mut facts = Vec::new();
        let mut values = Vec::new();
        for term in terms {
            let value = match *term {
                Term::Number(value) | Term::Told(_, value) => value,
                Term::Look(label) => self.read_digit(label),
            };
            if let Term::Look(label) | Term::Told(label, _) = term {
                facts.push(format!("{label} {value}"));
            }
            values.push(value);
        }
        self.write(format!("{}.", facts.join(", ")));
        values
    }

    fn read_digit(&mut self, label: char) -> u8 {
        match self.mark(label) {
            Some(Mark::Digit(digit)) => self.look(digit, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            _ => 0,
        }
    }

    fn read_figure(&mut self, label: char) -> Figure {
        match self.mark(label) {
            Some(Mark::Figure(figure)) => self.look(figure, &Figure::all()),
            _ => Figure { colour: Colour::Red, shape: Shape::Circle },
        }
    }

    /// The label of the object that `fits`, or of some object where none does.
    fn find(&mut self, fits: impl Fn(Mark) -> bool) -> char {
        let answers = |object: &&Object| !RENDERED.contains(&object.label);
        let all: Vec<char> = self.objects.iter().filter(answers).map(|object| object.label).collect();
        let fitting: Vec<char> =
            self.objects.iter().filter(answers).filter(|o| fits(o.mark)).map(|o| o.label).collect();
        let found = match fitting.as_slice() {
            [label] => *label,
            [] => self.any(&all).unwrap_or('A'),
            several => self.any(several).unwrap_or('A'),
        };
        self.look(found, &all)
    }

    // --- tasks on digits ---

    /// Works a digit task on these values.
    pub fn work(&mut self, task: Task, v: &[u8]) -> Found {
        let value = |at: usize| v.get(at).copied().map_or(0, u32::from);
        let (a, b, c) = (value(0), value(1), value(2));
        match task {
            Task::Difference => Found::Number(self.difference(a, b)),
            Task::DifferencePlus => {
                let difference = self.difference(a, b);
                Found::Number(self.equation(difference, '+', c))
            }
            Task::Product => Found::Number(self.equation(a, 'x', b)),
            Task::Mean => Found::Text(self.mean(a, b)),
            Task::Greater => Found::Text(self.greater(a, b)),
            Task::Point => Found::Text(self.point(a, b)),
            Task::Ratio => Found::Text(self.ratio(a, b)),
            Task::RatioToSum => {
                let sum = self.equation(b, '+', c);
                Found::Text(self.ratio(a, sum))
            }
            Task::Root => Found::Text(self.root(a, b)),
            _ => {
                let rest: Vec<u32> = v.iter().skip(1).copied().map(u32::from).collect();
                Found::Number(rest.into_iter().fold(a, |sum, next| self.equation(sum, '+', next)))
            }
        }
    }

    /// One step of arithmetic; a difference never goes below 0.
    fn equation(&mut self, a: u32, sign: char, b: u32) -> u32 {
        let exact = match sign {
            '+' => a + b,
            'x' => a * b,
            _ => a.saturating_sub(b),
        };
        let result = self.step(exact, 1);
        self.write(format!("{a} {sign} {b} = {result}."));
        result
    }

    fn difference(&mut self, a: u32, b: u32) -> u32 {
        self.equation(a.max(b), '-', a.min(b))
    }

    fn mean(&mut self, a: u32, b: u32) -> String {
        let sum = self.equation(a, '+', b);
        let halves = self.step(sum, 2);
        let mean = format!("{}.{}", halves / 2, halves % 2 * 5);
        self.write(format!("{sum} / 2 = {mean}."));
        mean
    }

    fn greater(&mut self, a: u32, b: u32) -> String {
        let sign = match self.slips() {
            true => {
                if a > b {
                    '<'
                } else {
                    '>'
                }
            }
            false => match a.cmp(&b) {
                std::cmp::Ordering::Greater => '>',
                std::cmp::Ordering::Equal => '=',
                std::cmp::Ordering::Less => '<',
            },
        };
        self.write(format!("{a} {sign} {b}."));
        let (word, letter) = if sign == '>' { ("Yes", "A") } else { ("No", "B") };
        self.write(format!("{word} {letter}."));
        letter.into()
    }

    /// The pair, or after a slip the pair the wrong way round.
    fn in_order(&mut self, a: u32, b: u32) -> (u32, u32) {
        if self.slips() { (b, a) } else { (a, b) }
    }

    fn point(&mut self, a: u32, b: u32) -> String {
        let (x, y) = self.in_order(a, b);
        self.write(format!("The point is ({x}, {y})."));
        format!("({x}, {y})")
    }

    fn ratio(&mut self, a: u32, b: u32) -> String {
        let (above, below) = self.in_order(a, b);
        let ratio = format!("\\frac{{{above}}}{{{below}}}");
        self.write(format!("The ratio is {ratio}."));
        ratio
    }

    fn root(&mut self, a: u32, b: u32) -> String {
        let product = format!("{} \\sqrt{{{b}}}", self.step(a, 1));
        self.write(format!("The product is {product}."));
        product
    }

    /// The answer that stands for a number: itself, or the letter of its option. A number that is no
    /// option where one must be right is passed off as a random one.
    fn choose(&mut self, number: u32, options: &Options) -> String {
        let (numbers, or_none) = match options {
            Options::Free => return number.to_string(),
            Options::Listed(numbers) => (numbers, false),
            Options::OrNone(numbers) => (numbers, true),
        };
        let letters: Vec<char> = ('A'..).take(numbers.len() + usize::from(or_none)).collect();
        let matching = numbers.iter().position(|&option| option == number);
        let letter = match matching {
            Some(at) => letters[at],
            None if or_none => letters[numbers.len()],
            None => self.any(&letters).unwrap_or('A'),
        };
        let others: Vec<char> = letters.iter().copied().filter(|&other| other != letter).collect();
        let letter = if self.slips() { self.any(&others).unwrap_or(letter) } else { letter };
        self.write(format!("{number} {letter}."));
        letter.into()
    }

    // --- tasks on figures, and the question that is a picture ---

    /// Looks at the shape of every object, writes down those that count.
    fn count(&mut self, shape: Shape) -> u32 {
        let mut counted = Vec::new();
        for object in self.objects {
            if let Mark::Figure(figure) = object.mark
                && self.look(figure.shape, &Shape::ALL) == shape
            {
                counted.push(object.label.to_string());
            }
        }
        let exact = counted.len() as u32;
        let labels = if counted.is_empty() { "none".to_string() } else { counted.join(", ") };
        self.write(format!("{} {labels}.", shape.plural()));
        let count = self.step(exact, 1);
        self.write(format!("The count is {count}."));
        count
    }

    fn find_figure(&mut self, figure: Figure) -> char {
        let label = self.find(|mark| mark == Mark::Figure(figure));
        self.write(format!("{figure} {label}."));
        label
    }

    fn find_odd(&mut self) -> char {
        let of = |shape: &Shape| {
            let same =
                |object: &&Object| matches!(object.mark, Mark::Figure(figure) if figure.shape == *shape);
            self.objects.iter().filter(same).count()
        };
        let common = Shape::ALL.into_iter().max_by_key(of).unwrap_or(Shape::Circle);
        let common = self.look(common, &Shape::ALL);
        let label = self.find(|mark| !matches!(mark, Mark::Figure(figure) if figure.shape == common));
        self.write(format!("Most are {}, {label} is not.", common.plural()));
        label
    }

    /// The shape of the first term, the colour of the second; a slip takes them the wrong way round.
    fn combine(&mut self, terms: &[Term]) -> char {
        let mut read = Vec::new();
        for term in terms {
            if let Term::Look(label) = *term {
                read.push((label, self.read_figure(label)));
            }
        }
        let facts: Vec<String> = read.iter().map(|(label, figure)| format!("{label} {figure}")).collect();
        self.write(format!("{}.", facts.join(", ")));
        if self.slips() {
            read.reverse();
        }
        let shape = read.first().map_or(Shape::Circle, |(_, figure)| figure.shape);
        let colour = read.last().map_or(Colour::Red, |(_, figure)| figure.colour);
        let wanted = Figure { colour, shape };
        self.write(format!("Find {wanted}."));
        self.find_figure(wanted)
    }

    /// Reads numbers and sign, works the problem, looks for the option that shows the result.
    fn rendered(&mut self, terms: &[Term]) -> char {
        let digits: Vec<(char, u8)> = terms
            .iter()
            .filter_map(|term| if let Term::Look(label) = term { Some(*label) } else { None })
            .map(|label| (label, self.read_digit(label)))
            .collect();
        let sign = match self.mark('?') {
            Some(Mark::Sign(sign)) => self.look(sign, &['+', '-', 'x']),
            _ => '+',
        };
        let facts: String = digits.iter().map(|(label, digit)| format!("{label} {digit}, ")).collect();
        self.write(format!("{facts}sign {sign}."));
        let value = |at: usize| digits.get(at).map_or(0, |(_, digit)| u32::from(*digit));
        let result = self.equation(value(0), sign, value(1));
        let label = self.find(|mark| matches!(mark, Mark::Digit(digit) if u32::from(digit) == result));
        self.write(format!("{result} {label}."));
        label
    }
}
