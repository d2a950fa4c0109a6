//! The grammar: sums, products, signs, powers, factorials, in Python's order of precedence.

use super::lexer::{Lexeme, Token, tokens};
use super::{Expr, MAX_DEPTH, Op, Stop};
use num_bigint::BigInt;

/// Largest power of ten a literal may carry.
const MAX_POWER: i32 = 400;

/// Reads a text in which `**` is the power sign.
pub fn parse(text: &str) -> Result<Expr, Stop> {
    let lexemes = tokens(text)?;
    let indexes = text.contains("][") || text.contains(")[");
    let mut parser = Parser { lexemes: &lexemes, at: 0, depth: 0, calls: 0, indexes };
    let expr = parser.sum()?;
    match parser.peek() {
        None => Ok(expr),
        Some(_) => Err(parser.stop_behind_operand()),
    }
}

struct Parser<'a> {
    lexemes: &'a [Lexeme<'a>],
    at: usize,
    depth: usize,
    /// How many enclosing brackets belong to a function.
    calls: usize,
    /// Whether a list or tuple might be indexed somewhere, and so become a number again.
    indexes: bool,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.lexemes.get(self.at).map(|lexeme| lexeme.token)
    }

    fn take(&mut self, op: &'static str) -> bool {
        let found = self.peek() == Some(Token::Op(op));
        self.at += usize::from(found);
        found
    }

    fn enter(&mut self) -> Result<(), Stop> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(Stop::Beyond) } else { Ok(()) }
    }

    fn sum(&mut self) -> Result<Expr, Stop> {
        self.enter()?;
        let mut terms = vec![self.product()?];
        loop {
            if self.take("+") {
                terms.push(self.product()?);
            } else if self.take("-") {
                terms.push(Expr::Negative(Box::new(self.product()?)));
            } else {
                break;
            }
        }
        self.depth -= 1;
        Ok(single(terms, Expr::Sum))
    }

    fn product(&mut self) -> Result<Expr, Stop> {
        let mut factors = vec![(Op::Times, self.signed()?)];
        loop {
            let op = match self.lexemes.get(self.at) {
                Some(Lexeme { token: Token::Op("*"), .. }) => Op::Times,
                Some(Lexeme { token: Token::Op("/"), .. }) => Op::Over,
                Some(lexeme) if starts_operand(lexeme.token) => {
                    if lexeme.after_newline {
                        return Err(Stop::Refused);
                    }
                    factors.push((Op::Times, self.power()?));
                    continue;
                }
                _ => break,
            };
            self.at += 1;
            factors.push((op, self.signed()?));
        }
        Ok(match factors.len() {
            1 => factors.remove(0).1,
            _ => Expr::Product(factors),
        })
    }

    fn signed(&mut self) -> Result<Expr, Stop> {
        self.enter()?;
        let signed = if self.take("-") {
            Expr::Negative(Box::new(self.signed()?))
        } else if self.take("+") {
            self.signed()?
        } else {
            self.power()?
        };
        self.depth -= 1;
        Ok(signed)
    }

    fn power(&mut self) -> Result<Expr, Stop> {
        let base = self.factorial()?;
        if !self.take("**") {
            return Ok(base);
        }
        Ok(Expr::Power(Box::new(base), Box::new(self.signed()?)))
    }

    fn factorial(&mut self) -> Result<Expr, Stop> {
        let splits_name = self.lexemes.get(self.at + 1).is_some_and(|next| next.inside_name);
        let part_of_name = splits_name || self.lexemes.get(self.at).is_some_and(|lexeme| lexeme.inside_name);
        let operand = self.operand()?;
        let mut marks = 0;
        while self.take("!") {
            marks += 1;
        }
        match marks {
            0 => Ok(operand),
            1 if !part_of_name => Ok(Expr::Factorial(Box::new(operand))),
            1 | 2 => Err(Stop::Beyond),
            _ => Err(Stop::Refused),
        }
    }

    fn operand(&mut self) -> Result<Expr, Stop> {
        let token = self.peek().ok_or(Stop::Refused)?;
        self.at += 1;
        match token {
            Token::Integer(literal) => integer(literal),
            Token::Decimal(literal) => decimal(literal),
            Token::Pi => Ok(Expr::Pi),
            Token::Symbol(name) => Ok(Expr::Symbol(name.to_string())),
            Token::Op("(") => self.closed(),
            Token::Sqrt if self.take("(") => {
                self.calls += 1;
                let argument = self.closed()?;
                self.calls -= 1;
                Ok(Expr::Root(Box::new(argument)))
            }
            Token::Sqrt => Err(Stop::Beyond),
            Token::Op("~") => Err(Stop::Beyond),
            Token::Op("!") if self.at >= 2 && self.lexemes[self.at - 2].token != Token::Op("(") => {
                Err(Stop::Beyond)
            }
            Token::Op("[") if self.indexes => Err(Stop::Beyond),
            Token::Op("," | ")" | "*" | "**" | "[") if self.calls > 0 => Err(Stop::Beyond),
            Token::Op(_) => Err(Stop::Refused),
        }
    }

    /// The rest of a bracket, its opening already read.
    fn closed(&mut self) -> Result<Expr, Stop> {
        let inside = self.sum()?;
        if self.take(")") { Ok(inside) } else { Err(self.stop_behind_operand()) }
    }

    /// What becomes of a text in which this token follows a complete operand. A tuple or a list can
    /// only end in an error, unless it is an argument of a function or is indexed.
    fn stop_behind_operand(&self) -> Stop {
        match self.peek() {
            Some(Token::Op("//" | "<<" | ">>" | "&" | "|")) => Stop::Beyond,
            Some(Token::Op(",")) if self.indexes => Stop::Beyond,
            Some(Token::Op("," | "<" | ">" | "<=" | ">=")) if self.calls > 0 => Stop::Beyond,
            _ => Stop::Refused,
        }
    }
}

fn starts_operand(token: Token<'_>) -> bool {
    !matches!(token, Token::Op(op) if op != "(")
}

fn single(mut terms: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    if terms.len() == 1 { terms.remove(0) } else { many(terms) }
}

fn integer(literal: &str) -> Result<Expr, Stop> {
    literal.parse().map(Expr::Integer).map_err(|_| Stop::Beyond)
}

fn decimal(literal: &str) -> Result<Expr, Stop> {
    let (mantissa, exponent) = literal.split_once('e').unwrap_or((literal, "0"));
    let exponent: i32 = exponent.parse().map_err(|_| Stop::Beyond)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let power = exponent.checked_sub(fraction.len() as i32).ok_or(Stop::Beyond)?;
    if power.abs() > MAX_POWER {
        return Err(Stop::Beyond);
    }
    let precision_digits = digits.trim_start_matches('0').len();
    let digits: BigInt = digits.parse().map_err(|_| Stop::Beyond)?;
    Ok(Expr::Decimal { digits, precision_digits, power })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> String {
        match parse(text) {
            Ok(expr) => show(&expr),
            Err(stop) => format!("{stop:?}"),
        }
    }

    fn show(expr: &Expr) -> String {
        match expr {
            Expr::Integer(n) => n.to_string(),
            Expr::Decimal { digits, power, .. } => format!("{digits}e{power}"),
            Expr::Pi => "pi".into(),
            Expr::Symbol(name) => name.clone(),
            Expr::Sum(terms) => format!("({})", terms.iter().map(show).collect::<Vec<_>>().join("+")),
            Expr::Product(factors) => {
                let sign = |op: &Op| if *op == Op::Times { "*" } else { "/" };
                format!(
                    "({})",
                    factors.iter().map(|(op, e)| sign(op).to_string() + &show(e)).collect::<String>()
                )
            }
            Expr::Negative(inner) => format!("-{}", show(inner)),
            Expr::Power(base, exponent) => format!("{}^{}", show(base), show(exponent)),
            Expr::Root(inner) => format!("root{}", show(inner)),
            Expr::Factorial(inner) => format!("{}!", show(inner)),
        }
    }

    #[test]
    fn neighbours_multiply_like_a_product_sign() {
        for (text, expected) in [
            ("3/4pi", "(*3/4*pi)"),
            ("2**3x", "(*2^3*x)"),
            ("ab2(c)", "(*a*b*2*c)"),
            ("-x**-2y", "(*-x^-2*y)"),
            ("02.5x", "(*25e-1*x)"),
            ("02x", "(*0*2*x)"),
            ("1.2.3", "(*12e-1*3e-1)"),
            ("2e5-2e", "(2e5+-(*2*e))"),
            ("(1)(2)sqrt(3)4", "(*1*2*root3*4)"),
            ("3!4", "(*3!*4)"),
            ("(1\n+2)", "(1+2)"),
            ("mu", "mu"),
            ("x_1y", "x_1y"),
        ] {
            assert_eq!(shape(text), expected, "{text:?}");
        }
    }

    #[test]
    fn refusals_and_limits_are_told_apart() {
        for text in [
            "x=1",
            "",
            "()",
            "(1",
            "1)",
            "1+",
            "√2",
            "5°",
            "(1,2)",
            "a:b",
            "1<2",
            "[1,2]",
            "(6\n6)",
            "x²",
            "5²",
            "x.y",
            "3!!!",
            "*2",
            "a~2",
            "5'",
            "\\sqrt",
            "40m..",
            "d.",
            "5\u{a0}2",
            "(a)[4,5]",
            "[sqrt(2),1)",
        ] {
            assert_eq!(parse(text), Err(Stop::Refused), "{text:?}");
        }
        for text in [
            "ln(2)",
            "3j",
            "1==1",
            "0x1f",
            "7//2",
            "~x",
            "sqrt(1,2)",
            "sqrt",
            "ab!",
            "3!!",
            "0.2[1]",
            "(1)or(2)",
            "x.n",
            "[5][0]",
            "(1,2)[0]",
            "sqrt([4])",
        ] {
            assert_eq!(shape(text), "Beyond", "{text:?}");
        }
        assert_eq!(parse(&"(".repeat(5000)), Err(Stop::Beyond));
        assert_eq!(parse(&"-".repeat(4000)), Err(Stop::Beyond));
    }
}
