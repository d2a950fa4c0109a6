//! Sections of text drawn as Markdown, LaTeX and aligned plain text.

use super::sections::Section;
use super::table::Table;

/// Spaces between two columns of plain text.
const GAP: usize = 2;
/// Widest footer or note line of plain text where the terminal is wider.
const PROSE: usize = 100;

impl Table {
    /// GitHub Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", markdown_escape(&self.spec.title));
        for section in self.sections() {
            text += &format!("\n## {}\n\n", markdown_escape(&section.title));
            text += &markdown_grid(&section);
            text += &format!("\n{}\n", markdown_escape(&section.note));
        }
        text += "\n---\n";
        self.footer().iter().for_each(|line| text += &format!("\n{}\n", markdown_escape(line)));
        text
    }

    /// LaTeX for a document that loads `booktabs`: one `table` environment per section.
    pub fn latex(&self) -> String {
        let mut text = format!(
            "% {}\n% Needs \\usepackage{{booktabs}}; eight benchmarks fill a page of A4 in landscape.\n",
            one_line(&self.spec.title)
        );
        self.footer().iter().for_each(|line| text += &format!("% {}\n", one_line(line)));
        self.sections().iter().for_each(|section| text += &latex_table(section));
        text
    }

    /// Plain text in aligned columns. Cells are broken between words while the text is wider than `columns`
    /// (120 suits the eight benchmarks); a word is never broken.
    pub fn terminal(&self, columns: usize) -> String {
        let mut text = format!("{}\n", one_line(&self.spec.title));
        for section in self.sections() {
            text += &format!("\n{}\n", one_line(&section.title));
            text += &plain_grid(&section, columns);
            wrap(&section.note, columns.min(PROSE)).iter().for_each(|line| text += &format!("{line}\n"));
        }
        text += "\n";
        for line in self.footer() {
            wrap(&line, columns.min(PROSE)).iter().for_each(|line| text += &format!("{line}\n"));
        }
        text
    }
}

fn markdown_grid(section: &Section) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| markdown_escape(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|---|{}\n", "---:|".repeat(section.header.len() - 1));
    let rows: String = section.groups.iter().flatten().map(|cells| row(cells)).collect();
    row(&section.header) + &rule + &rows
}

fn latex_table(section: &Section) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| latex_escape(cell)).collect();
        format!("{} \\\\\n", cells.join(" & "))
    };
    let groups: Vec<String> =
        section.groups.iter().map(|group| group.iter().map(|cells| row(cells)).collect()).collect();
    format!(
        "\n\\begin{{table}}[ht]\n\\centering\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n\
         \\caption{{{}}}\n\\begin{{tabular}}{{l{}}}\n\\toprule\n{}\\midrule\n{}\\bottomrule\n\
         \\end{{tabular}}\n\n{}\n\\end{{table}}\n",
        latex_escape(&section.title),
        "r".repeat(section.header.len() - 1),
        row(&section.header),
        groups.join("\\addlinespace\n"),
        latex_escape(&section.note)
    )
}

fn plain_grid(section: &Section, columns: usize) -> String {
    let widths = plain_widths(section, columns);
    let total = widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
    let mut text = plain_row(&section.header, &widths) + &"-".repeat(total) + "\n";
    let groups: Vec<String> = section
        .groups
        .iter()
        .map(|group| group.iter().map(|cells| plain_row(cells, &widths)).collect())
        .collect();
    text += &groups.join("\n");
    text + &"-".repeat(total) + "\n"
}

/// Natural widths, the widest column narrowed by one until the row fits or no column can be narrowed.
fn plain_widths(section: &Section, columns: usize) -> Vec<usize> {
    let cells = |column: usize| {
        let rows = section.groups.iter().flatten().chain([&section.header]);
        rows.filter_map(move |row| row.get(column))
    };
    let count = section.header.len();
    let longest_word = |cell: &String| cell.split_whitespace().map(width).max().unwrap_or(0);
    let mut widths: Vec<usize> =
        (0..count).map(|c| cells(c).map(|cell| width(cell)).max().unwrap_or(0)).collect();
    let least: Vec<usize> = (0..count).map(|c| cells(c).map(longest_word).max().unwrap_or(0)).collect();
    while widths.iter().sum::<usize>() + GAP * (count - 1) > columns {
        let widest = (0..count).filter(|&c| widths[c] > least[c]).max_by_key(|&c| (widths[c], count - c));
        let Some(widest) = widest else { break };
        widths[widest] -= 1;
    }
    widths
}

/// One row, as many lines as its highest cell; the first column left, the others right.
fn plain_row(cells: &[String], widths: &[usize]) -> String {
    let wrapped: Vec<Vec<String>> =
        cells.iter().zip(widths).map(|(cell, &width)| wrap(cell, width)).collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let mut text = String::new();
    for line in 0..height {
        let parts: Vec<String> = wrapped
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (lines, &width))| {
                pad(lines.get(line).map_or("", String::as_str), width, column == 0)
            })
            .collect();
        text += &format!("{}\n", parts.join(&" ".repeat(GAP)).trim_end());
    }
    text
}

fn pad(text: &str, to: usize, left: bool) -> String {
    let space = " ".repeat(to.saturating_sub(width(text)));
    if left { format!("{text}{space}") } else { format!("{space}{text}") }
}

/// Characters, which is the width of everything this module writes itself.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// Breaks between words into lines of at most `columns`; a longer word has a line of its own.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that Markdown shows as it is, on one line.
pub(super) fn markdown_escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in one_line(text).chars() {
        match c {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '#' | '~' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Text that LaTeX prints as it is, on one line. At the beginning `[` and `*` would be taken for arguments of the line end
/// before them, and two hyphens anywhere for a dash. Letters that are neither Latin nor Greek are left: they need XeLaTeX
/// or LuaLaTeX and a font.
fn latex_escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in one_line(text).chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '[' | '*' if escaped.is_empty() => escaped.extend(['{', c, '}']),
            '-' | '–' | '—' => {
                let apart = if escaped.ends_with('-') { "{}" } else { "" };
                escaped += &format!("{apart}{}", dash(c));
            }
            '`' => escaped += "\\textasciigrave{}",
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '<' => escaped += "$<$",
            '>' => escaped += "$>$",
            '|' => escaped += "\\textbar{}",
            '"' => escaped += "''",
            '±' => escaped += "$\\pm$",
            '−' => escaped += "$-$",
            _ => match latex_symbol(c) {
                Some(name) => escaped += &format!("$\\{name}$"),
                None => escaped.push(c),
            },
        }
    }
    escaped
}

fn dash(c: char) -> &'static str {
    match c {
        '–' => "--",
        '—' => "---",
        _ => "-",
    }
}

/// The command, in mathematics, of a character that LaTeX has no letter for.
fn latex_symbol(c: char) -> Option<&'static str> {
    const SYMBOLS: [(char, &str); 23] = [
        ('≤', "leq"),
        ('≥', "geq"),
        ('≈', "approx"),
        ('≠', "neq"),
        ('∞', "infty"),
        ('→', "rightarrow"),
        ('α', "alpha"),
        ('β', "beta"),
        ('γ', "gamma"),
        ('δ', "delta"),
        ('ε', "varepsilon"),
        ('η', "eta"),
        ('θ', "theta"),
        ('λ', "lambda"),
        ('μ', "mu"),
        ('π', "pi"),
        ('ρ', "rho"),
        ('σ', "sigma"),
        ('τ', "tau"),
        ('φ', "varphi"),
        ('ω', "omega"),
        ('Δ', "Delta"),
        ('Σ', "Sigma"),
    ];
    SYMBOLS.iter().find(|(symbol, _)| *symbol == c).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latex_specials_are_escaped() {
        assert_eq!(
            latex_escape("a&b % $ # _ { } \\ ~ ^ < > | \" ± − –\nc"),
            "a\\&b \\% \\$ \\# \\_ \\{ \\} \\textbackslash{} \\textasciitilde{} \\textasciicircum{} \
             $<$ $>$ \\textbar{} '' $\\pm$ $-$ -- c"
        );
    }

    #[test]
    fn latex_gets_no_arguments_ligatures_or_unknown_letters() {
        for (text, wanted) in [
            ("[t] [*]", "{[}t] [*]"),
            ("*", "{*}"),
            ("--set a---b-–—", "-{}-set a-{}-{}-b-{}--{}---"),
            ("`x` ``y''", "\\textasciigrave{}x\\textasciigrave{} \\textasciigrave{}\\textasciigrave{}y''"),
            ("λ ≤ 0.06 → Δ", "$\\lambda$ $\\leq$ 0.06 $\\rightarrow$ $\\Delta$"),
            ("the model’s “é” – a — b × c", "the model’s “é” -- a --- b × c"),
            ("Frage 3: Größe, 問題", "Frage 3: Größe, 問題"),
            ("a\u{a0}b\u{2028}c\td", "a b c d"),
            ("\\input{x}%", "\\textbackslash{}input\\{x\\}\\%"),
            ("~^~", "\\textasciitilde{}\\textasciicircum{}\\textasciitilde{}"),
        ] {
            assert_eq!(latex_escape(text), wanted, "{text}");
        }
    }

    #[test]
    fn markdown_specials_are_escaped() {
        assert_eq!(
            markdown_escape("a|b *c* _d_ <e> `f` [g]\n# &"),
            r"a\|b \*c\* \_d\_ &lt;e&gt; \`f\` \[g\] \# &amp;"
        );
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("extraordinary ±1", 4), ["extraordinary", "±1"]);
        assert!(wrap("", 4).is_empty());
    }

    #[test]
    fn columns_shrink_to_their_longest_word() {
        let section = Section {
            title: String::new(),
            note: String::new(),
            header: vec!["Arm".into(), "score".into()],
            groups: vec![vec![vec!["a long label".into(), "not resolved".into()]]],
        };
        assert_eq!(plain_widths(&section, 80), [12, 12]);
        assert_eq!(plain_widths(&section, 24), [11, 11]);
        assert_eq!(plain_widths(&section, 1), [5, 8]);
        assert_eq!(
            plain_grid(&section, 22),
            [
                "Arm              score",
                "----------------------",
                "a long             not",
                "label         resolved",
                "----------------------\n",
            ]
            .join("\n")
        );
    }
}
