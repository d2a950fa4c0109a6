//! From a completion to the text inside its last box.

use super::pytext::{is_space, trim};

/// What the reference puts in the place of an answer it did not find, and then grades.
pub const NO_BOX: &str = "None";

const BOX: &str = r"\boxed{";

/// Removes the white space around every `<`, `>` and `/`, as the reference does before it looks
/// for the box (`re.sub(r"\s*(<|>|/)\s*", r"\1", response)`). Linear in the length of the text.
pub fn squeeze_markup(response: &str) -> String {
    let mut squeezed = String::with_capacity(response.len());
    let mut text_end = 0;
    let mut after_mark = false;
    for c in response.chars() {
        if is_space(c) {
            if !after_mark {
                squeezed.push(c);
            }
            continue;
        }
        after_mark = matches!(c, '<' | '>' | '/');
        if after_mark {
            squeezed.truncate(text_end);
        }
        squeezed.push(c);
        text_end = squeezed.len();
    }
    squeezed
}

/// The trimmed content of the last `\boxed{...}`, or `None` where the last box has no closing
/// brace or there is no box. Braces are counted even when escaped, an earlier complete box is not
/// used, and `\boxed {5}`, `\boxed5` and `\fbox{5}` are no boxes.
///
/// ```
/// use harness::grade::extract_boxed;
/// assert_eq!(extract_boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2} }"), Some(r"\frac{1}{2}"));
/// assert_eq!(extract_boxed(r"\boxed{1} or \boxed{2"), None);
/// ```
pub fn extract_boxed(text: &str) -> Option<&str> {
    let inside = &text[text.rfind(BOX)? + BOX.len()..];
    let mut depth = 0usize;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(trim(&inside[..at])),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_markup_goes() {
        assert_eq!(squeeze_markup("a <\n think > b / c  d "), "a<think>b/c  d ");
        assert_eq!(squeeze_markup(" / < "), "/<");
        assert_eq!(squeeze_markup(" a "), " a ");
    }

    #[test]
    fn the_last_box_counts_even_if_it_is_broken() {
        assert_eq!(extract_boxed(r"\boxed{\boxed{5}}"), Some("5"));
        assert_eq!(extract_boxed(r"\boxed{\}}"), Some(r"\"));
        assert_eq!(extract_boxed(r"\boxed{5} \boxed{6"), None);
        assert_eq!(extract_boxed(r"\boxed {5}"), None);
        assert_eq!(extract_boxed("\\boxed{\u{a0}é\u{1f}}"), Some("é"));
    }
}
