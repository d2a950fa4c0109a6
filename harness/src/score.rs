//! Scores given responses.
