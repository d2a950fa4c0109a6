//! Figures of a study: training curves, and how much tokens depend on the picture, each as SVG, PNG and CSV.
//!
//! What it is for: the curves of all arms over the training steps; the visual dependency (paper eq. 3: the KL divergence
//! under the corrupted picture) of tokens, of responses and of kinds of tokens, laid out like the paper's Figures 3 and 4,
//! with the published bins beside ours and named as such. The same data give the same bytes: the font is part of the
//! program, and no clock, file or random number enters.
//!
//! The parts: [`FigureData`] is what is drawn; `curves`, `tokens`, `responses` and `kinds` make figures of it as a list of
//! marks (`sheet`), with `axes`; `render` turns marks into SVG and pixels; `published` holds the paper's values;
//! [`TokenKind`] tells what kind of token a text is. For a page that is dark: in the SVG files text and axes are
//! `#333333`, the grid is `#DDDDDD`, and nothing stands for the background.
//!
//! What it does not know: where runs and files lie, what an algorithm is.
//!
//! Source: paper Figures 3, 4 and 5; the colours are those of Okabe and Ito.

mod axes;
mod curves;
mod font;
mod kinds;
mod numbers;
mod published;
mod render;
mod responses;
mod sheet;
mod token_kind;
mod tokens;

pub use token_kind::TokenKind;

use crate::store::StepLine;
use crate::types::RolloutLine;
use anyhow::{Context, Result};
use published::PublishedDependency;
use sheet::{Look, Sheet};
use std::collections::BTreeSet;

/// A figure of a study: the same drawing as SVG and PNG, and its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Part of its files' names, such as `training_accuracy`.
    pub name: String,
    /// What it shows, in a few words; stands in the drawing too.
    pub title: String,
    /// What was drawn from which data, in sentences.
    pub caption: String,
    /// SVG file.
    pub svg: String,
    /// PNG file, two pixels per unit of the SVG.
    pub png: Vec<u8>,
    /// The numbers, from which it can be drawn again.
    pub csv: String,
}

/// What a study's figures are drawn from.
#[derive(Clone, Debug, Default)]
pub struct FigureData {
    /// Name of the scale.
    pub scale: String,
    /// Name of the study.
    pub study: String,
    /// The trained arms, in the study's order: their places decide their colours.
    pub arms: Vec<ArmData>,
    /// Responses of the base model, which every arm samples in its first step.
    pub base: Option<BaseData>,
}

/// What is drawn of an arm.
#[derive(Clone, Debug, Default)]
pub struct ArmData {
    /// Its name in the study.
    pub key: String,
    /// How figures call it.
    pub label: String,
    /// The figures of the training steps so far, seed by seed.
    pub seeds: Vec<Vec<StepLine>>,
    /// The responses of the last step that was kept token by token, where there is one after the first.
    pub tokens: Option<TokenData>,
}

/// Responses of the base model.
#[derive(Clone, Debug)]
pub struct BaseData {
    /// Label of the arm whose first step they are.
    pub arm: String,
    /// Share of that step's groups which the arm's filter kept, if known: the others' responses are not here.
    pub kept_groups_frac: Option<f64>,
    /// The responses.
    pub tokens: TokenData,
}

/// The kept responses of a training step, those of several seeds together.
#[derive(Clone, Debug, Default)]
pub struct TokenData {
    /// The step.
    pub step: u64,
    /// Number of seeds.
    pub seeds: usize,
    /// The responses that have tokens.
    pub responses: Vec<Response>,
}

impl TokenData {
    /// Adds what one seed kept of the step.
    pub fn add_seed(&mut self, lines: &[RolloutLine]) {
        self.seeds += 1;
        let responses = lines.iter().map(Response::new).filter(|response| !response.tokens.is_empty());
        self.responses.extend(responses);
    }

    /// The dependency of every token.
    fn dependency_t(&self) -> impl Iterator<Item = f64> + '_ {
        self.responses.iter().flat_map(|response| response.tokens.iter().map(|token| token.1))
    }
}

/// A response: the kind and the dependency (KL divergence, in nats) of each of its tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// Its question.
    pub item: String,
    /// Its tokens.
    pub tokens: Vec<(TokenKind, f64)>,
}

impl Response {
    /// What figures need of a kept response.
    pub fn new(line: &RolloutLine) -> Response {
        let kinds = TokenKind::of_response(&line.text_t);
        let tokens = kinds.into_iter().zip(line.kl_t.iter().map(|&kl| f64::from(kl))).collect();
        Response { item: line.item.clone(), tokens }
    }

    /// The mean over its tokens, the paper's score of a response.
    fn mean(&self) -> f64 {
        self.tokens.iter().map(|token| token.1).sum::<f64>() / self.tokens.len() as f64
    }
}

/// All figures that the data allow; none of tokens where no rollouts were kept.
///
/// # Errors
/// None is expected; the published values that are part of the program are checked, and drawing errors passed on.
pub fn figures(data: &FigureData) -> Result<Vec<Figure>> {
    let mut figures = curves::figures(data)?;
    let series = data.series();
    if !series.is_empty() {
        let paper = PublishedDependency::load()?;
        figures.push(tokens::token_figure(data, &series, &paper)?);
        figures.push(responses::response_figure(data, &series, &paper)?);
        figures.extend(kinds::figures(data, &series)?);
    }
    Ok(figures)
}

/// Responses that are drawn together.
struct Series<'a> {
    label: String,
    look: Look,
    tokens: &'a TokenData,
}

impl FigureData {
    /// The base model and the arms that have responses.
    fn series(&self) -> Vec<Series<'_>> {
        let base = self.base.iter().map(|base| Series {
            label: "Base model (step 1)".into(),
            look: Look::base(),
            tokens: &base.tokens,
        });
        let several = self.steps().len() > 1;
        let arms = self.arms.iter().enumerate().filter_map(|(number, arm)| {
            let tokens = arm.tokens.as_ref()?;
            let step = if several { format!(" (step {})", tokens.step) } else { String::new() };
            Some(Series { label: format!("{}{step}", arm.label), look: Look::of(number), tokens })
        });
        base.chain(arms).filter(|series| !series.tokens.responses.is_empty()).collect()
    }

    /// The steps whose responses are drawn as the arms'.
    fn steps(&self) -> BTreeSet<u64> {
        self.arms.iter().filter_map(|arm| arm.tokens.as_ref()).map(|tokens| tokens.step).collect()
    }

    /// Which run this is, as a sentence.
    fn of_run(&self) -> String {
        let seeds = self.arms.iter().map(|arm| arm.seeds.len()).max().unwrap_or_default();
        let seeds = if seeds == 1 { "one training seed".into() } else { format!("{seeds} training seeds") };
        format!("Study {}, scale {}, {seeds}.", self.study, self.scale)
    }

    /// Which responses these are, in sentences.
    fn of_responses(&self, series: &[Series<'_>]) -> String {
        let mut text = self.of_run();
        let steps: Vec<String> = self.steps().iter().map(u64::to_string).collect();
        if !steps.is_empty() {
            let word = if steps.len() == 1 { "step" } else { "steps" };
            text += &format!(
                " Training responses of {word} {}, the last that {} kept token by token: what an arm learned from, so \
                 an arm with a filter has only groups with right and wrong answers.",
                steps.join(", "),
                if steps.len() == 1 { "was" } else { "were" }
            );
        }
        if let Some(base) = &self.base {
            text += &format!(" The base model's are those of the first step of {}", base.arm);
            if let Some(kept) = base.kept_groups_frac {
                text += &format!(", whose filter kept {} % of the groups", numbers::shown(100.0 * kept));
            }
            text += ".";
        }
        let count = |series: &Series| series.tokens.responses.len();
        let (least, most) = (series.iter().map(count).min(), series.iter().map(count).max());
        if let (Some(least), Some(most)) = (least, most) {
            let range = if least == most { least.to_string() } else { format!("{least} to {most}") };
            text += &format!(" {range} responses each.");
        }
        text
    }
}

/// Draws a sheet.
fn figure(name: &str, title: &str, caption: String, sheet: &Sheet, csv: String) -> Result<Figure> {
    let mut sheet = sheet.clone();
    sheet.height += sheet::MARGIN;
    let in_figure = || format!("the figure {name}");
    Ok(Figure {
        name: name.to_owned(),
        title: title.to_owned(),
        caption,
        svg: render::svg(&sheet, title).with_context(in_figure)?,
        png: render::png(&sheet).with_context(in_figure)?,
        csv,
    })
}

#[cfg(test)]
mod tests;
