//! What kind of token a token is, by its text and the markup that it is a part of.
//!
//! A rule of thumb for pictures of dependency, not a parser: spelled numbers are words, `I` is a letter even where it is a
//! pronoun, and a token that holds several things is what its first says. It does not know any tokenizer.

use regex::Regex;
use std::ops::Range;
use std::sync::LazyLock;

/// Kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    /// Digits: `9`, ` 72`, `3.5`, `50%`.
    Number,
    /// A letter or a few capitals that name an option, a variable, a point or a line, and LaTeX symbols: `B`, ` ABC`, `(C`,
    /// `\theta`, `\angle`.
    Letter,
    /// An operator or a relation, also in LaTeX: `+`, ` =`, `<`, `\times`, `\frac`.
    Operator,
    /// Other words and parts of words.
    Word,
    /// Punctuation, brackets, white space, and whatever is nothing else.
    Punctuation,
    /// Markup: `<think>`, `\boxed{`, end tokens, dollar signs and other LaTeX commands, `**`.
    Markup,
}

/// Markup that may stretch over several tokens.
static MARKUP: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"</?[a-z_]{3,}>|<\|[^|<>]*\|>|\\boxed\s*\{?|\\[A-Za-z]+|\\[()\[\]]|\*\*|\$+").ok()
});

/// LaTeX commands that stand for an operator or a relation.
const OPERATORS: [&str; 26] = [
    "times",
    "cdot",
    "div",
    "pm",
    "mp",
    "frac",
    "dfrac",
    "tfrac",
    "sqrt",
    "le",
    "leq",
    "ge",
    "geq",
    "lt",
    "gt",
    "ne",
    "neq",
    "approx",
    "sim",
    "simeq",
    "cong",
    "equiv",
    "perp",
    "parallel",
    "to",
    "Rightarrow",
];
/// LaTeX commands that arrange or name what follows, and mean nothing by themselves.
const ARRANGING: [&str; 24] = [
    "boxed",
    "text",
    "textbf",
    "textit",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "left",
    "right",
    "big",
    "Big",
    "begin",
    "end",
    "quad",
    "qquad",
    "displaystyle",
    "overline",
    "underline",
    "hline",
    "label",
    "tag",
    "hspace",
    "newline",
];
/// Characters that are operators or relations.
const SIGNS: &str = "+-−–*/=<>≤≥≠≈×÷·^±√∥⊥∠~∼≅→⇒∴∵|&";
/// Most capitals in a row that name points rather than being a word.
const LABEL_LETTERS: usize = 4;

impl TokenKind {
    /// All kinds, in the order in which figures list them.
    pub const ALL: [TokenKind; 6] = [
        TokenKind::Number,
        TokenKind::Letter,
        TokenKind::Operator,
        TokenKind::Word,
        TokenKind::Punctuation,
        TokenKind::Markup,
    ];

    /// Its name in figures and their tables.
    pub fn name(self) -> &'static str {
        match self {
            TokenKind::Number => "number",
            TokenKind::Letter => "letter, label",
            TokenKind::Operator => "operator",
            TokenKind::Word => "word",
            TokenKind::Punctuation => "punctuation",
            TokenKind::Markup => "markup",
        }
    }

    /// The kind of each token of a response. Markup is recognised across tokens, since tokenizers break it (`\`, `boxed`,
    /// `{`): a token belongs to it if its first character that is no white space does.
    pub fn of_response(text_t: &[String]) -> Vec<TokenKind> {
        let whole = text_t.concat();
        let spans = spans(&whole);
        let mut from = 0;
        let of = |text: &String| {
            let first = from + text.len() - text.trim_start().len();
            from += text.len();
            let inside = spans.iter().find(|(span, _)| span.contains(&first) && !text.trim().is_empty());
            inside.map_or_else(|| of_plain(text), |(_, kind)| *kind)
        };
        text_t.iter().map(of).collect()
    }
}

/// Where markup stands in a text, and what it is.
fn spans(text: &str) -> Vec<(Range<usize>, TokenKind)> {
    let Some(markup) = MARKUP.as_ref() else { return vec![] };
    markup.find_iter(text).map(|found| (found.range(), of_markup(found.as_str()))).collect()
}

fn of_markup(text: &str) -> TokenKind {
    let Some(command) = text.strip_prefix('\\') else { return TokenKind::Markup };
    let command = command.trim_end_matches('{').trim_end();
    match command {
        _ if OPERATORS.contains(&command) => TokenKind::Operator,
        _ if ARRANGING.contains(&command) => TokenKind::Markup,
        _ if command.starts_with(char::is_alphabetic) => TokenKind::Letter,
        _ => TokenKind::Markup,
    }
}

/// The kind of a token that is no markup.
fn of_plain(text: &str) -> TokenKind {
    let token = text.trim();
    let name = token.trim_matches(|c: char| !c.is_alphanumeric());
    if name.is_empty() {
        return of_signs(token);
    }
    if name.starts_with(char::is_numeric) {
        return TokenKind::Number;
    }
    if !name.starts_with(char::is_alphabetic) {
        return TokenKind::Punctuation;
    }
    let contraction = token.starts_with(['\'', '’']);
    let article = text.starts_with(' ') && name == "a";
    let letters = name.chars().count();
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    let label = (letters == 1 && name.chars().all(cased))
        || (letters <= LABEL_LETTERS && name.chars().all(char::is_uppercase));
    if label && !contraction && !article { TokenKind::Letter } else { TokenKind::Word }
}

/// The kind of a token without letters and digits. A row of dashes is a rule, not a minus.
fn of_signs(token: &str) -> TokenKind {
    let rule = token.len() > 1 && token.chars().all(|c| c == '-');
    let operator = !rule && token.chars().any(|c| SIGNS.contains(c));
    if operator { TokenKind::Operator } else { TokenKind::Punctuation }
}

#[cfg(test)]
mod tests {
    use super::TokenKind::{self, Letter, Markup, Number, Operator, Punctuation, Word};

    fn kinds(tokens: &[&str]) -> Vec<TokenKind> {
        TokenKind::of_response(&tokens.iter().map(|&token| token.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn single_tokens_by_kind() {
        let cases: [(TokenKind, &[&str]); 6] = [
            (Number, &["9", " 72", "3.5", "50%", " 12.", "-3", "(4", "½", "3rd"]),
            (Letter, &["B", " H", "(A", " x", ".B", " ABC", "AB", "θ", "\\theta", "\\angle", " I"]),
            (Operator, &["+", " =", " -.", "<", ">=", "×", " /", "\\times", "\\frac", "√", "->"]),
            (Word, &[" green", "Find", " a", "'s", "'t", " parallel", "sqrt", "two", "x1", "ABCDE", " Yes"]),
            (Punctuation, &[".", ",", " ", "", "\n\n", "}{", "}.", "�", "---", ")."]),
            (Markup, &["<think>", "</think>", "\\boxed{", "<|im_end|>", "\\text", "$", "**", "\\(", "\\["]),
        ];
        for (kind, tokens) in cases {
            for token in tokens {
                assert_eq!(kinds(&[token]), [kind], "{token:?}");
            }
        }
    }

    #[test]
    fn markup_is_seen_across_tokens() {
        assert_eq!(
            kinds(&[
                "<", "think", ">\n", "The", " ratio", " is", " \\", "sqrt", "{", "2", "}", " <", " ", "3"
            ]),
            [Markup, Markup, Markup, Word, Word, Word, Operator, Operator, Punctuation, Number, Punctuation]
                .into_iter()
                .chain([Operator, Punctuation, Number])
                .collect::<Vec<_>>()
        );
        assert_eq!(
            kinds(&["</", "think", ">\n\n", "\\", "boxed", "{", "B", "}", "<|im_end|>"]),
            [Markup, Markup, Markup, Markup, Markup, Markup, Letter, Punctuation, Markup]
        );
    }

    #[test]
    fn a_comparison_is_no_markup() {
        assert_eq!(kinds(&["a", " <", " b", ",", " c", " >", " d"])[1], Operator);
        assert_eq!(kinds(&["x", "<", "y", ">", "z"])[1], Operator, "x<y>z");
    }

    #[test]
    fn every_token_has_a_kind() {
        assert_eq!(kinds(&[]), []);
        assert_eq!(kinds(&["é", "语", "é语 "]), [Letter, Word, Word]);
    }
}
