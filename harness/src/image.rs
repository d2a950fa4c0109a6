//! stub until merge
/// Patches
#[derive(Clone, Debug)]
pub struct Patches {
    /// v
    pub values: Vec<f32>,
    /// g
    pub grid_thw: [usize; 3],
}
