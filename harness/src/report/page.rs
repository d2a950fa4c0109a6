//! One HTML file per study that opens from the disk without a network: tables, figures, what each arm changes, what made the
//! runs, and the *spotlight*, evaluated answers with each token coloured by its visual dependency.
//!
//! Style and script are part of the file (`page/`). Tables and figures are there without the script; it sorts columns and
//! draws the spotlight. It does not know where anything was read from.

use super::figures::Figure;
use super::table::{Cell, Table};
use crate::types::{Outcome, RolloutLine, SpotlightItem};
use anyhow::{Context, Result};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Nats of dependency at which the spotlight's colour is strongest.
const STRONGEST: u32 = 2;

/// What stands on a page besides its table.
#[derive(Debug, Default)]
pub struct Page {
    /// Drawn figures.
    pub figures: Vec<Figure>,
    /// The arms, in the table's order.
    pub arms: Vec<ArmPage>,
    /// Evaluated answers; none where none were kept.
    pub spotlight: Option<Spotlight>,
}

/// What one arm is and what made it.
#[derive(Debug, Serialize, Default)]
pub struct ArmPage {
    /// Its name for people.
    pub label: String,
    /// The arm that it is a change of.
    pub reference: String,
    /// The settings that it changes.
    pub changes: Vec<SettingChange>,
    /// All its settings, as JSON.
    pub settings: String,
    /// Its runs, one per training seed.
    pub runs: Vec<RunPage>,
}

/// One changed setting.
#[derive(Debug, Serialize)]
pub struct SettingChange {
    /// Dotted key.
    pub key: String,
    /// Value in the arm that is changed.
    pub from: String,
    /// Value in the arm.
    pub to: String,
}

/// One run, in words. What is not known is empty.
#[derive(Debug, Serialize, Default)]
pub struct RunPage {
    /// Its address.
    pub path: String,
    /// How far it is.
    pub state: String,
    /// Hash of its settings.
    pub hash: String,
    /// Training steps taken.
    pub steps: String,
    /// Time they took.
    pub time: String,
    /// Commit of the source.
    pub source: String,
    /// Hash of the program.
    pub executable: String,
    /// Compiler.
    pub compiler: String,
    /// Processor.
    pub processor: String,
    /// Threads.
    pub threads: String,
}

/// The kept answers of one training seed.
#[derive(Debug)]
pub struct Spotlight {
    /// The seed.
    pub seed: u64,
    /// The arms that kept any.
    pub arms: Vec<SpotlightArm>,
}

/// The kept answers of one arm.
#[derive(Debug)]
pub struct SpotlightArm {
    /// Its name for people.
    pub label: String,
    /// How its pictures were corrupted, in words.
    pub corruption: String,
    /// The items, each with its answers.
    pub items: Vec<SpotlightItem>,
    /// What the arm's algorithm would make of each answer, item by item; none for an arm that is not trained.
    pub marks: Option<Vec<Vec<Mark>>>,
}

/// What an algorithm would make of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Advantage before shaping.
    pub advantage: f64,
    /// Shaping factor.
    pub factor: f64,
    /// Advantage with shaping.
    pub shaped_advantage: f64,
    /// Weight of each token in the policy gradient, 0 to 1.
    pub weight_t: Vec<f64>,
}

impl Table {
    /// The page of this table.
    ///
    /// # Errors
    /// None is expected; errors of the template are passed on.
    pub fn page(&self, page: &Page) -> Result<String> {
        let mut environment = Environment::new();
        environment.add_template("page.html", TEMPLATE)?;
        environment.add_filter("class", class);
        let context = json!({
            "css": STYLE,
            "js": SCRIPT,
            "spec": self.spec,
            "states": states(self),
            "sections": self.sections(),
            "footer": self.footer(),
            "figures": page.figures.iter().map(figure).collect::<Vec<Value>>(),
            "arms": page.arms,
            "spotlight": page.spotlight.as_ref().map(spotlight).transpose()?,
        });
        let template = environment.get_template("page.html")?;
        template.render(Serde(context)).context("the page's template")
    }
}

/// How many arms are how far.
fn states(table: &Table) -> Vec<Value> {
    let all = [Cell::Measured(()), Cell::Running, Cell::NotRun];
    let count = |status: &str| table.rows.iter().filter(|row| row.counts.status() == status).count();
    let counts = all.iter().map(|state| (state.status(), count(state.status())));
    let present = counts.filter(|(_, arms)| *arms > 0);
    present.map(|(status, arms)| json!({ "status": status, "arms": arms })).collect()
}

/// How a cell of this text is drawn.
fn class(text: &str) -> &'static str {
    match text {
        "measured" | "higher" | "agrees" => "higher",
        "lower" | "opposite" => "lower",
        "running" => "idle",
        _ if text.starts_with("not ") || text.starts_with("tiny: ") => "idle",
        _ => "",
    }
}

fn figure(figure: &Figure) -> Value {
    let Figure { name, title, caption, svg, .. } = figure;
    json!({ "name": name, "title": title, "caption": caption, "svg": svg })
}

fn spotlight(spotlight: &Spotlight) -> Result<Value> {
    let data = data(spotlight);
    Ok(json!({
        "seed": spotlight.seed,
        "samples": data["samples"],
        "strongest": STRONGEST,
        // A script ends where the text "</script" stands, whatever the language of its content.
        "json": serde_json::to_string(&data)?.replace('<', "\\u003c"),
    }))
}

/// The pictures of a page, each once.
#[derive(Default)]
struct Pictures<'a> {
    known: BTreeMap<&'a str, usize>,
    all: Vec<&'a str>,
}

impl<'a> Pictures<'a> {
    fn place(&mut self, png: &'a str) -> usize {
        let all = &mut self.all;
        *self.known.entry(png).or_insert_with(|| {
            all.push(png);
            all.len() - 1
        })
    }
}

/// What the script reads. Items of the same benchmark and name are one item of several arms.
fn data(spotlight: &Spotlight) -> Value {
    let mut pictures = Pictures::default();
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut items: Vec<Value> = vec![];
    let mut samples = 0;
    for (index, arm) in spotlight.arms.iter().enumerate() {
        for (i, item) in arm.items.iter().enumerate() {
            let place = *places.entry((&item.benchmark, &item.item)).or_insert_with(|| {
                items.push(json!({
                    "benchmark": item.benchmark,
                    "item": item.item,
                    "problem": item.problem,
                    "answer": item.answer,
                    "pictures": item.pictures.iter().map(|png| pictures.place(png)).collect::<Vec<_>>(),
                    "corrupted": {},
                    "answers": {},
                }));
                items.len() - 1
            });
            let corrupted: Vec<usize> = item.corrupted.iter().map(|png| pictures.place(png)).collect();
            let marks = arm.marks.as_ref().and_then(|marks| marks.get(i));
            let answers: Vec<_> = item
                .responses
                .iter()
                .enumerate()
                .map(|(sample, line)| answer(line, marks.and_then(|marks| marks.get(sample))))
                .collect();
            samples = samples.max(answers.len());
            items[place]["corrupted"][index.to_string()] = json!(corrupted);
            items[place]["answers"][index.to_string()] = json!(answers);
        }
    }
    let arms: Vec<_> = spotlight
        .arms
        .iter()
        .map(|arm| json!({ "label": arm.label, "corruption": arm.corruption }))
        .collect();
    json!({
        "arms": arms,
        "strongest": STRONGEST,
        "samples": samples,
        "outcomes": Outcome::ALL.map(Outcome::name),
        "pictures": pictures.all,
        "items": items,
    })
}

fn answer(line: &RolloutLine, mark: Option<&Mark>) -> Value {
    let weight = |mark: &Mark| mark.weight_t.iter().map(|&weight| round(weight)).collect::<Vec<f64>>();
    json!({
        "outcome": line.outcome,
        "extracted": line.extracted,
        "text": line.text_t,
        "kl": rounded(&line.kl_t),
        "logp": rounded(&line.logp_t),
        "corrupted_logp": rounded(&line.corrupted_logp_t),
        "entropy": rounded(&line.entropy_t),
        "weight": mark.map(weight),
        "credit": mark.map(|mark| json!({
            "advantage": round(mark.advantage),
            "factor": round(mark.factor),
            "shaped": round(mark.shaped_advantage),
        })),
    })
}

fn rounded(values_t: &[f32]) -> Vec<f64> {
    values_t.iter().map(|&x| round(f64::from(x))).collect()
}

/// Three decimals, and no negative zero.
fn round(x: f64) -> f64 {
    (x * 1e3).round() / 1e3 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Arm, ArmState, Footing, TableSpec};
    use crate::settings::CorruptionKind;

    fn table(title: &str) -> Table {
        let spec = TableSpec {
            title: title.into(),
            study: "main".into(),
            scale: "tiny".into(),
            seeds: "1".into(),
            config_hashes: vec![],
            protocol: "own: none".into(),
            notes: vec![],
            benchmarks: vec!["A".into()],
            baseline: "dapo".into(),
            samples: 1,
            resamples: 1,
            statistics_seed: 1,
            paper: vec![],
            footing: Footing::Tiny,
        };
        let arm = Arm { key: "dapo".into(), label: "D <b>&".into(), state: ArmState::NotRun };
        Table::new(spec, &[arm]).unwrap()
    }

    fn line(text: &str) -> RolloutLine {
        RolloutLine {
            item: "a".into(),
            sample: 0,
            outcome: Outcome::Correct,
            extracted: None,
            text_t: vec![text.into()],
            logp_t: vec![-0.12345],
            entropy_t: vec![0.0],
            reference_logp_t: vec![],
            corrupted_logp_t: vec![-0.0001],
            kl_t: vec![1.5],
            js_t: vec![0.1],
        }
    }

    fn arm(label: &str, corrupted: &str, text: &str) -> SpotlightArm {
        let item = SpotlightItem {
            benchmark: "A".into(),
            item: "a".into(),
            problem: "<image>What?".into(),
            answer: "1".into(),
            corruption: CorruptionKind::Full { level: 128 },
            pictures: vec!["PNG0".into()],
            corrupted: vec![corrupted.into()],
            responses: vec![line(text)],
        };
        SpotlightArm { label: label.into(), corruption: "grey".into(), items: vec![item], marks: None }
    }

    #[test]
    fn text_from_outside_cannot_leave_its_place() {
        let spotlight = Spotlight { seed: 1, arms: vec![arm("x", "PNG1", "</script><script>alert(1)//")] };
        let page = Page { spotlight: Some(spotlight), ..Page::default() };
        let html = table("Is a < b & \"c\"?").page(&page).unwrap();
        assert!(!html.contains("<script>alert") && html.contains("\\u003c/script"), "{html}");
        assert!(html.contains("<h1>Is a &lt; b &amp; &quot;c&quot;?</h1>"), "{html}");
        assert!(html.contains("D &lt;b&gt;&amp;") && !html.contains("D <b>"));
        assert!(html.contains("1 not run") && html.contains("<td class=\"idle\">not run</td>"));
    }

    #[test]
    fn an_item_of_several_arms_is_one_and_a_picture_is_kept_once() {
        let arms = vec![arm("x", "PNG1", "a"), arm("y", "PNG1", "b"), arm("z", "PNG2", "c")];
        let data = data(&Spotlight { seed: 1, arms });
        assert_eq!(data["pictures"], json!(["PNG0", "PNG1", "PNG2"]));
        assert_eq!(data["items"].as_array().unwrap().len(), 1);
        let item = &data["items"][0];
        assert_eq!(item["corrupted"], json!({ "0": [1], "1": [1], "2": [2] }));
        assert_eq!(item["answers"]["1"][0]["text"], json!(["b"]));
        let answer = &item["answers"]["0"][0];
        assert_eq!((&answer["logp"], &answer["corrupted_logp"]), (&json!([-0.123]), &json!([0.0])));
    }
}
