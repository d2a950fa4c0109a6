//! The page of a study: what stands in it, that it needs nothing else, and that it is made from the stored files alone.

use crate::run::{ARMS, cell, reference, study, succeeds};
use harness::store::{CellKey, Store};
use harness::types::SpotlightItem;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn page(out: &Path) -> String {
    fs::read_to_string(out.join("results/smoke/main.html")).unwrap()
}

/// What the page's script reads.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let (text, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(text).unwrap()
}

fn spotlight(arm: &str) -> Vec<SpotlightItem> {
    let key = CellKey { scale: "smoke".into(), study: "main".into(), variant: arm.into(), seed: 1 };
    Store::open(reference().out().join("runs")).unwrap().read_only(&key).unwrap().spotlight().unwrap()
}

#[test]
fn a_page_is_made_again_to_the_byte() {
    let folder = reference().whole();
    fs::remove_dir_all(folder.path().join("results")).unwrap();
    let told = succeeds(study("report", folder.path(), &[])).stdout;
    assert!(told.contains("main.html"), "{told}");
    assert!(page(folder.path()) == page(reference().out()));
}

#[test]
fn a_page_needs_no_other_file_and_no_network() {
    let page = page(reference().out());
    for outside in ["src=\"http", "href=\"http", "<link", "@import", "url(", "<script src", "fetch("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("figure svg [fill=\"#333333\"] { fill: var(--ink); }"), "the style is not escaped");
    assert!(page.matches("<svg ").count() > 4, "figures are drawn in the page");
    for inside in ["#tables", "#figures", "#spotlight", "#settings", "#provenance"] {
        let anchor = format!("id=\"{}\"", &inside[1..]);
        assert!(page.contains(&format!("href=\"{inside}\"")) && page.contains(&anchor), "{inside}");
    }
}

/// Every arm has every kept item with all of its answers, and one value per token; the same item has one picture.
#[test]
fn the_spotlight_has_every_kept_answer() {
    let data = data(&page(reference().out()));
    assert_eq!(data["arms"].as_array().unwrap().len(), ARMS.len());
    let items = data["items"].as_array().unwrap();
    assert_eq!(items.len(), 8, "one item of each benchmark");
    for (index, arm) in ARMS.iter().enumerate() {
        for (item, kept) in items.iter().zip(spotlight(arm)) {
            assert_eq!(
                (item["item"].as_str(), &item["pictures"].as_array().unwrap().len()),
                (Some(&*kept.item), &1)
            );
            let answers = item["answers"][index.to_string()].as_array().unwrap();
            assert_eq!(answers.len(), 8);
            for (answer, line) in answers.iter().zip(&kept.responses) {
                let tokens = line.text_t.len();
                for name in ["text", "kl", "logp", "corrupted_logp", "entropy"] {
                    assert_eq!(answer[name].as_array().unwrap().len(), tokens, "{arm} {name}");
                }
                assert_eq!(answer["outcome"], line.outcome.name());
                assert_eq!(answer["credit"].is_null(), *arm == "base");
            }
        }
    }
}

/// VPPO's filter keeps the ceiling of 40 % of each answer's tokens, DAPO keeps all; a group of equal rewards has no
/// advantage, the others' advantages add up to none.
#[test]
fn masks_and_advantages_are_those_of_the_arms() {
    let data = data(&page(reference().out()));
    let arm = |name: &str| ARMS.iter().position(|arm| *arm == name).unwrap().to_string();
    let mut told_apart = 0;
    for item in data["items"].as_array().unwrap() {
        for (name, share) in [("vppo", 0.4), ("mask_only", 0.4), ("reweight_only", 1.0), ("dapo", 1.0)] {
            let answers = item["answers"][arm(name)].as_array().unwrap();
            for answer in answers {
                let weights: Vec<f64> =
                    answer["weight"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).collect();
                let kept = weights.iter().filter(|weight| **weight > 0.0).count();
                assert_eq!(kept, (share * weights.len() as f64).ceil() as usize, "{name}");
            }
            let sum: f64 = answers.iter().map(|a| a["credit"]["advantage"].as_f64().unwrap()).sum();
            assert!(sum.abs() < 0.01, "{name}: {sum}");
            let right = answers.iter().filter(|a| a["outcome"] == "correct").count();
            let none = answers.iter().all(|a| a["credit"]["advantage"] == 0.0);
            assert_eq!(none, right == 0 || right == answers.len(), "{name}");
            told_apart += usize::from(!none);
        }
    }
    assert!(told_apart > 0, "no group with right and wrong answers");
}

/// The completions of the spotlight are those of the samples file: the first items of each benchmark.
#[test]
fn the_spotlight_shows_what_was_evaluated() {
    for arm in ["base", "vppo"] {
        let key = CellKey { scale: "smoke".into(), study: "main".into(), variant: arm.into(), seed: 1 };
        let stored = Store::open(reference().out().join("runs")).unwrap().read_only(&key).unwrap();
        let samples = stored.samples().unwrap().unwrap();
        for item in spotlight(arm) {
            let of_item = |line: &&harness::types::SampleLine| {
                line.benchmark == item.benchmark && line.item == item.item
            };
            let lines: Vec<_> = samples.iter().filter(of_item).collect();
            assert_eq!(lines.len(), item.responses.len());
            for (line, response) in lines.iter().zip(&item.responses) {
                assert_eq!(
                    (line.sample, line.outcome, &line.extracted),
                    (response.sample, response.outcome, &response.extracted)
                );
                assert_eq!(line.tokens as usize, response.text_t.len());
                assert_eq!(response.kl_t.len(), response.text_t.len());
            }
            assert!(item.corrupted != item.pictures, "{arm}: the corrupted picture is another");
        }
    }
}

/// A study without kept answers has a page without a spotlight.
#[test]
fn a_page_without_kept_answers() {
    let folder = reference().whole();
    for arm in ARMS {
        fs::remove_dir_all(cell(folder.path(), arm).join("spotlight")).unwrap();
    }
    succeeds(study("report", folder.path(), &[]));
    let page = page(folder.path());
    assert!(!page.contains("id=\"spotlight\"") && page.contains("id=\"tables\""));
}

/// Every study of the repository is reported; what has not run is said not to have.
#[test]
fn all_studies_at_once() {
    let folder = reference().whole();
    fs::remove_dir_all(folder.path().join("results")).unwrap();
    succeeds(study("report", folder.path(), &["--study", "all"]));
    let results = folder.path().join("results/smoke");
    let sheet = fs::read_to_string(results.join("summary.md")).unwrap();
    let lines = |study: &str| {
        sheet
            .lines()
            .filter(|line| line.starts_with(&format!("| {} |", study.replace('_', "\\_"))))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines("main").len(), 5);
    assert!(lines("main").iter().all(|line| !line.contains("not run")), "{sheet}");
    assert!(lines("dependency").iter().all(|line| line.contains("not run")), "{sheet}");
    for study in harness::config::Study::names() {
        assert!(results.join(format!("{study}.html")).is_file(), "{study}");
        assert!(!lines(study).is_empty() && results.join(format!("{study}.csv")).is_file(), "{study}");
    }
    let main = |kind: &str| fs::read(results.join(format!("main.{kind}"))).unwrap();
    let before = |kind: &str| fs::read(reference().out().join(format!("results/smoke/main.{kind}"))).unwrap();
    assert!(main("md") == before("md") && main("html") == before("html"));
}
