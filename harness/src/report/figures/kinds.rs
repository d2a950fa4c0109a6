//! Dependency by kind of token: which tokens need the picture.

use super::axes::{Axis, Frame, Swatch, legend};
use super::font::text_width;
use super::sheet::{Align, LABEL, MARGIN, Sheet, TEXT};
use super::{Figure, FigureData, Response, Series, TokenData, TokenKind, figure, numbers};
use crate::stats::{Clusters, Estimate};
use anyhow::Result;

/// Share of a response's tokens that the paper's token filter keeps.
const FRACTION: f64 = 0.4;
/// Height of a bar, and the space between the bars of two kinds.
const BAR: f64 = 7.0;
const KIND_GAP: f64 = 10.0;

/// A mean over a series' tokens of a kind, and half its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    value: f64,
    half: Option<f64>,
}

/// One kind in one series.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    kind: TokenKind,
    tokens: usize,
    /// Dependency of a token.
    dependency: Mean,
    /// Whether a token is among the most dependent of its response.
    kept: Mean,
}

/// How tokens are told apart, for captions.
const KINDS: &str = "A kind is told by a token's text: numbers are digits; letters and labels are single letters, a few \
                     capitals (ABC) and LaTeX symbols; operators are relations too; markup is <think>, \\boxed{, end tokens \
                     and other LaTeX commands; words include spelled numbers. Lines are 95 % intervals, clustered by \
                     question.";

/// The two figures: mean dependency of each kind, and how many of its tokens a filter by dependency would keep. Both have
/// the same numbers.
pub(super) fn figures(data: &FigureData, series: &[Series<'_>]) -> Result<Vec<Figure>> {
    let tables: Vec<Vec<Row>> = series.iter().map(|series| rows(series.tokens)).collect::<Result<_>>()?;
    let csv = csv(series, &tables)?;
    let draw = |drawn: Drawn| {
        let caption = format!("{} {KINDS} {}", drawn.caption, data.of_responses(series));
        figure(drawn.name, drawn.title, caption, &sheet(&drawn, series, &tables), csv.clone())
    };
    Ok(vec![draw(dependency())?, draw(kept(&tables))?])
}

fn dependency() -> Drawn {
    Drawn {
        name: "token_kinds",
        title: "Which tokens depend on the picture",
        axis: "mean visual dependency, nats",
        caption: "Mean visual dependency (KL divergence, paper eq. 3) of the tokens of each kind.",
        factor: 1.0,
        unit: "",
        value: |row| row.dependency,
        reference: None,
    }
}

fn kept(tables: &[Vec<Row>]) -> Drawn {
    let rows = || tables.iter().flatten();
    let tokens: f64 = rows().map(|row| row.tokens as f64).sum();
    let kept: f64 = rows().map(|row| row.tokens as f64 * row.kept.value).sum();
    Drawn {
        name: "token_kinds_kept",
        title: "Which tokens a filter by dependency keeps",
        axis: "tokens of the kind among the top 40 % of their response",
        caption: "Share of each kind's tokens that are among the 40 % of their response which depend most on the picture (KL \
                  divergence; rounded up, of equal ones the earlier), whatever the arm's own filter keeps; the dashed line is \
                  the share of all tokens.",
        factor: 100.0,
        unit: " %",
        value: |row| row.kept,
        reference: Some(100.0 * kept / tokens),
    }
}

/// The kinds that a series has, in order.
fn rows(tokens: &TokenData) -> Result<Vec<Row>> {
    let responses: Vec<(&Response, Vec<bool>)> =
        tokens.responses.iter().map(|response| (response, most_dependent(response))).collect();
    let mut rows = vec![];
    for kind in TokenKind::ALL {
        let of_kind = || {
            responses.iter().flat_map(move |(response, kept_t)| {
                let tokens = response.tokens.iter().zip(kept_t).filter(move |(token, _)| token.0 == kind);
                tokens.map(|(token, kept)| (response.item.as_str(), token.1, *kept))
            })
        };
        let count = of_kind().count();
        if count > 0 {
            let dependency = mean(of_kind().map(|(item, value, _)| (item, value)))?;
            let kept = mean(of_kind().map(|(item, _, kept)| (item, f64::from(u8::from(kept)))))?;
            rows.push(Row { kind, tokens: count, dependency, kept });
        }
    }
    Ok(rows)
}

fn mean<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> Result<Mean> {
    let estimate = Estimate::of(&Clusters::new(values)?);
    Ok(Mean { value: estimate.mean, half: estimate.half_width() })
}

/// For each token whether it is among the most dependent of its response; of equal ones the earlier.
fn most_dependent(response: &Response) -> Vec<bool> {
    let count = response.tokens.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| response.tokens[b].1.total_cmp(&response.tokens[a].1));
    let mut kept = vec![false; count];
    order.iter().take((FRACTION * count as f64).ceil() as usize).for_each(|&token| kept[token] = true);
    kept
}

/// What a figure shows of the rows.
struct Drawn {
    name: &'static str,
    title: &'static str,
    axis: &'static str,
    caption: &'static str,
    factor: f64,
    unit: &'static str,
    value: fn(&Row) -> Mean,
    /// Where a line across all kinds stands.
    reference: Option<f64>,
}

impl Drawn {
    fn of(&self, row: &Row) -> Mean {
        let mean = (self.value)(row);
        Mean { value: self.factor * mean.value, half: mean.half.map(|half| self.factor * half) }
    }
}

fn sheet(drawn: &Drawn, series: &[Series<'_>], tables: &[Vec<Row>]) -> Sheet {
    let mut sheet = Sheet::titled(drawn.title, drawn.axis);
    let kinds: Vec<TokenKind> = TokenKind::ALL
        .into_iter()
        .filter(|kind| tables.iter().flatten().any(|row| row.kind == *kind))
        .collect();
    let group = KIND_GAP + BAR * series.len() as f64;
    let frame = frame(&mut sheet, drawn, tables, &kinds, group);
    frame.columns(&mut sheet);
    for (number, kind) in kinds.iter().enumerate() {
        let top = frame.top + group * number as f64 + KIND_GAP / 2.0;
        let middle = top + BAR * series.len() as f64 / 2.0;
        sheet.text((frame.left - 6.0, middle), kind.name(), LABEL, Align::Right);
        for (place, (series, rows)) in series.iter().zip(tables).enumerate() {
            if let Some(row) = rows.iter().find(|row| row.kind == *kind) {
                bar(&mut sheet, &frame, top + BAR * place as f64, drawn.of(row), series);
            }
        }
    }
    if let Some(reference) = drawn.reference {
        sheet.dashes((frame.across(reference), frame.top), frame.bottom, TEXT);
    }
    sheet.line((frame.left, frame.top), (frame.left, frame.bottom), TEXT, 1.0);
    frame.base_line(&mut sheet);
    let entry = |series: &Series| (series.label.clone(), series.look, Swatch::Bar);
    legend(&mut sheet, &series.iter().map(entry).collect::<Vec<_>>());
    sheet
}

fn frame(sheet: &mut Sheet, drawn: &Drawn, tables: &[Vec<Row>], kinds: &[TokenKind], group: f64) -> Frame {
    let ends =
        tables.iter().flatten().map(|row| drawn.of(row)).map(|mean| mean.value + mean.half.unwrap_or(0.0));
    let x = Axis::exact(0.0, 1.02 * ends.fold(0.0, f64::max), 6, drawn.unit);
    let y = Axis::exact(0.0, 1.0, 1, "").numbered(vec![]);
    let mut frame = Frame::below(sheet, group * kinds.len() as f64, x, y);
    let widest = kinds.iter().map(|kind| text_width(kind.name(), LABEL)).fold(0.0, f64::max);
    frame.left = MARGIN + widest + 6.0;
    frame
}

/// A bar with its interval.
fn bar(sheet: &mut Sheet, frame: &Frame, top: f64, mean: Mean, series: &Series<'_>) {
    let bottom = top + BAR - 1.0;
    sheet.rect((frame.left, top), (frame.across(mean.value), bottom), series.look.colour);
    let middle = (top + bottom) / 2.0;
    sheet.mark_on_bar((frame.left + 5.0, middle), series.look);
    if let Some(half) = mean.half {
        let (from, to) = ((mean.value - half).max(0.0), mean.value + half);
        sheet.line((frame.across(from), middle), (frame.across(to), middle), TEXT, 1.0);
    }
}

fn csv(series: &[Series<'_>], tables: &[Vec<Row>]) -> Result<String> {
    let header = [
        "series",
        "kind",
        "tokens",
        "share_of_tokens_pct",
        "dependency_mean",
        "dependency_half_width",
        "kept_pct",
        "kept_half_width_pct",
        "share_of_kept_pct",
    ];
    let mut lines = vec![];
    for (series, rows) in series.iter().zip(tables) {
        let all: f64 = rows.iter().map(|row| row.tokens as f64).sum();
        let all_kept: f64 = rows.iter().map(|row| row.tokens as f64 * row.kept.value).sum();
        for row in rows {
            let tokens = row.tokens as f64;
            lines.push(vec![
                series.label.clone(),
                row.kind.name().to_owned(),
                row.tokens.to_string(),
                numbers::number(100.0 * tokens / all),
                numbers::number(row.dependency.value),
                numbers::or_empty(row.dependency.half),
                numbers::number(100.0 * row.kept.value),
                numbers::or_empty(row.kept.half.map(|half| 100.0 * half)),
                numbers::number(100.0 * tokens * row.kept.value / all_kept),
            ]);
        }
    }
    numbers::table(&header, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(item: &str, tokens: &[(TokenKind, f64)]) -> Response {
        Response { item: item.into(), tokens: tokens.to_vec() }
    }

    #[test]
    fn the_most_dependent_tokens_are_kept() {
        use TokenKind::Word;
        let kept = |values: &[f64]| {
            let tokens: Vec<_> = values.iter().map(|value| (Word, *value)).collect();
            most_dependent(&response("q", &tokens))
        };
        assert_eq!(kept(&[0.1, 3.0, 0.0, 2.0, 1.0]), [false, true, false, true, false], "2 of 5");
        assert_eq!(kept(&[1.0, 1.0, 1.0]), [true, true, false], "1.2 is 2; the earlier of equal ones");
        assert_eq!(kept(&[0.0]), [true]);
        assert_eq!(kept(&[]), Vec::<bool>::new());
    }

    #[test]
    fn kinds_are_averaged_by_hand() {
        use TokenKind::{Number, Word};
        let responses = vec![
            response("a", &[(Number, 4.0), (Word, 0.0), (Word, 0.0)]),
            response("b", &[(Number, 1.0), (Number, 1.0), (Word, 3.0)]),
        ];
        let rows = rows(&TokenData { step: 1, seeds: 1, responses }).unwrap();
        let [number, word] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((number.kind, number.tokens, number.dependency.value), (Number, 3, 2.0));
        assert_eq!((word.kind, word.tokens, word.dependency.value), (Word, 3, 1.0));
        // Two of three are kept: the first number and the first word of a; the word and the first number of b.
        assert_eq!((number.kept.value, word.kept.value), (2.0 / 3.0, 2.0 / 3.0));
        // Questions a and b: residuals 4 - 2 and 2 - 4, error sqrt(2 (4 + 4)) / 3, t(0.975, 1) = 12.706.
        assert!((number.dependency.half.unwrap() - 12.706_204_736 * 4.0 / 3.0).abs() < 1e-6);
    }
}
