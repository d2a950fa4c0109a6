//! Multimodal rotary positions of the language model (transformers' `get_rope_index`, pictures only).
//!
//! A text token advances time, height and width together. The tokens of a picture share one time; their height and
//! width count rows and columns of visual tokens. The text after a picture goes on after the largest position used.

use super::config::VlConfig;
use super::kernels::Rotary;
use anyhow::{Result, ensure};

/// Positions (time, height, width) of a prompt's tokens, and the position of the token that follows.
///
/// `grids` are the pictures' patch grids; `merge` is the side of a visual token in patches.
pub(crate) fn prompt_positions(
    ids: &[u32],
    image_token: u32,
    grids: &[[usize; 3]],
    merge: usize,
) -> Result<(Vec<[u32; 3]>, u32)> {
    let (mut positions, mut next, mut picture) = (Vec::with_capacity(ids.len()), 0u32, 0);
    while positions.len() < ids.len() {
        if ids[positions.len()] != image_token {
            positions.push([next; 3]);
            next += 1;
            continue;
        }
        ensure!(
            picture < grids.len(),
            "the prompt has more picture places than the {} pictures given",
            grids.len()
        );
        let [t, h, w] = grids[picture];
        let (rows, columns) = ((h / merge) as u32, (w / merge) as u32);
        for _ in 0..t {
            for row in 0..rows {
                for column in 0..columns {
                    ensure!(
                        ids.get(positions.len()) == Some(&image_token),
                        "picture {picture} needs {} picture tokens in the prompt",
                        t * h * w / merge / merge
                    );
                    positions.push([next, next + row, next + column]);
                }
            }
        }
        next += rows.max(columns).max(1);
        picture += 1;
    }
    ensure!(
        picture == grids.len(),
        "the prompt has places for {picture} pictures, {} are given",
        grids.len()
    );
    Ok((positions, next))
}

/// Rotary angles of tokens at these positions.
pub(crate) fn text_rotary(positions: &[[u32; 3]], config: &VlConfig) -> Result<Rotary> {
    let half = config.head_size() / 2;
    let section = config.mrope_section()?;
    let theta = config.rope_theta();
    let frequencies: Vec<(usize, f64)> = (0..half)
        .map(|i| {
            let axis = if i < section[0] {
                0
            } else if i < section[0] + section[1] {
                1
            } else {
                2
            };
            (axis, libm::pow(theta, -((2 * i) as f64) / (2 * half) as f64))
        })
        .collect();
    let angles: Vec<f64> =
        positions.iter().flat_map(|p| frequencies.iter().map(|&(axis, f)| f64::from(p[axis]) * f)).collect();
    Ok(Rotary::new(&angles, half))
}

/// The rows of `table` at these indices.
pub(crate) fn rotary_at(table: &Rotary, rows: &[u32]) -> Rotary {
    let half = table.half;
    let pick =
        |from: &[f32]| rows.iter().flat_map(|&row| &from[row as usize * half..][..half]).copied().collect();
    Rotary { cos: pick(&table.cos), sin: pick(&table.sin), half }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_on_after_the_larger_side_of_a_picture() {
        let ids = [1, 9, 9, 9, 9, 9, 9, 2, 3];
        let (positions, next) = prompt_positions(&ids, 9, &[[1, 4, 6]], 2).unwrap();
        let want = [
            [0, 0, 0],
            [1, 1, 1],
            [1, 1, 2],
            [1, 1, 3],
            [1, 2, 1],
            [1, 2, 2],
            [1, 2, 3],
            [4, 4, 4],
            [5, 5, 5],
        ];
        assert_eq!(positions, want);
        assert_eq!(next, 6);
        assert!(prompt_positions(&ids, 9, &[], 2).is_err());
        assert!(prompt_positions(&ids, 9, &[[1, 4, 8]], 2).is_err());
    }
}
