//! Nodes to plain text.

use super::macros::{Rendering, accented, lookup};
use super::{LatexFault, Node};
use crate::grade::pytext::trim;

/// Environments rendered as `[ 1 2; 3 4 ]`.
const MATRICES: [&str; 6] = ["array", "pmatrix", "bmatrix", "smallmatrix", "psmallmatrix", "bsmallmatrix"];

/// Environments rendered as an indented block.
const FORMULAS: [&str; 12] = [
    "equation",
    "equation*",
    "eqnarray",
    "eqnarray*",
    "align",
    "align*",
    "multline",
    "multline*",
    "gather",
    "gather*",
    "dmath",
    "dmath*",
];

/// The plain text of a node list, outside formulas.
pub fn render(nodes: &[Node]) -> Result<String, LatexFault> {
    Renderer { in_formula: false }.list(nodes)
}

/// Inside formulas blanks follow the source; outside, LaTeX (a macro eats the blanks behind it).
#[derive(Clone, Copy)]
struct Renderer {
    in_formula: bool,
}

impl Renderer {
    fn list(self, nodes: &[Node]) -> Result<String, LatexFault> {
        let mut text = String::new();
        let mut macro_space = "";
        for node in nodes {
            if self.in_formula && matches!(node, Node::Chars(_)) {
                text.push_str(macro_space);
            }
            text.push_str(&self.node(node)?);
            macro_space = bare_macro_space(node);
        }
        Ok(text)
    }

    fn node(self, node: &Node) -> Result<String, LatexFault> {
        match node {
            Node::Chars(chars) if self.in_formula && trim(chars).is_empty() => Ok(String::new()),
            Node::Chars(chars) => Ok(chars.clone()),
            Node::Group(nodes) => self.list(nodes),
            Node::Macro { name, args, .. } => self.macro_text(name, args.as_deref()),
            Node::Environment { name, body } => self.environment(name, body),
            Node::Special(special) => Ok(special_text(special).to_string()),
            Node::Math { display, body } => formula(body, *display),
        }
    }

    fn macro_text(self, name: &str, args: Option<&[Option<Node>]>) -> Result<String, LatexFault> {
        let argument = |at: usize| match args.and_then(|args| args.get(at)) {
            Some(Some(node)) => self.node(node),
            _ => Ok(String::new()),
        };
        match lookup(name).1 {
            Rendering::Fixed(text) => Ok(text.to_string()),
            Rendering::Through => (0..args.map_or(0, <[_]>::len)).map(argument).collect(),
            Rendering::Template(pieces) => {
                let args_read = args.is_some_and(|args| args.len() + 1 == pieces.len());
                if !args_read {
                    return Ok(pieces.join("%s"));
                }
                let mut text = pieces[0].to_string();
                for (at, piece) in pieces[1..].iter().enumerate() {
                    text.push_str(&argument(at)?);
                    text.push_str(piece);
                }
                Ok(text)
            }
            Rendering::Pick(before, at, after) => {
                args.ok_or(LatexFault::Raises)?;
                Ok(format!("{before}{}{after}", argument(at)?))
            }
            Rendering::Alphabet(alphabet) => Ok(argument(0)?.chars().map(|c| alphabet.letter(c)).collect()),
            Rendering::Accent(mark) => {
                let under = if args.is_some() { argument(0)? } else { " ".to_string() };
                let under = if args.is_some() { trim(&under) } else { &under };
                under.chars().map(|c| accented(c, mark).ok_or(LatexFault::Unknown)).collect()
            }
            Rendering::Unknown => Err(LatexFault::Unknown),
        }
    }

    fn environment(self, name: &str, body: &[Node]) -> Result<String, LatexFault> {
        match name {
            "verbatim" => Err(LatexFault::Unknown),
            "center" | "flushleft" | "flushright" => Ok(format!("\n{}\n", self.list(body)?)),
            _ if MATRICES.contains(&name) => self.matrix(body),
            _ if FORMULAS.contains(&name) => formula(body, true),
            _ => self.list(body),
        }
    }

    /// Rows at `\\`, columns at `&`, every cell padded on the left to the widest one. A cell
    /// without any node is no cell; a matrix without cells raises in the reference.
    fn matrix(self, body: &[Node]) -> Result<String, LatexFault> {
        let is_row_end = |node: &Node| matches!(node, Node::Macro { name, .. } if name == "\\");
        let mut rows = Vec::new();
        for row in body.split(is_row_end) {
            let cells = row.split(|node| *node == Node::Special("&")).filter(|cell| !cell.is_empty());
            let texts: Result<Vec<String>, LatexFault> =
                cells.map(|cell| Ok(trim(&self.list(cell)?).to_string())).collect();
            rows.push(texts?);
        }
        let widths = rows.iter().flatten().map(|cell| cell.chars().count());
        let width = widths.max().ok_or(LatexFault::Raises)?;
        let pad = |cell: &String| format!("{cell:>width$}");
        let lines: Vec<String> =
            rows.iter().map(|row| row.iter().map(pad).collect::<Vec<_>>().join(" ")).collect();
        Ok(format!("[ {} ]", lines.join("; ")))
    }
}

fn formula(body: &[Node], display: bool) -> Result<String, LatexFault> {
    let text = Renderer { in_formula: true }.list(body)?;
    let text = trim(&text);
    if !display {
        return Ok(text.to_string());
    }
    Ok(format!("\n    {}\n", text.replace('\n', "\n    ")))
}

/// The blanks behind a macro that has no arguments; empty for every other node.
fn bare_macro_space(node: &Node) -> &str {
    match node {
        Node::Macro { name, args, space_after } => {
            let takes_arguments = lookup(name).0.contains('{');
            let has_option = args.iter().flatten().skip(1).any(Option::is_some);
            if (takes_arguments && args.is_some()) || has_option { "" } else { space_after }
        }
        _ => "",
    }
}

fn special_text(special: &'static str) -> &'static str {
    match special {
        "&" => "   ",
        "~" => "\u{a0}",
        "``" => "“",
        "''" => "”",
        "--" => "–",
        "---" => "—",
        "!`" => "¡",
        "?`" => "¿",
        other => other,
    }
}
