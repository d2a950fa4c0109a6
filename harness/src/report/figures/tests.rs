//! Whole figures from made-up data.

use super::*;
use crate::image::{Alpha, AreaRule, prepare};
use crate::types::Picture;

/// Responses with these dependencies; every token is a word.
pub(super) fn tokens(responses: &[(&str, &[f64])]) -> TokenData {
    let response = |(item, values): &(&str, &[f64])| Response {
        item: item.to_string(),
        tokens: values.iter().map(|value| (TokenKind::Word, *value)).collect(),
    };
    TokenData { step: 7, seeds: 1, responses: responses.iter().map(response).collect() }
}

fn line(step: u64, value: f64) -> StepLine {
    let names = ["correct_frac", "entropy", "response_tokens_mean", "kept_groups_frac"];
    StepLine { step, metrics: names.map(|name| (name.to_owned(), value)).into() }
}

fn arm(key: &str, label: &str, steps: u64) -> ArmData {
    let seed = |offset: f64| (1..=steps).map(|step| line(step, offset + 0.5 / step as f64)).collect();
    let tokens = tokens(&[("a", &[0.0, 0.3, 5.0, 12.0]), ("b", &[0.1, 0.1]), ("c", &[0.9])]);
    ArmData { key: key.into(), label: label.into(), seeds: vec![seed(0.1), seed(0.2)], tokens: Some(tokens) }
}

fn data(arms: Vec<ArmData>) -> FigureData {
    FigureData { scale: "tiny".into(), study: "main".into(), arms, base: None }
}

fn names(data: &FigureData) -> Vec<String> {
    figures(data).unwrap().into_iter().map(|figure| figure.name).collect()
}

fn three_arms() -> FigureData {
    data(vec![arm("grpo", "GRPO", 50), arm("dapo", "DAPO", 50), arm("vppo", "VPPO <a & \"b\">", 50)])
}

const CURVES: [&str; 4] =
    ["training_accuracy", "training_entropy", "training_length", "training_kept_groups"];
const TOKENS: [&str; 4] = ["token_dependency", "trajectory_dependency", "token_kinds", "token_kinds_kept"];

#[test]
fn the_figures_are_those_that_the_data_allow() {
    let all = [&CURVES[..], &["paper_training_accuracy"], &TOKENS].concat();
    assert_eq!(names(&three_arms()), all);
    assert_eq!(names(&data(vec![arm("dapo", "DAPO", 50)])), [CURVES, TOKENS].concat());
    let untold = ArmData { tokens: None, ..arm("dapo", "DAPO", 1) };
    assert_eq!(names(&data(vec![untold])), CURVES, "no rollouts kept");
    assert_eq!(names(&FigureData::default()), Vec::<String>::new());
    let empty = ArmData { tokens: Some(TokenData::default()), seeds: vec![], ..arm("dapo", "DAPO", 1) };
    assert_eq!(names(&data(vec![empty])), Vec::<String>::new());
}

#[test]
fn the_same_data_give_the_same_bytes() {
    let data = three_arms();
    assert_eq!(figures(&data).unwrap(), figures(&data).unwrap());
    let mut other = data.clone();
    other.arms[0].seeds[0][9].metrics.insert("entropy".into(), 0.9);
    let changed: Vec<String> = figures(&data)
        .unwrap()
        .into_iter()
        .zip(figures(&other).unwrap())
        .filter(|(a, b)| a.svg != b.svg && a.png != b.png && a.csv != b.csv)
        .map(|(figure, _)| figure.name)
        .collect();
    assert_eq!(changed, ["training_entropy"]);
}

/// Every `<` opens a tag that closes, in the right order; what stands in between has no bare `&`.
fn well_formed(svg: &str) -> bool {
    let mut open = vec![];
    let mut pieces = svg.split('<');
    let blank_before = pieces.next().is_some_and(|before| before.trim().is_empty());
    let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&apos;"];
    let bare = |piece: &str| {
        piece.match_indices('&').any(|(at, _)| !entities.iter().any(|e| piece[at..].starts_with(e)))
    };
    for piece in pieces {
        let Some((tag, text)) = piece.split_once('>') else { return false };
        let quotes = tag.matches('"').count();
        let name = tag.split_whitespace().next().unwrap_or_default();
        let closes = match (name.strip_prefix('/'), tag.ends_with('/')) {
            (Some(name), _) => open.pop() == Some(name),
            (None, true) => true,
            (None, false) => {
                open.push(name);
                true
            }
        };
        if !closes || quotes % 2 != 0 || bare(piece) || text.contains('>') {
            return false;
        }
    }
    blank_before && open.is_empty()
}

#[test]
fn the_check_of_svg_can_fail() {
    assert!(well_formed("<svg a=\"1\"><text>a &lt; b</text><line/></svg>"));
    for broken in [
        "<svg>",
        "<svg><text></svg></text>",
        "<svg>a & b</svg>",
        "<svg a=\"1></svg>",
        "<svg>a > b</svg>",
        "x<svg/>",
    ] {
        assert!(!well_formed(broken), "{broken}");
    }
}

#[test]
fn drawings_are_whole_and_have_the_colours_that_a_page_may_change() {
    for figure in figures(&three_arms()).unwrap() {
        let svg = &figure.svg;
        assert!(well_formed(svg), "{}", figure.name);
        let (_, size) = svg.split_once("viewBox=\"0 0 ").unwrap();
        let sides: Vec<u32> = size.split(['"', ' ']).take(2).map(|side| side.parse().unwrap()).collect();
        assert!(svg.starts_with("<svg width=\"420\" height=\"") && sides[0] == 4 * 420, "{}", &svg[..200]);
        let texts = svg.matches("<text ").count();
        assert_eq!(svg.split("<text ").filter(|text| text.contains("fill=\"#333333\"")).count(), texts);
        assert!(svg.contains("stroke=\"#DDDDDD\"") && svg.len() < 40_000, "{} {}", figure.name, svg.len());
        let any = AreaRule { min_pixels: 1, max_pixels: 1 << 30 };
        let png = prepare(&Picture::Encoded(figure.png.into()), any, Alpha::Drop).unwrap();
        assert_eq!([png.width, png.height], [sides[0] / 2, sides[1] / 2], "{}", figure.name);
        assert!(png.pixels.iter().filter(|value| **value < 100).count() > 1_000, "{} is blank", figure.name);
    }
}

#[test]
fn labels_are_escaped_and_quoted() {
    let figures = figures(&three_arms()).unwrap();
    assert!(figures[0].svg.contains("VPPO &lt;a &amp; &quot;b&quot;&gt;"));
    assert!(figures[0].csv.contains("\n\"VPPO <a & \"\"b\"\">\",1,"), "{}", figures[0].csv);
}

#[test]
fn published_values_are_never_named_as_ours() {
    for figure in figures(&three_arms()).unwrap().iter().filter(|figure| figure.svg.contains("paper")) {
        assert!(figure.caption.contains("measure"), "{}: {}", figure.name, figure.caption);
        let published =
            figure.csv.lines().filter(|line| line.starts_with("\"paper (7B, MathVerse vision-dominant)\""));
        let expected = match figure.name.as_str() {
            "token_dependency" => 9,
            "trajectory_dependency" => 50,
            _ => 0,
        };
        assert_eq!(published.count(), expected, "{}", figure.name);
    }
}

#[test]
fn edge_cases_are_drawn() {
    let many = (0..20).map(|n| arm(&n.to_string(), &format!("Arm {n} {}", "with a long name ".repeat(8)), 3));
    let mut equal = arm("dapo", "DAPO", 3);
    equal.seeds = vec![(1..4).map(|step| line(step, 0.5)).collect()];
    equal.tokens = Some(tokens(&[("a", &[0.0, 0.0])]));
    let one_step = arm("vppo", "VPPO", 1);
    for arms in [many.collect(), vec![equal], vec![one_step], vec![arm("é", "", 900)]] {
        let found = figures(&data(arms)).unwrap();
        assert_eq!(found.len(), 8);
        assert!(found.iter().all(|figure| well_formed(&figure.svg) && !figure.csv.contains("NaN")));
    }
}

#[test]
fn captions_say_what_was_drawn() {
    let mut data = three_arms();
    data.arms[0].seeds[1].truncate(45);
    data.base =
        Some(BaseData { arm: "GRPO".into(), kept_groups_frac: Some(0.5), tokens: tokens(&[("a", &[0.25])]) });
    let figures = figures(&data).unwrap();
    let caption = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap().caption.clone();
    let curves = caption("training_accuracy");
    for part in ["2 training seeds", "the last 10 steps", "Some seeds are not finished", "scale tiny"] {
        assert!(curves.contains(part), "{part}: {curves}");
    }
    let tokens = caption("token_dependency");
    for part in
        ["of step 7", "first step of GRPO, whose filter kept 50 % of the groups", "1 to 3 responses each"]
    {
        assert!(tokens.contains(part), "{part}: {tokens}");
    }
}

#[test]
fn rollout_lines_become_responses() {
    let line = RolloutLine {
        item: "q".into(),
        sample: 0,
        outcome: crate::types::Outcome::Correct,
        extracted: None,
        text_t: ["\\", "boxed", "{", "4"].map(str::to_owned).to_vec(),
        logp_t: vec![0.0; 4],
        entropy_t: vec![0.0; 4],
        reference_logp_t: vec![],
        corrupted_logp_t: vec![0.0; 4],
        kl_t: vec![0.0, 0.25, 0.0, 0.75],
        js_t: vec![0.0; 4],
    };
    let empty = RolloutLine { text_t: vec![], kl_t: vec![], ..line.clone() };
    let mut data = TokenData::default();
    data.add_seed(&[line, empty]);
    let markup = TokenKind::Markup;
    assert_eq!((data.seeds, data.responses.len()), (1, 1));
    assert_eq!(
        data.responses[0].tokens,
        [(markup, 0.0), (markup, 0.25), (markup, 0.0), (TokenKind::Number, 0.75)]
    );
    assert_eq!(data.responses[0].mean(), 0.25);
}
