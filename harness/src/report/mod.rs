//! Result tables: from the item scores of several arms to Markdown, CSV, JSON, LaTeX and plain text.
//!
//! What it is for: one table of avg@k per benchmark and arm with 95 % intervals, the paired difference of every
//! arm to a baseline, what the training seeds do to both, the published numbers beside ours, and what became of
//! the samples. The same scores
//! in any order give the same bytes; nothing of the time or the machine enters.
//!
//! The parts: [`Arm`] is one row to be (measured, running or not run: the latter two never look like a number);
//! [`TableSpec`] says how to compare and what the footer states; [`Table`] is every number, rounded to a
//! millionth of a percent; `sections` lays it out as text cells, which the renderers draw. `items` writes and
//! reads `*.items.csv`, from which the table can be computed again; [`PaperTables`] holds the paper's numbers, and each
//! [`Check`] one of them beside ours; [`figures()`] draws training curves and the dependency of tokens, and
//! [`Table::page`] puts everything into one HTML file.
//!
//! What it does not know: where files lie and how they are written (it returns names and contents), how a
//! completion was graded, what an algorithm is.
//!
//! Source: the layout follows the paper's Tables 1 and 2; the statistics are those of [`crate::stats`].

mod build;
mod draw;
mod figures;
mod items;
mod long;
mod page;
mod paper;
mod sections;
mod summary;
mod table;
mod verification;

pub use crate::stats::ItemScore;
pub use figures::{ArmData, BaseData, Figure, FigureData, Response, TokenData, TokenKind, figures};
pub use items::{items_by_arm, items_csv, parse_items};
pub use page::{ArmPage, Mark, Page, RunPage, SettingChange, Spotlight, SpotlightArm};
pub use paper::{PaperRow, PaperTables};
pub use summary::summary;
pub use table::{
    Arm, ArmState, Cell, Change, ChangeRow, Counts, Footing, Interval, Part, Published, RunScore, Score,
    ScoreRow, SeedScore, Table, TableSpec,
};
pub use verification::{Check, Direction, Ours, Standing};

use anyhow::Result;

/// The files of a table, as (file name, content): `NAME.md`, `.csv` (scores), `.differences.csv`,
/// `.verification.csv` (published values beside ours), `.json`, `.tex`, and `.items.csv`, from which [`items_by_arm`] and [`Table::new`] compute the table again.
///
/// # Errors
/// None is expected; serialisation errors are passed on.
pub fn files(name: &str, table: &Table, arms: &[Arm]) -> Result<Vec<(String, String)>> {
    Ok(vec![
        (format!("{name}.md"), table.markdown()),
        (format!("{name}.csv"), table.scores_csv()?),
        (format!("{name}.differences.csv"), table.differences_csv()?),
        (format!("{name}.verification.csv"), table.verification_csv()?),
        (format!("{name}.json"), table.json()?),
        (format!("{name}.tex"), table.latex()),
        (format!("{name}.items.csv"), items_csv(arms)?),
    ])
}
