//! The figures that the paper published, from `results/paper/dependency.csv` and `training_accuracy.csv`.

use anyhow::{Context, Result, ensure};

const DEPENDENCY: (&str, &str) =
    ("results/paper/dependency.csv", include_str!("../../../../results/paper/dependency.csv"));
const ACCURACY: (&str, &str) =
    ("results/paper/training_accuracy.csv", include_str!("../../../../results/paper/training_accuracy.csv"));
const DEPENDENCY_COLUMNS: [&str; 6] = ["figure", "low", "high", "count", "share_pct", "note"];

/// A bin from `low` to below `high`, or to the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bin {
    pub low: f64,
    pub high: Option<f64>,
    pub count: Option<f64>,
    pub share: Option<f64>,
}

/// Figures 3 and 4: Qwen2.5-VL-7B on the vision-dominant questions of MathVerse.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PublishedDependency {
    /// Where bins of tokens begin; the last has no end.
    pub token_edges: Vec<f64>,
    /// Share of the tokens in each.
    pub token_shares: Vec<f64>,
    /// Where bins of responses begin, then where the last ends: all are of one width.
    pub response_edges: Vec<f64>,
    /// Responses in each.
    pub response_counts: Vec<f64>,
}

impl PublishedDependency {
    /// Those that are part of the program.
    pub fn load() -> Result<PublishedDependency> {
        PublishedDependency::parse(DEPENDENCY.1, DEPENDENCY.0)
    }

    fn parse(text: &str, file: &str) -> Result<PublishedDependency> {
        let rows = rows(text, file, &DEPENDENCY_COLUMNS)?;
        let of = |figure: &str| -> Result<Vec<Bin>> {
            rows.iter().filter(|(_, fields)| fields[0] == figure).map(|row| bin(row, file)).collect()
        };
        let (tokens, responses) = (of("fig3")?, of("fig4")?);
        let (token_edges, token_shares) = token_shares(&tokens).with_context(|| format!("{file}, fig3"))?;
        ensure!(!responses.is_empty(), "{file} has no rows of fig4");
        let counts: Option<Vec<f64>> = responses.iter().map(|bin| bin.count).collect();
        let last = responses.last().and_then(|bin| bin.high);
        let mut response_edges: Vec<f64> = responses.iter().map(|bin| bin.low).collect();
        response_edges.push(last.with_context(|| format!("{file}: the last bin of fig4 has no end"))?);
        let response_counts = counts.with_context(|| format!("{file}: a bin of fig4 has no count"))?;
        Ok(PublishedDependency { token_edges, token_shares, response_edges, response_counts })
    }
}

/// Edges and shares of bins that do not overlap. The paper's figure gives counts of its first bins, of all tokens, and what
/// lies above some values: a bin that begins there has the difference of two such shares.
fn token_shares(bins: &[Bin]) -> Result<(Vec<f64>, Vec<f64>)> {
    let all = bins.iter().find(|bin| bin.low == 0.0 && bin.high.is_none());
    let all = all.and_then(|bin| bin.count).context("the number of all tokens is missing")?;
    let above: Vec<&Bin> = bins.iter().filter(|bin| bin.high.is_none() && bin.low > 0.0).collect();
    let (mut edges, mut shares) = (vec![], vec![]);
    for bin in bins.iter().filter(|bin| bin.high.is_some()) {
        edges.push(bin.low);
        shares.push(bin.count.context("a bin has no count")? / all);
    }
    for (i, bin) in above.iter().enumerate() {
        let next = above.get(i + 1).map_or(Some(0.0), |next| next.share);
        edges.push(bin.low);
        shares.push(bin.share.zip(next).map(|(from, to)| from - to).context("a bin has no share")?);
    }
    Ok((edges, shares))
}

/// One curve of Figure 5, as 10-step means.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PublishedCurve {
    /// The paper's name.
    pub name: String,
    /// Step in the middle of ten, and mean accuracy.
    pub points: Vec<(f64, f64)>,
}

/// The curves of Figure 5.
pub(super) fn accuracy_curves() -> Result<Vec<PublishedCurve>> {
    parse_curves(ACCURACY.1, ACCURACY.0)
}

fn parse_curves(text: &str, file: &str) -> Result<Vec<PublishedCurve>> {
    let names: Vec<&str> = text.lines().next().unwrap_or_default().trim().split(',').skip(1).collect();
    let columns: Vec<&str> = std::iter::once("step_centre").chain(names.iter().copied()).collect();
    let rows = rows(text, file, &columns)?;
    let curve = |(i, name): (usize, &&str)| {
        let points = rows.iter().map(|row| Ok((number(row, 0, file)?, number(row, i + 1, file)?)));
        Ok(PublishedCurve { name: name.to_string(), points: points.collect::<Result<_>>()? })
    };
    names.iter().enumerate().map(curve).collect()
}

/// A line number with its fields.
type Row = (u64, Vec<String>);

fn rows(text: &str, file: &str, columns: &[&str]) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().with_context(|| format!("{file}, line 1"))?;
    ensure!(
        header.iter().eq(columns.iter().copied()),
        "{file}, line 1: the columns must be {}",
        columns.join(",")
    );
    let row = |record: csv::Result<csv::StringRecord>| {
        let record = record.with_context(|| format!("{file} cannot be read"))?;
        let line = record.position().map_or(0, csv::Position::line);
        Ok((line, record.iter().map(str::to_owned).collect()))
    };
    reader.records().map(row).collect()
}

fn optional(row: &Row, column: usize, file: &str) -> Result<Option<f64>> {
    let text = row.1.get(column).map_or("", String::as_str);
    if text.is_empty() {
        return Ok(None);
    }
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
    value.map(Some).with_context(|| format!("{file}, line {}: {text:?} is no number from 0", row.0))
}

fn number(row: &Row, column: usize, file: &str) -> Result<f64> {
    optional(row, column, file)?.with_context(|| format!("{file}, line {}: a number is missing", row.0))
}

fn bin(row: &Row, file: &str) -> Result<Bin> {
    Ok(Bin {
        low: number(row, 1, file)?,
        high: optional(row, 2, file)?,
        count: optional(row, 3, file)?,
        share: optional(row, 4, file)?.map(|pct| pct / 100.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_dependency_is_whole() {
        let found = PublishedDependency::load().unwrap();
        assert_eq!(found.token_edges, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 10.0]);
        assert!((found.token_shares.iter().sum::<f64>() - 1.0).abs() < 5e-4, "{:?}", found.token_shares);
        assert!((found.token_shares[0] - 0.9495).abs() < 5e-5);
        assert!((found.token_shares[6] - 0.0067).abs() < 1e-12, "from 2 to 4: 1.0 % - 0.33 %");
        assert_eq!(found.response_counts.iter().sum::<f64>(), 788.0);
        assert_eq!((found.response_edges.len(), found.response_counts.len()), (51, 50));
        let mean: f64 = found
            .response_counts
            .iter()
            .zip(&found.response_edges)
            .map(|(n, low)| n * (low + 0.003825))
            .sum();
        assert!((mean / 788.0 - 0.088).abs() < 2e-4, "the paper's mean, drawn as 0.09: {mean}");
    }

    #[test]
    fn the_published_curves_are_whole() {
        let curves = accuracy_curves().unwrap();
        assert_eq!(
            curves.iter().map(|curve| curve.name.as_str()).collect::<Vec<_>>(),
            ["GRPO", "DAPO", "VPPO"]
        );
        assert!(curves.iter().all(|curve| curve.points.len() == 20 && curve.points[0].0 == 5.0));
        assert_eq!(curves[2].points[19], (195.0, 0.786));
    }

    #[test]
    fn errors_name_file_and_line() {
        let dependency = |rows: &str| {
            let text = format!("{}\n{rows}", DEPENDENCY_COLUMNS.join(","));
            format!("{:#}", PublishedDependency::parse(&text, "d.csv").unwrap_err())
        };
        let all = "fig3,0,,100,100,\n";
        for (message, wanted) in [
            (dependency("fig3,x,,1,,\n"), "d.csv, line 2: \"x\" is no number from 0"),
            (dependency("fig3,,,1,,\n"), "d.csv, line 2: a number is missing"),
            (dependency("fig3,0,0.2,7,,\n"), "d.csv, fig3: the number of all tokens is missing"),
            (dependency(&format!("{all}fig3,0,0.2,,,\n")), "fig3: a bin has no count"),
            (dependency(&format!("{all}fig3,1,,,,\n")), "fig3: a bin has no share"),
            (dependency(all), "d.csv has no rows of fig4"),
            (dependency(&format!("{all}fig4,0,,3,,\n")), "the last bin of fig4 has no end"),
            (dependency(&format!("{all}fig4,0,1,,,\n")), "a bin of fig4 has no count"),
            (
                format!("{:#}", PublishedDependency::parse("a,b\n", "d.csv").unwrap_err()),
                "columns must be figure,low",
            ),
            (
                format!("{:#}", parse_curves("step_centre,A\n5,NaN\n", "c.csv").unwrap_err()),
                "c.csv, line 2: \"NaN\"",
            ),
        ] {
            assert!(message.contains(wanted), "{message}");
        }
    }
}
