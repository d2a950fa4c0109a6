//! The first normal form: the string clean-up of the MATH benchmark, case sensitive.
//!
//! Source: mathruler 0.1.0, `math_normalize`. Where the reference raises in the middle (a macro
//! without its argument, two `\text{ ` units), its result is the trimmed input, and so is ours.

use super::pytext::trim;

/// Python refuses to turn more decimal digits than this into an integer.
const MAX_INT_DIGITS: usize = 4300;

/// The first normal form of an answer. Two answers with the same form are equal.
pub fn mathd(answer: &str) -> String {
    let answer = trim(answer);
    let answer = unwrap_text(answer).map_or(answer, trim);
    strip_string(answer).unwrap_or_else(|| answer.to_string())
}

/// The inside of an answer that is one `\text{...}` from end to end (a final newline allowed).
/// Nothing is balanced: `\text{a} or \text{b}` gives `a} or \text{b`.
pub fn unwrap_text(answer: &str) -> Option<&str> {
    let answer = answer.strip_suffix('\n').unwrap_or(answer);
    let inside = answer.strip_prefix(r"\text{")?.strip_suffix('}')?;
    (!inside.is_empty() && !inside.contains('\n')).then_some(inside)
}

/// All rewriting steps in order; `None` where the reference raises.
fn strip_string(answer: &str) -> Option<String> {
    let mut text = answer.replace('\n', "").replace(r"\!", "").replace(r"\\", r"\");
    text = text.replace("tfrac", "frac").replace("dfrac", "frac");
    for gone in [r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$"] {
        text = text.replace(gone, "");
    }
    text = cut_right_units(text)?;
    text = text.replace(r"\%", "").replace('%', "");
    text = text.replace(" .", " 0.").replace("{.", "{0.");
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    text = drop_left_side(text);
    text = brace_roots(&text)?.replace(' ', "");
    text = brace_fractions(&text)?;
    if text == "0.5" {
        text = r"\frac{1}{2}".to_string();
    }
    Some(slash_to_fraction(text))
}

/// Cuts at `\text{ `, which introduces a unit; more than one raises in the reference.
fn cut_right_units(text: String) -> Option<String> {
    let mut parts = text.split(r"\text{ ");
    let kept = parts.next()?.to_string();
    match parts.count() {
        0 | 1 => Some(kept),
        _ => None,
    }
}

/// `k = 5` becomes ` 5`: one `=`, at most two characters before it.
fn drop_left_side(text: String) -> String {
    match text.split_once('=') {
        Some((left, right)) if !right.contains('=') && left.chars().count() <= 2 => right.to_string(),
        _ => text,
    }
}

/// `\sqrt3` becomes `\sqrt{3}`; `None` for a root with nothing behind it.
fn brace_roots(text: &str) -> Option<String> {
    let mut parts = text.split(r"\sqrt");
    let mut out = parts.next()?.to_string();
    for part in parts {
        let first = part.chars().next()?;
        out.push_str(r"\sqrt");
        if first == '{' {
            out.push_str(part);
        } else {
            push_braced(&mut out, first);
            out.push_str(&part[first.len_utf8()..]);
        }
    }
    Some(out)
}

/// `\frac12` and `\frac1{2}` become `\frac{1}{2}`. `None` for a fraction with nothing behind it;
/// with a single character behind it the whole text stays as it was.
fn brace_fractions(text: &str) -> Option<String> {
    let mut parts = text.split(r"\frac");
    let mut out = parts.next()?.to_string();
    for part in parts {
        out.push_str(r"\frac");
        let mut chars = part.chars();
        let upper = chars.next()?;
        if upper == '{' {
            out.push_str(part);
            continue;
        }
        let Some(lower) = chars.next() else {
            return Some(text.to_string());
        };
        push_braced(&mut out, upper);
        if lower == '{' {
            out.push(lower);
        } else {
            push_braced(&mut out, lower);
        }
        out.push_str(chars.as_str());
    }
    Some(out)
}

fn push_braced(out: &mut String, c: char) {
    out.extend(['{', c, '}']);
}

/// `3/4` becomes `\frac{3}{4}` if both sides are integers in their shortest form.
fn slash_to_fraction(text: String) -> String {
    match text.split_once('/') {
        Some((a, b)) if is_plain_int(a) && is_plain_int(b) => format!(r"\frac{{{a}}}{{{b}}}"),
        _ => text,
    }
}

fn is_plain_int(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits
        && digits.len() <= MAX_INT_DIGITS
        && (text == "0" || digits.starts_with(|c| ('1'..='9').contains(&c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewriting_steps() {
        for (answer, form) in [
            (r"\text{A}", "A"),
            (r"\text{ a } ", "a"),
            ("5\\%", "5"),
            (r"x\text{ cm", "x"),
            ("k = 5", "5"),
            ("abc=5", "abc=5"),
            (".5", r"\frac{1}{2}"),
            ("a .5", "a0.5"),
            ("3 / 4", r"\frac{3}{4}"),
            ("03/4", "03/4"),
            ("-3/4", r"\frac{-3}{4}"),
            (r"\\frac12", r"\frac{1}{2}"),
            (r"\frac1{2}x", r"\frac{1}{2}x"),
            (r"\dfrac 1 2", r"\frac{1}{2}"),
            (r"\sqrt 3", r"\sqrt{}3"),
            (r"\left(1^{\circ}\right)", "(1)"),
        ] {
            assert_eq!(mathd(answer), form, "{answer:?}");
        }
    }

    #[test]
    fn a_step_that_raises_leaves_the_trimmed_input() {
        for answer in [r"\sqrt", r"\frac", r"\frac1", r"\text{ cm}\text{ m} x", r"2 \sqrt"] {
            assert_eq!(mathd(&format!(" {answer} ")), answer);
        }
    }
}
