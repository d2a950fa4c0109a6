//! From the columns of each dataset to questions: one small function per dataset.
//!
//! The prompts follow the authors' evaluation (PAPO-Eval's rows: picture first, then the question, one boxed
//! answer), whose rows could not be seen; where it is not known how a dataset's question was put, the manifest
//! says what was decided. Answers are kept verbatim, except that [`Columns::BoxedProblemImages`] opens the box
//! that ViRL39K has around every answer.

use super::draft::Draft;
use super::manifest::Columns;
use super::schema::{Column, Shape};
use super::table::Row;
use crate::prompt::IMAGE_PLACE;
use anyhow::{Context, Result, ensure};

/// How the rows of a kind of columns are read.
pub(super) struct Adapter {
    /// The columns that it reads.
    pub columns: &'static [Column],
    /// Makes a draft of a row; also gets the path of its file in the repository.
    pub draft: fn(&mut Row, &str) -> Result<Draft>,
}

/// MMMU-Pro's questions stand in the picture, so the prompt is this sentence: VLMEvalKit's for the vision
/// configuration, `vlmeval/dataset/image_mcq.py`. Which one the paper's evaluation uses is not known.
const MMMU_PRO_SENTENCE: &str = "Answer the following multiple-choice question in the image.";

/// The options of a MathVision question whose choices stand in the picture.
const ONLY_LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

const fn text(role: &'static str, names: &'static [&'static str]) -> Column {
    Column { role, names, shape: Shape::Text, optional: false }
}

const fn label(role: &'static str, names: &'static [&'static str]) -> Column {
    Column { role, names, shape: Shape::Label, optional: false }
}

const fn pictures(names: &'static [&'static str]) -> Column {
    Column { role: "pictures", names, shape: Shape::Pictures, optional: false }
}

const fn optional(column: Column) -> Column {
    Column { optional: true, ..column }
}

const QUESTION: Column = text("question", &["question"]);
const ANSWER: Column = text("answer", &["answer"]);
const ID: Column = label("id", &["id"]);
const PICTURE: Column = pictures(&["image", "decoded_image", "images"]);

const MATH_VERSE: &[Column] = &[
    label("id", &["sample_index"]),
    label("problem", &["problem_index"]),
    text("type", &["question_type"]),
    text("fallback", &["query_cot"]),
    QUESTION,
    ANSWER,
    pictures(&["image"]),
];
const DYNA_MATH: &[Column] = &[ID, QUESTION, text("answer", &["ground_truth"]), pictures(&["decoded_image"])];
const PROBLEM_IMAGES: &[Column] =
    &[optional(label("id", &["id", "qid"])), text("problem", &["problem"]), ANSWER, pictures(&["images"])];
const BOXED_PROBLEM_IMAGES: &[Column] = &[
    optional(label("id", &["qid", "id"])),
    text("problem", &["problem", "question"]),
    ANSWER,
    pictures(&["images", "image"]),
];
const MATH_VISION: &[Column] = &[
    ID,
    QUESTION,
    Column { role: "options", names: &["options"], shape: Shape::Texts, optional: false },
    ANSWER,
    pictures(&["decoded_image"]),
];
const WE_MATH: &[Column] = &[
    label("id", &["ID"]),
    label("key", &["key"]),
    QUESTION,
    text("option", &["option"]),
    ANSWER,
    pictures(&["image_path", "image"]),
];
const MMK12: &[Column] = &[optional(ID), text("question", &["question", "problem"]), ANSWER, PICTURE];
const LOGIC_VISTA: &[Column] = &[optional(label("id", &["id", "question_id"])), QUESTION, ANSWER, PICTURE];
const MMMU_PRO_VISION: &[Column] = &[ID, ANSWER, pictures(&["image"])];

/// The adapter of a kind of columns.
pub(super) fn adapter(columns: Columns) -> Adapter {
    let (columns, draft): (_, fn(&mut Row, &str) -> Result<Draft>) = match columns {
        Columns::MathVerse => (MATH_VERSE, math_verse),
        Columns::DynaMath => (DYNA_MATH, dyna_math),
        Columns::Mmk12 => (MMK12, question_as_is),
        Columns::LogicVista => (LOGIC_VISTA, logic_vista),
        Columns::ProblemImages => (PROBLEM_IMAGES, problem_images),
        Columns::BoxedProblemImages => (BOXED_PROBLEM_IMAGES, boxed_problem_images),
        Columns::MathVision => (MATH_VISION, math_vision),
        Columns::WeMath => (WE_MATH, we_math),
        Columns::MmmuProVision => (MMMU_PRO_VISION, mmmu_pro_vision),
    };
    Adapter { columns, draft }
}

/// The question with its picture in front, unless it says itself where the picture belongs. A blank question
/// stays blank, which is an error later if the row counts.
fn with_picture(question: &str) -> String {
    match question {
        blank if blank.trim().is_empty() => String::new(),
        placed if placed.contains(IMAGE_PLACE) => placed.to_owned(),
        _ => format!("{IMAGE_PLACE}{question}"),
    }
}

/// Version Vision Only has its question in the picture and an empty text; it is asked with the dataset's own
/// sentence, in the form that demands reasoning.
fn math_verse(row: &mut Row, _: &str) -> Result<Draft> {
    let mut question = row.optional_text("question")?.unwrap_or_default();
    if question.trim().is_empty() {
        question = row.text("fallback")?;
    }
    Ok(Draft {
        id: Some(row.text("id")?),
        cluster: Some(format!("problem-{}", row.text("problem")?)),
        problem: with_picture(&question),
        answer: row.text("answer")?,
        question_type: Some(row.text("type")?),
        images: row.pictures("pictures")?,
    })
}

/// Ids repeat in the ten files, one per variant of the seed questions, so the file is part of the id.
fn dyna_math(row: &mut Row, path: &str) -> Result<Draft> {
    let id = row.text("id")?;
    let file = path.rsplit('/').next().unwrap_or(path);
    let variant = file.split(['-', '.']).next().unwrap_or(file);
    Ok(Draft {
        id: Some(format!("{variant}/{id}")),
        cluster: Some(format!("seed-{id}")),
        ..question_as_is(row, path)?
    })
}

fn question_as_is(row: &mut Row, _: &str) -> Result<Draft> {
    Ok(Draft {
        id: row.optional_text("id")?,
        problem: with_picture(&row.text("question")?),
        answer: row.text("answer")?,
        images: row.pictures("pictures")?,
        ..Draft::default()
    })
}

/// One answer is missing; the filter drops that row, whether it is empty or null.
fn logic_vista(row: &mut Row, _: &str) -> Result<Draft> {
    Ok(Draft {
        id: row.optional_text("id")?,
        problem: with_picture(&row.text("question")?),
        answer: row.optional_text("answer")?.unwrap_or_default(),
        images: row.pictures("pictures")?,
        ..Draft::default()
    })
}

fn problem_images(row: &mut Row, _: &str) -> Result<Draft> {
    Ok(Draft {
        id: row.optional_text("id")?,
        problem: row.text("problem")?,
        answer: row.text("answer")?,
        images: row.pictures("pictures")?,
        ..Draft::default()
    })
}

fn boxed_problem_images(row: &mut Row, path: &str) -> Result<Draft> {
    let draft = problem_images(row, path)?;
    let answer = unboxed(&draft.answer).to_owned();
    Ok(Draft { answer, ..draft })
}

/// The inside of an answer that is one `\boxed{...}` and nothing else; any other answer as it is.
fn unboxed(answer: &str) -> &str {
    let Some(inside) = answer.trim().strip_prefix("\\boxed{").and_then(|rest| rest.strip_suffix('}')) else {
        return answer;
    };
    let mut depth = 0i32;
    let closes_early = inside.chars().any(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth < 0
    });
    if closes_early { answer } else { inside }
}

/// One picture holds everything; its place is the first of `<image1>`, `<image2>`, ... in the question, later
/// ones stay as labels. Options follow in lines unless they are only letters.
fn math_vision(row: &mut Row, _: &str) -> Result<Draft> {
    let mut problem = with_picture(&at_first_label(&row.text("question")?));
    let options = row.texts("options")?;
    ensure!(options.len() <= 26, "column `options` has {} options; letters end at 26", options.len());
    if options != ONLY_LETTERS {
        for (letter, option) in ('A'..='Z').zip(&options) {
            problem.push_str(&format!("\n({letter}) {option}"));
        }
    }
    Ok(Draft {
        id: Some(row.text("id")?),
        problem,
        answer: row.text("answer")?,
        images: row.pictures("pictures")?,
        ..Draft::default()
    })
}

/// Replaces the first `<imageN>` by a picture's place.
fn at_first_label(question: &str) -> String {
    for (start, _) in question.match_indices("<image") {
        let rest = &question[start + "<image".len()..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && rest[digits..].starts_with('>') {
            return format!("{}{IMAGE_PLACE}{}", &question[..start], &rest[digits + 1..]);
        }
    }
    question.to_owned()
}

/// The parts of one problem share an ID within its family (`2steps`, `3steps`), which the key starts with.
fn we_math(row: &mut Row, _: &str) -> Result<Draft> {
    let (id, key) = (row.text("id")?, row.text("key")?);
    let (family, _) = key.split_once('_').with_context(|| format!("column `key`: {key:?} has no `_`"))?;
    Ok(Draft {
        cluster: Some(format!("{family}/{id}")),
        id: Some(format!("{id}/{key}")),
        problem: with_picture(&format!("{}\n{}", row.text("question")?, row.text("option")?)),
        answer: row.text("answer")?,
        images: row.pictures("pictures")?,
        ..Draft::default()
    })
}

fn mmmu_pro_vision(row: &mut Row, _: &str) -> Result<Draft> {
    Ok(Draft {
        id: Some(row.text("id")?),
        problem: with_picture(MMMU_PRO_SENTENCE),
        answer: row.text("answer")?,
        images: row.pictures("pictures")?,
        ..Draft::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_label_becomes_the_place() {
        for (question, placed) in [
            ("How many?\n<image1>", "How many?\n<image>"),
            ("<image12> or <image2>", "<image> or <image2>"),
            ("<images> <image> <image3>", "<images> <image> <image>"),
            ("<image1", "<image1"),
            ("none", "none"),
        ] {
            assert_eq!(at_first_label(question), placed);
        }
    }

    #[test]
    fn only_a_single_box_is_opened() {
        for (answer, inside) in [
            ("\\boxed{7}", "7"),
            (" \\boxed{\\frac{1}{2}}\n", "\\frac{1}{2}"),
            ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
            ("x = \\boxed{1}", "x = \\boxed{1}"),
            (" 7 ", " 7 "),
        ] {
            assert_eq!(unboxed(answer), inside);
        }
    }
}
