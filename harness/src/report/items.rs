//! `*.items.csv`: the compact record of an evaluation, one row per arm, seed and item.

use super::table::{Arm, ArmState};
use crate::stats::ItemScore;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// The columns, in the order of the fields of [`ItemScore`].
const HEADER: [&str; 13] = [
    "arm",
    "seed",
    "benchmark",
    "item",
    "cluster",
    "samples",
    "correct",
    "no_answer",
    "truncated",
    "gold_unparsable",
    "undecided",
    "tokens_total",
    "majority_correct",
];

/// Writes the item scores of the measured arms: arms in the order given, then by seed, benchmark and item.
///
/// # Errors
/// None is expected; serialisation errors are passed on.
pub fn items_csv(arms: &[Arm]) -> Result<String> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.write_record(HEADER)?;
    for arm in arms {
        let ArmState::Measured(scores) = &arm.state else { continue };
        let mut sorted: Vec<&ItemScore> = scores.iter().collect();
        sorted.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
        sorted.into_iter().try_for_each(|score| writer.serialize(score))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// Reads what [`items_csv`] wrote. `file` is the name for error messages.
///
/// # Errors
/// Names file and line where the header or a row is not as written, or its counts do not fit together.
pub fn parse_items(text: &str, file: &str) -> Result<Vec<ItemScore>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().with_context(|| format!("{file}, line 1"))?.clone();
    ensure!(
        header.iter().eq(HEADER),
        "{file}, line 1: the columns are not {}; write the file again from the samples",
        HEADER.join(",")
    );
    let mut scores = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| format!("{file} cannot be read"))?;
        let line = record.position().map_or(0, csv::Position::line);
        let score: ItemScore =
            record.deserialize(Some(&header)).with_context(|| format!("{file}, line {line}"))?;
        score.check(score.samples).with_context(|| format!("{file}, line {line}"))?;
        scores.push(score);
    }
    Ok(scores)
}

/// Sorts scores by the key of their arm.
pub fn items_by_arm(scores: Vec<ItemScore>) -> BTreeMap<String, Vec<ItemScore>> {
    let mut arms: BTreeMap<String, Vec<ItemScore>> = BTreeMap::new();
    for score in scores {
        arms.entry(score.arm.clone()).or_default().push(score);
    }
    arms
}

fn sort_key(score: &ItemScore) -> (u64, &str, &str) {
    (score.seed, &score.benchmark, &score.item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm() -> Arm {
        let score = ItemScore {
            arm: "vppo".into(),
            seed: 1,
            benchmark: "We-Math".into(),
            item: "a, \"b\"\nc".into(),
            cluster: "9".into(),
            samples: 8,
            correct: 3,
            no_answer: 1,
            truncated: 1,
            gold_unparsable: 0,
            undecided: 0,
            tokens_total: 800,
            majority_correct: true,
        };
        let second = ItemScore { item: "0".into(), ..score.clone() };
        Arm { key: "vppo".into(), label: "VPPO".into(), state: ArmState::Measured(vec![score, second]) }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = items_csv(&[arm()]).unwrap();
        assert!(
            text.starts_with(&(HEADER.join(",") + "\nvppo,1,We-Math,0,9,8,3,1,1,0,0,800,true\n")),
            "{text}"
        );
        let mut read = items_by_arm(parse_items(&text, "main.items.csv").unwrap());
        read.get_mut("vppo").unwrap().reverse();
        assert_eq!(ArmState::Measured(read.remove("vppo").unwrap()), arm().state);
    }

    #[test]
    fn the_columns_are_the_fields() {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let ArmState::Measured(scores) = arm().state else { panic!("measured") };
        writer.serialize(&scores[0]).unwrap();
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert_eq!(text.lines().next(), Some(HEADER.join(",").as_str()));
    }

    #[test]
    fn errors_name_file_and_line() {
        let text = items_csv(&[arm()]).unwrap();
        let error = |text: &str| format!("{:#}", parse_items(text, "main.items.csv").unwrap_err());
        let cases = [
            (text.replacen("cluster", "klass", 1), "main.items.csv, line 1: the columns"),
            (text.replacen(",800,", ",many,", 1), "main.items.csv, line 2"),
            (text.replacen(",8,3,", ",8,9,", 1), "main.items.csv, line 2: arm vppo, seed 1, We-Math, item 0"),
            (text + "short,row\n", "line: 5"),
        ];
        for (text, wanted) in cases {
            assert!(error(&text).contains(wanted), "{}", error(&text));
        }
    }
}
