//! Whole figures from made-up data.

use super::*;

/// Responses with these dependencies; every token is the word `x y`.
pub(super) fn tokens(responses: &[(&str, &[f64])]) -> TokenData {
    let response = |(item, values): &(&str, &[f64])| Response {
        item: item.to_string(),
        tokens: values.iter().map(|value| (TokenKind::Word, *value)).collect(),
    };
    TokenData { step: 7, seeds: 1, responses: responses.iter().map(response).collect() }
}
