//! stub
/// A figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// n
    pub name: String,
    /// t
    pub title: String,
    /// c
    pub caption: String,
    /// s
    pub svg: String,
    /// p
    pub png: Vec<u8>,
    /// c
    pub csv: String,
}
