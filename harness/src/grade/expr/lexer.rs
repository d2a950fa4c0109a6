//! Python's tokens, and the names split into symbols.

use super::{MAX_BYTES, MAX_DIGITS, Stop};

/// A token of the grammar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    /// Decimal digits.
    Integer(&'a str),
    /// Digits with a point or an exponent.
    Decimal(&'a str),
    /// The circle constant.
    Pi,
    /// One free variable.
    Symbol(&'a str),
    /// The square root function.
    Sqrt,
    /// An operator or bracket.
    Op(&'static str),
}

/// A token and how it stands to the one before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lexeme<'a> {
    /// The token.
    pub token: Token<'a>,
    /// A line ends before it, so no product sign is put there.
    pub after_newline: bool,
    /// It continues a name, such as the `b` of `ab`.
    pub inside_name: bool,
}

/// Operators that the parser knows, longest first.
const OPERATORS: [&str; 24] = [
    "**", "//", "<<", ">>", "<=", ">=", "...", "+", "-", "*", "/", "(", ")", ",", "<", ">", "!", ".", "&",
    "|", "~", "@", "[", "]",
];

/// Names of at most two different letters that mean something to sympy or to Python.
const TAKEN_NAMES: [&str; 28] = [
    "nan", "oo", "zoo", "gff", "rf", "ff", "re", "im", "csc", "ln", "li", "jn", "yn", "hn1", "hn2", "fft",
    "ntt", "fu", "eye", "all", "id", "frac", "as", "if", "in", "is", "or", "lambda",
];

/// Names that are one variable although they have several letters: Greek letters.
const WHOLE_NAMES: [&str; 3] = ["mu", "nu", "xi"];

/// Attributes that numbers and symbols have, among names of at most two letters.
const ATTRIBUTES: [&str; 3] = ["n", "p", "q"];

/// Splits a text into tokens.
pub fn tokens(text: &str) -> Result<Vec<Lexeme<'_>>, Stop> {
    if text.len() > MAX_BYTES {
        return Err(Stop::Beyond);
    }
    check_characters(text)?;
    let mut lexer = Lexer { text, at: 0, depth: 0, lexemes: Vec::new(), after_newline: false };
    while lexer.at < text.len() {
        lexer.step()?;
    }
    Ok(lexer.lexemes)
}

/// Settles texts whose fate one character decides.
fn check_characters(text: &str) -> Result<(), Stop> {
    let has = |part: &str| text.contains(part);
    let compares = has("==") || has("!=");
    let quotes = text.matches(['\'', '"']).count();
    if quotes > 0 {
        let evaluates = compares || has("<") || has(">") || has("sqrt(") || has("frac(");
        return Err(if evaluates && quotes > 1 { Stop::Beyond } else { Stop::Refused });
    }
    if has("#") || has("\\") {
        return Err(if has("\n") { Stop::Beyond } else { Stop::Refused });
    }
    let without_comparisons =
        ["==", "!=", "<=", ">=", ":="].iter().fold(text.to_string(), |t, op| t.replace(op, " "));
    if without_comparisons.contains(['=', ':']) || text.chars().any(is_fatal) {
        return Err(Stop::Refused);
    }
    if compares || has(":=") || has("\r") {
        return Err(Stop::Beyond);
    }
    let has_sequence = has(",") || has("[");
    if is_repeating_decimal(text) || (has_sequence && (has("<") || has(">"))) {
        return Err(Stop::Beyond);
    }
    Ok(())
}

/// Whether no Python source may hold the character outside strings and comments.
fn is_fatal(c: char) -> bool {
    match c {
        '\t' | '\n' | '\x0c' | '\r' => false,
        '$' | '?' | ';' | '`' | '{' | '}' => true,
        _ => c.is_ascii_control() || (!c.is_ascii() && !c.is_alphanumeric()),
    }
}

/// `0.2[1]`, which sympy reads as a number.
fn is_repeating_decimal(text: &str) -> bool {
    text.match_indices('[').any(|(at, _)| {
        let before = text[..at].trim_end_matches(|c: char| c.is_ascii_digit());
        before.ends_with('.')
    })
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    lexemes: Vec<Lexeme<'a>>,
    after_newline: bool,
}

impl<'a> Lexer<'a> {
    fn step(&mut self) -> Result<(), Stop> {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return Ok(()) };
        let point_number = first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit());
        if first.is_ascii_digit() || point_number {
            return self.number(rest);
        }
        if first == '_' || first.is_alphanumeric() {
            return self.name(rest);
        }
        match first {
            ' ' | '\t' | '\x0c' => self.at += 1,
            '\n' if self.depth == 0 => return Err(Stop::Beyond),
            '\n' => {
                self.after_newline = true;
                self.at += 1;
            }
            _ => {
                let op = OPERATORS.into_iter().find(|op| rest.starts_with(op)).ok_or(Stop::Refused)?;
                self.depth = match op {
                    "(" => self.depth + 1,
                    ")" => self.depth.saturating_sub(1),
                    _ => self.depth,
                };
                self.push(Token::Op(op), op.len(), false);
            }
        }
        Ok(())
    }

    fn push(&mut self, token: Token<'a>, length: usize, inside_name: bool) {
        self.lexemes.push(Lexeme { token, after_newline: self.after_newline, inside_name });
        self.after_newline = false;
        self.at += length;
    }

    fn number(&mut self, rest: &'a str) -> Result<(), Stop> {
        let whole = digits(rest);
        let mut end = whole;
        if rest[end..].starts_with('.') {
            end += 1 + digits(&rest[end + 1..]);
        }
        end += exponent(&rest[end..]);
        let is_integer = end == whole;
        if is_integer && rest.starts_with('0') {
            end = rest.len() - rest.trim_start_matches('0').len();
        }
        let behind = &rest.as_bytes()[end..];
        let radix_prefix = is_integer && &rest[..end] == "0" && starts_with_radix(behind);
        let goes_on = matches!(behind.first(), Some(b'j'))
            || (behind.first() == Some(&b'_') && behind.get(1).is_some_and(u8::is_ascii_digit));
        if radix_prefix || goes_on || end > MAX_DIGITS {
            return Err(Stop::Beyond);
        }
        let literal = &rest[..end];
        let token = if is_integer { Token::Integer(literal) } else { Token::Decimal(literal) };
        self.push(token, end, false);
        Ok(())
    }

    fn name(&mut self, rest: &'a str) -> Result<(), Stop> {
        let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        let name = &rest[..length];
        if self.lexemes.last().is_some_and(|last| last.token == Token::Op(".")) {
            return Err(if ATTRIBUTES.contains(&name) { Stop::Beyond } else { Stop::Refused });
        }
        let whole = match name {
            "pi" => Token::Pi,
            "sqrt" => Token::Sqrt,
            _ if TAKEN_NAMES.contains(&name) => return Err(Stop::Beyond),
            _ if name.contains('_') || WHOLE_NAMES.contains(&name) => Token::Symbol(name),
            _ => return self.letters(name),
        };
        self.push(whole, length, false);
        Ok(())
    }

    /// Every letter of a name is a variable, every run of digits a number.
    fn letters(&mut self, name: &'a str) -> Result<(), Stop> {
        let end = self.at + name.len();
        let start = self.at;
        if name.chars().next().is_some_and(|first| !first.is_alphabetic()) {
            return Err(Stop::Refused);
        }
        while self.at < end {
            let rest = &name[self.at - start..];
            let number = digits(rest);
            let first = rest.chars().next().ok_or(Stop::Beyond)?;
            if number > 0 {
                let literal = &rest[..number];
                let leading_zero = literal.starts_with('0') && literal.bytes().any(|digit| digit != b'0');
                if leading_zero {
                    return Err(Stop::Refused);
                }
                self.push(Token::Integer(literal), number, self.at > start);
            } else if first.is_alphabetic() {
                let length = first.len_utf8();
                self.push(Token::Symbol(&rest[..length]), length, self.at > start);
            } else {
                return Err(if is_superscript(first) { Stop::Refused } else { Stop::Beyond });
            }
        }
        Ok(())
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// The length of an exponent such as `e-3`, or 0.
fn exponent(text: &str) -> usize {
    let Some(rest) = text.strip_prefix('e') else { return 0 };
    let sign = usize::from(rest.starts_with(['+', '-']));
    match digits(&rest[sign..]) {
        0 => 0,
        count => 1 + sign + count,
    }
}

fn starts_with_radix(behind: &[u8]) -> bool {
    let digit = behind.get(1).copied().unwrap_or(b' ');
    match behind.first() {
        Some(b'x') => digit.is_ascii_hexdigit() || digit == b'_',
        Some(b'o' | b'b') => digit.is_ascii_digit() || digit == b'_',
        _ => false,
    }
}

/// Digits to Python's `isdigit` that are no numerals: sympy raises when it meets them in a name.
fn is_superscript(c: char) -> bool {
    matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉')
}
