//! LaTeX source to nodes, tolerant of broken input.

use super::macros::lookup;
use super::{LatexFault, MAX_DEPTH, MAX_STEPS, Node};
use crate::grade::pytext::is_space;

/// Longest first.
const SPECIALS: [&str; 8] = ["---", "--", "``", "''", "!`", "?`", "~", "&"];

/// Parses a whole source.
pub fn parse(source: &str) -> Result<Vec<Node>, LatexFault> {
    let mut walker = Walker { chars: source.chars().collect(), at: 0, steps: 0, depth: 0 };
    walker.list(End::Source, false)
}

/// What ends a node list.
#[derive(Clone, Debug, PartialEq)]
enum End {
    Source,
    Brace(char),
    Environment(String),
    Math(char),
}

#[derive(Debug)]
enum Token {
    Chars(String),
    Macro { name: String, space_after: String },
    Begin(String),
    Close(End),
    Open(char),
    Special(&'static str),
    OpenMath(char),
}

/// A token, the blanks before it, and where it starts.
struct Lexeme {
    space: String,
    start: usize,
    token: Token,
}

/// The end of the source, with the blanks before it.
struct EndOfSource {
    space: String,
}

/// Why an argument could not be read.
enum ArgumentFault {
    /// The source ended; the macro stands without arguments.
    Missing,
    /// Give up on the whole text.
    Stop(LatexFault),
}

impl From<LatexFault> for ArgumentFault {
    fn from(fault: LatexFault) -> Self {
        Self::Stop(fault)
    }
}

impl From<EndOfSource> for ArgumentFault {
    fn from(_: EndOfSource) -> Self {
        Self::Missing
    }
}

struct Walker {
    chars: Vec<char>,
    at: usize,
    steps: usize,
    depth: usize,
}

impl Walker {
    /// Reads nodes up to `end`, which is consumed. Mismatched closing marks are skipped.
    fn list(&mut self, end: End, brackets: bool) -> Result<Vec<Node>, LatexFault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(LatexFault::Unknown);
        }
        let mut nodes = Vec::new();
        let mut chars = String::new();
        loop {
            self.count_step()?;
            let lexeme = match self.lexeme(brackets, true) {
                Ok(lexeme) => lexeme,
                Err(EndOfSource { space }) => {
                    chars.push_str(&space);
                    break;
                }
            };
            chars.push_str(&lexeme.space);
            if let Token::Chars(more) = lexeme.token {
                chars.push_str(&more);
                continue;
            }
            flush(&mut nodes, &mut chars);
            match lexeme.token {
                Token::Close(found) if found == end => break,
                token => nodes.extend(self.node(token)?),
            }
        }
        flush(&mut nodes, &mut chars);
        self.depth -= 1;
        Ok(nodes)
    }

    fn node(&mut self, token: Token) -> Result<Option<Node>, LatexFault> {
        Ok(Some(match token {
            Token::Open(brace) => self.group(brace)?,
            Token::Special(special) => Node::Special(special),
            Token::OpenMath(open) => {
                let close = if open == '(' { ')' } else { ']' };
                Node::Math { display: open == '[', body: self.list(End::Math(close), false)? }
            }
            Token::Begin(name) => self.environment(name)?,
            Token::Macro { name, space_after } => {
                let args = self.arguments(lookup(&name).0, name == "\\")?;
                Node::Macro { name, args, space_after }
            }
            Token::Close(_) | Token::Chars(_) => return Ok(None),
        }))
    }

    fn group(&mut self, brace: char) -> Result<Node, LatexFault> {
        let close = if brace == '[' { ']' } else { '}' };
        Ok(Node::Group(self.list(End::Brace(close), brace == '[')?))
    }

    fn environment(&mut self, name: String) -> Result<Node, LatexFault> {
        let signature = match name.as_str() {
            "figure" | "figure*" | "table" | "table*" | "enumerate" | "itemize" | "description" => "[",
            "tabular" | "alignat" | "alignat*" => "{",
            "tabular*" => "{{",
            "tabularx" => "{[{",
            "array" => "[{",
            "verbatim" => return Err(LatexFault::Unknown),
            _ if is_theorem(&name) => "[",
            _ => "",
        };
        self.arguments(signature, false)?;
        let body = self.list(End::Environment(name.clone()), false)?;
        Ok(Node::Environment { name, body })
    }

    /// The arguments of a signature; on a fault nothing is consumed and the result is `None`.
    fn arguments(&mut self, signature: &str, tight: bool) -> Result<Option<Vec<Option<Node>>>, LatexFault> {
        let start = self.at;
        let depth = self.depth;
        let mut args = Vec::new();
        for kind in signature.chars() {
            let arg = match kind {
                '{' => self.expression().map(Some),
                '[' if tight && self.chars.get(self.at).copied().is_some_and(is_space) => Ok(None),
                '[' => self.option().map_err(ArgumentFault::Stop),
                _ => self.star(),
            };
            match arg {
                Ok(arg) => args.push(arg),
                Err(ArgumentFault::Stop(fault)) => return Err(fault),
                Err(ArgumentFault::Missing) => {
                    self.at = start;
                    self.depth = depth;
                    return Ok(None);
                }
            }
        }
        Ok(Some(args))
    }

    /// One mandatory argument: a group, or a single token (a macro then takes no arguments).
    fn expression(&mut self) -> Result<Node, ArgumentFault> {
        self.count_step()?;
        let lexeme = self.lexeme(false, false)?;
        Ok(match lexeme.token {
            Token::Chars(chars) => Node::Chars(chars),
            Token::Macro { name, .. } if name == "end" => {
                self.at = lexeme.start;
                Node::Chars(String::new())
            }
            Token::Macro { name, space_after } => Node::Macro { name, args: None, space_after },
            Token::Special(special) => Node::Special(special),
            Token::Open(brace) => self.group(brace)?,
            Token::Close(End::Brace(_)) => {
                self.at = lexeme.start;
                Node::Chars(String::new())
            }
            Token::OpenMath(_) | Token::Close(_) | Token::Begin(_) => Node::Chars(String::new()),
        })
    }

    fn option(&mut self) -> Result<Option<Node>, LatexFault> {
        self.count_step()?;
        let start = self.at;
        match self.lexeme(true, false) {
            Ok(Lexeme { token: Token::Open('['), .. }) => self.group('[').map(Some),
            _ => {
                self.at = start;
                Ok(None)
            }
        }
    }

    fn star(&mut self) -> Result<Option<Node>, ArgumentFault> {
        let start = self.at;
        let lexeme = self.lexeme(false, true)?;
        if matches!(&lexeme.token, Token::Chars(chars) if chars == "*") {
            return Ok(Some(Node::Chars("*".to_string())));
        }
        self.at = start;
        Ok(None)
    }

    fn count_step(&mut self) -> Result<(), LatexFault> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err(LatexFault::Unknown) } else { Ok(()) }
    }

    /// The next token. `brackets`: `[` and `]` are braces; `environments`: `\begin` and `\end` are
    /// more than macros.
    fn lexeme(&mut self, brackets: bool, environments: bool) -> Result<Lexeme, EndOfSource> {
        let mut space = self.blanks();
        if space.ends_with("\n\n") {
            space.truncate(space.len() - 2);
            return Ok(Lexeme { space, start: self.at - 2, token: Token::Chars("\n\n".to_string()) });
        }
        let start = self.at;
        let Some(&c) = self.chars.get(start) else {
            return Err(EndOfSource { space });
        };
        if c == '\\' {
            let token = self.macro_token(environments).ok_or(EndOfSource { space: String::new() })?;
            return Ok(Lexeme { space, start, token });
        }
        let token = match c {
            '{' => Token::Open('{'),
            '[' if brackets => Token::Open('['),
            '}' => Token::Close(End::Brace('}')),
            ']' if brackets => Token::Close(End::Brace(']')),
            _ => match SPECIALS.iter().find(|special| self.starts_with(special)) {
                Some(special) => Token::Special(special),
                None => Token::Chars(c.to_string()),
            },
        };
        self.at += if let Token::Special(special) = token { special.len() } else { 1 };
        Ok(Lexeme { space, start, token })
    }

    /// Reads blanks, stopping behind an empty line.
    fn blanks(&mut self) -> String {
        let mut space = String::new();
        while let Some(&c) = self.chars.get(self.at).filter(|&&c| is_space(c)) {
            space.push(c);
            self.at += 1;
            if space.ends_with("\n\n") {
                break;
            }
        }
        space
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(offset, c)| self.chars.get(self.at + offset) == Some(&c))
    }

    /// The token at a backslash; `None` where the source ends behind it.
    fn macro_token(&mut self, environments: bool) -> Option<Token> {
        let first = *self.chars.get(self.at + 1)?;
        self.at += 2;
        let mut name = first.to_string();
        if !first.is_alphabetic() {
            return Some(match first {
                '(' | '[' => Token::OpenMath(first),
                ')' | ']' => Token::Close(End::Math(first)),
                _ => Token::Macro { name, space_after: String::new() },
            });
        }
        while let Some(&c) = self.chars.get(self.at).filter(|c| c.is_alphabetic()) {
            name.push(c);
            self.at += 1;
        }
        if environments && (name == "begin" || name == "end") {
            return Some(match self.environment_name() {
                Some(environment) if name == "begin" => Token::Begin(environment),
                Some(environment) => Token::Close(End::Environment(environment)),
                None => Token::Chars(format!("\\{name}")),
            });
        }
        let mut space_after = self.blanks();
        if space_after.ends_with("\n\n") {
            space_after.truncate(space_after.len() - 2);
            self.at -= 2;
        }
        Some(Token::Macro { name, space_after })
    }

    /// `{name}` behind `\begin` or `\end`, consumed if it is well formed.
    fn environment_name(&mut self) -> Option<String> {
        let rest = &self.chars[self.at..];
        let blanks = rest.iter().take_while(|&&c| is_space(c)).count();
        let inside = rest.get(blanks..)?.strip_prefix(&['{'])?;
        let length = inside.iter().take_while(|&&c| c.is_alphanumeric() || "* ._-".contains(c)).count();
        if length == 0 || inside.get(length) != Some(&'}') {
            return None;
        }
        self.at += blanks + length + 2;
        Some(inside[..length].iter().collect())
    }
}

fn flush(nodes: &mut Vec<Node>, chars: &mut String) {
    if !chars.is_empty() {
        nodes.push(Node::Chars(std::mem::take(chars)));
    }
}

fn is_theorem(name: &str) -> bool {
    const THEOREMS: &str = "theorem proposition lemma corollary definition conjecture remark proof thm prop lem \
        cor conj rem defn";
    THEOREMS.split_whitespace().any(|theorem| theorem == name)
}
