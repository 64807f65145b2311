//! Text -> tokens with their place.

use super::Span;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token {
    Name(String),
    Number(f64),
    /// An operator or a bracket, as written.
    Sign(&'static str),
    /// `;` or a line end (outside brackets).
    End,
}

pub(super) type Placed = (Token, Span);

/// Longest first, so that `<=` isn't read as `<`.
const SIGNS: [&str; 19] =
    ["**", "==", "!=", "<=", ">=", "&&", "||", "+", "-", "*", "/", "^", "<", ">", "!", "(", ")", ",", "="];

/// All tokens of one text; the last is always an `End`.
pub(super) fn tokens(number: usize, text: &str) -> Result<Vec<Placed>, (Span, String)> {
    let mut tokens = Vec::new();
    let (mut at, mut open) = (0, 0usize);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, len) = if c == ';' || (c == '\n' && open == 0) {
            (Some(Token::End), 1)
        } else if c.is_whitespace() {
            (None, c.len_utf8())
        } else if c == '#' {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else if c.is_alphabetic() || c == '_' {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Some(Token::Name(rest[..len].to_owned())), len)
        } else if c.is_ascii_digit() || c == '.' {
            let len = number_len(rest);
            let span = Span { text: number, start: at, end: at + len.max(1) };
            let value = rest[..len].parse::<f64>().ok().filter(|v| v.is_finite());
            let value = value.ok_or_else(|| (span, format!("'{}' is no number", &rest[..len.max(1)])))?;
            (Some(Token::Number(value)), len)
        } else if let Some(sign) = SIGNS.iter().find(|s| rest.starts_with(**s)) {
            match *sign {
                "(" => open += 1,
                ")" => open = open.saturating_sub(1),
                _ => {}
            }
            (Some(Token::Sign(sign)), sign.len())
        } else {
            let span = Span { text: number, start: at, end: at + c.len_utf8() };
            return Err((span, format!("'{c}' means nothing here{}", hint(c))));
        };
        if let Some(token) = token {
            tokens.push((token, Span { text: number, start: at, end: at + len }));
        }
        at += len;
    }
    let end = text.trim_end().len();
    tokens.push((Token::End, Span { text: number, start: end, end }));
    Ok(tokens)
}

/// Bytes of the number that `text` begins with: digits, a point, an exponent.
fn number_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut len = digits(0);
    if bytes.get(len) == Some(&b'.') {
        len += 1 + digits(len + 1);
    }
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        let exponent = digits((len + 1 + sign).min(bytes.len()));
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    len
}

fn hint(c: char) -> &'static str {
    match c {
        '&' => ": 'and' is &&",
        '|' => ": 'or' is ||",
        '[' | ']' | '{' | '}' => ": brackets are ( )",
        '%' => ": there is no remainder operator",
        ':' => ": there are no ranges, since parts of arrays can't be selected",
        _ => "",
    }
}
