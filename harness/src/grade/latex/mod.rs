//! LaTeX to plain text, as far as answers need it.
//!
//! Source: pylatexenc 2.10, `LatexNodes2Text().latex_to_text` with its default settings (tolerant
//! parsing, LaTeX's rules for blanks outside formulas), on which the second normal form rests. The
//! symbol table is its table of macros that stand for fixed text (MIT licence), without Cyrillic.
//!
//! Facts that decide verdicts: `\frac{a}{b}` is `a/b` without brackets; a fraction without its
//! arguments is the literal `%s/%s`; a root without its argument raises; an unknown macro vanishes
//! and its braces are read as a group; a matrix becomes `[ 1 2; 3 4 ]`; `\mbox` swallows its text.
//!
//! Not covered, reported as [`LatexFault::Unknown`]: document commands (`\section`, `\cite`,
//! `\newcommand`, ...), Cyrillic letters, `verbatim`, accents over letters outside ASCII, more than
//! [`MAX_DEPTH`] nested groups, [`MAX_BYTES`] of source and [`MAX_STEPS`] tokens.

mod macros;
mod render;
mod walk;

/// Deepest nesting of groups, formulas and arguments that is followed.
pub const MAX_DEPTH: usize = 60;

/// Tokens read before the text counts as hostile (arguments are read again after a failure, so a
/// short text can ask for exponentially many).
pub const MAX_STEPS: usize = 5_000;

/// Longest source that is read, in bytes.
const MAX_BYTES: usize = 20_000;

/// Why there is no plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatexFault {
    /// The reference raises here, and goes on with the text as it was.
    Raises,
    /// What the reference does here is not reproduced.
    Unknown,
}

/// The plain text of a LaTeX source.
pub fn to_text(source: &str) -> Result<String, LatexFault> {
    if source.len() > MAX_BYTES {
        return Err(LatexFault::Unknown);
    }
    let nodes = walk::parse(source)?;
    render::render(&nodes)
}

/// A parsed piece of LaTeX.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// Plain characters.
    Chars(String),
    /// A group in braces or brackets.
    Group(Vec<Node>),
    /// A macro; `args` is `None` where it was read without looking for arguments, or they failed.
    Macro { name: String, args: Option<Vec<Option<Node>>>, space_after: String },
    /// Everything between `\begin{name}` and `\end{name}`.
    Environment { name: String, body: Vec<Node> },
    /// Characters with a meaning of their own, such as `&`.
    Special(&'static str),
    /// `\( \)` or, if `display`, `\[ \]`.
    Math { display: bool, body: Vec<Node> },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendering_as_the_reference_does() {
        for (source, text) in [
            (r"\frac{1}{2}", "1/2"),
            (r"\frac12", "1/2"),
            (r"\frac", "%s/%s"),
            (r"\frac{1", "%s/%s1"),
            (r"\frac\pi2", "π/2"),
            (r"\sqrt 3", "√(3)"),
            (r"\sqrt[3]{8}", "√(8)"),
            (r"\sqrt{3", "√(3)"),
            (r"\pi r \alpha", "πr α"),
            (r"\text{a b}\textbf c", "a bc"),
            (r"\mbox{cm}\boxed{5}\unknown{6}", "56"),
            (r"\mathbf{Ab}\mathbb R\mathcal{B}\mathit{h}", "𝐀𝐛ℝℬℎ"),
            (r"\hat{xy}\vec a\hat", "x\u{302}ŷa\u{20d7} \u{302}"),
            (r"\(\pi r\)", "π r"),
            (r"\[x\]", "\n    x\n"),
            (r"a~b--c&d", "a\u{a0}b–c   d"),
            (r"x}y{z", "xyz"),
            (r"a\\b\,c\", "a\nb c"),
            (r"\begin{pmatrix}1&22\\3&4\end{pmatrix}", "[  1 22;  3  4 ]"),
            (r"\begin{cases}x\end{cases}", "x"),
            (r"\begin{array}{c}1\end{array}", "[ 1 ]"),
            (r"\begin x", r"\begin x"),
        ] {
            assert_eq!(to_text(source).as_deref(), Ok(text), "{source:?}");
        }
    }

    #[test]
    fn faults_are_told_apart() {
        for source in [r"\sqrt", r"\frac\sqrt22", r"\begin{pmatrix}\end{pmatrix}"] {
            assert_eq!(to_text(source), Err(LatexFault::Raises), "{source:?}");
        }
        let deep = r"\frac{".repeat(30_000);
        let many = r"\frac{".repeat(40);
        for source in [r"\section{1}", r"\cyra", r"\hat{é}", &deep, &many] {
            assert_eq!(to_text(source), Err(LatexFault::Unknown), "{}", source.len());
        }
    }
}
