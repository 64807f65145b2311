//! Tokens -> statements. From loose to tight: `||`, `&&`, comparisons (which don't chain), `+ -`, `* /`, unary
//! `- !`, and `^` (also `**`), which binds to the right and tighter than a minus before it.

use super::lex::{Placed, Token};
use super::{MAX_DEPTH, MAX_OPERATORS, Span};

/// `name = expr`.
#[derive(Clone, PartialEq, Debug)]
pub struct Statement {
    pub name: String,
    pub name_span: Span,
    pub expr: Expr,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Expr {
    pub kind: ExprKind,
    pub span: Span,
}

#[derive(Clone, PartialEq, Debug)]
pub enum ExprKind {
    Number(f64),
    Name(String),
    Negate(Box<Expr>),
    Not(Box<Expr>),
    Infix(Infix, Box<Expr>, Box<Expr>),
    Call {
        function: String,
        function_span: Span,
        args: Vec<Expr>,
        /// `name=value` arguments.
        options: Vec<(String, Span, Expr)>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Infix {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
}

type Failure = (Span, String);

/// All statements of one text.
pub(super) fn statements(tokens: &[Placed]) -> Result<Vec<Statement>, Failure> {
    let mut parser = Parser { tokens, at: 0, depth: 0, operators: 0 };
    let mut found = Vec::new();
    loop {
        while parser.at < tokens.len() && *parser.peek() == Token::End {
            parser.at += 1;
        }
        if parser.at == tokens.len() {
            return Ok(found);
        }
        found.push(parser.statement()?);
    }
}

struct Parser<'a> {
    tokens: &'a [Placed],
    at: usize,
    depth: usize,
    /// Of this statement: a chain of them nests to the left as deep as it is long.
    operators: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn span(&self) -> Span {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(s) if *s == sign);
        self.at += usize::from(found);
        found
    }

    fn require(&mut self, sign: &str, after: &str) -> Result<(), Failure> {
        if self.accept(sign) {
            return Ok(());
        }
        Err((self.span(), format!("expected '{sign}' {after}, found {}", self.found())))
    }

    fn found(&self) -> String {
        match self.peek() {
            Token::Name(name) => format!("'{name}'"),
            Token::Number(value) => format!("{value}"),
            Token::Sign(sign) => format!("'{sign}'"),
            Token::End => "the end of the statement".to_owned(),
        }
    }

    fn statement(&mut self) -> Result<Statement, Failure> {
        let name_span = self.span();
        self.operators = 0;
        let Token::Name(name) = self.peek().clone() else {
            return Err((name_span, format!("expected 'name = expression', found {}", self.found())));
        };
        self.at += 1;
        self.require("=", &format!("after '{name}' (a statement is 'name = expression')"))?;
        let expr = self.expr()?;
        match self.peek() {
            Token::End => Ok(Statement { name, name_span, expr }),
            _ => Err((self.span(), format!("expected an operator or ';', found {}", self.found()))),
        }
    }

    fn expr(&mut self) -> Result<Expr, Failure> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((self.span(), format!("nested deeper than {MAX_DEPTH}")));
        }
        let expr = self.level(0);
        self.depth -= 1;
        expr
    }

    /// Left-associative operators of one level, and everything that binds tighter.
    fn level(&mut self, level: usize) -> Result<Expr, Failure> {
        let Some(signs) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.level(level + 1)?;
        let mut compared = false;
        while let Some(infix) = self.infix(signs) {
            if level == COMPARISONS && compared {
                let span = self.tokens[self.at - 1].1;
                return Err((span, "comparisons don't chain: write 'a < b && b < c'".to_owned()));
            }
            compared = true;
            self.operators += 1;
            if self.operators > MAX_OPERATORS {
                let span = self.tokens[self.at - 1].1;
                return Err((span, format!("more than {MAX_OPERATORS} operators: split the statement")));
            }
            let right = self.level(level + 1)?;
            left = join(infix, left, right);
        }
        Ok(left)
    }

    fn infix(&mut self, signs: &[(&str, Infix)]) -> Option<Infix> {
        let Token::Sign(sign) = self.peek() else { return None };
        let infix = signs.iter().find(|(s, _)| s == sign)?.1;
        self.at += 1;
        Some(infix)
    }

    fn unary(&mut self) -> Result<Expr, Failure> {
        let start = self.span();
        // A row of signs is read in a loop: recursion would let a long row exhaust the stack.
        let mut signs = Vec::new();
        loop {
            if self.accept("-") {
                signs.push('-');
            } else if self.accept("!") {
                signs.push('!');
            } else if !self.accept("+") {
                break;
            }
            if signs.len() > MAX_DEPTH {
                return Err((start, format!("more than {MAX_DEPTH} signs in a row")));
            }
        }
        let mut expr = self.power()?;
        for sign in signs.into_iter().rev() {
            let span = Span { end: expr.span.end, ..start };
            let inner = Box::new(expr);
            let kind = if sign == '-' { ExprKind::Negate(inner) } else { ExprKind::Not(inner) };
            expr = Expr { kind, span };
        }
        Ok(expr)
    }

    fn power(&mut self) -> Result<Expr, Failure> {
        let base = self.primary()?;
        if !self.accept("^") && !self.accept("**") {
            return Ok(base);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((self.span(), format!("nested deeper than {MAX_DEPTH}")));
        }
        let exponent = self.unary()?;
        self.depth -= 1;
        Ok(join(Infix::Power, base, exponent))
    }

    fn primary(&mut self) -> Result<Expr, Failure> {
        let span = self.span();
        match self.peek().clone() {
            Token::Number(value) => {
                self.at += 1;
                Ok(Expr { kind: ExprKind::Number(value), span })
            }
            Token::Name(name) => {
                self.at += 1;
                if self.accept("(") {
                    self.call(name, span)
                } else {
                    Ok(Expr { kind: ExprKind::Name(name), span })
                }
            }
            Token::Sign("(") => {
                self.at += 1;
                let mut inner = self.expr()?;
                self.require(")", "to close the bracket")?;
                inner.span = Span { end: self.tokens[self.at - 1].1.end, ..span };
                Ok(inner)
            }
            _ => Err((span, format!("expected a value, found {}", self.found()))),
        }
    }

    /// The arguments of a function, its name and `(` being read.
    fn call(&mut self, function: String, function_span: Span) -> Result<Expr, Failure> {
        let (mut args, mut options) = (Vec::new(), Vec::new());
        while !self.accept(")") {
            if !(args.is_empty() && options.is_empty()) {
                self.require(",", &format!("or ')' among the arguments of {function}"))?;
            }
            let next = self.tokens.get(self.at + 1).map(|t| &t.0);
            match (self.peek().clone(), next) {
                (Token::Name(name), Some(Token::Sign("="))) => {
                    let span = self.span();
                    self.at += 2;
                    options.push((name, span, self.expr()?));
                }
                _ => args.push(self.expr()?),
            }
        }
        let span = Span { end: self.tokens[self.at - 1].1.end, ..function_span };
        Ok(Expr { kind: ExprKind::Call { function, function_span, args, options }, span })
    }
}

const COMPARISONS: usize = 2;
const LEVELS: [&[(&str, Infix)]; 5] = [
    &[("||", Infix::Or)],
    &[("&&", Infix::And)],
    &[
        ("==", Infix::Equal),
        ("!=", Infix::NotEqual),
        ("<", Infix::Less),
        ("<=", Infix::LessEqual),
        (">", Infix::Greater),
        (">=", Infix::GreaterEqual),
    ],
    &[("+", Infix::Add), ("-", Infix::Subtract)],
    &[("*", Infix::Multiply), ("/", Infix::Divide)],
];

fn join(infix: Infix, left: Expr, right: Expr) -> Expr {
    let span = Span { end: right.span.end, ..left.span };
    Expr { kind: ExprKind::Infix(infix, Box::new(left), Box::new(right)), span }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::expression::Script;

    /// An expression with all its brackets.
    fn shown(expr: &Expr) -> String {
        match &expr.kind {
            ExprKind::Number(value) => value.to_string(),
            ExprKind::Name(name) => name.clone(),
            ExprKind::Negate(e) => format!("(-{})", shown(e)),
            ExprKind::Not(e) => format!("(!{})", shown(e)),
            ExprKind::Infix(infix, l, r) => format!("({} {infix:?} {})", shown(l), shown(r)),
            ExprKind::Call { function, args, options, .. } => {
                let mut all: Vec<String> = args.iter().map(shown).collect();
                all.extend(options.iter().map(|(name, _, e)| format!("{name}={}", shown(e))));
                format!("{function}({})", all.join(", "))
            }
        }
    }

    fn parsed(text: &str) -> String {
        let script = Script::parse(&[text.to_owned()]).unwrap();
        let all = script.statements.iter().map(|s| format!("{} = {}", s.name, shown(&s.expr)));
        all.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn operators_bind_as_in_mathematics() {
        for (text, expected) in [
            ("a = b + c * d", "a = (b Add (c Multiply d))"),
            ("a = (b + c) * d", "a = ((b Add c) Multiply d)"),
            ("a = b - c - d", "a = ((b Subtract c) Subtract d)"),
            ("a = b ^ c ^ d", "a = (b Power (c Power d))"),
            ("a = b ** -2", "a = (b Power (-2))"),
            ("a = -b ^ 2", "a = (-(b Power 2))"),
            ("a = -b * c", "a = ((-b) Multiply c)"),
            ("a = !b && c || d", "a = (((!b) And c) Or d)"),
            ("a = b + 1 < c && d >= 2", "a = (((b Add 1) Less c) And (d GreaterEqual 2))"),
            ("a = 1.5e-3 + .5 + 2.", "a = ((0.0015 Add 0.5) Add 2)"),
            ("a = var(x, time, height, ddof=1)", "a = var(x, time, height, ddof=1)"),
            ("a = f()", "a = f()"),
            ("a = b; c = d", "a = b; c = d"),
            ("\n a = b\n\nc = f(d,\n e) # why\n", "a = b; c = f(d, e)"),
            ("", ""),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_statement_is_pointed_at() {
        for (text, column, part) in [
            ("speed", 6, "expected '=' after 'speed'"),
            ("speed =", 8, "expected a value, found the end"),
            ("speed = ;", 9, "expected a value"),
            ("speed = (u + v", 15, "expected ')'"),
            ("speed = u v", 11, "expected an operator or ';', found 'v'"),
            ("speed = u + * v", 13, "expected a value, found '*'"),
            ("speed = f(u v)", 13, "expected ','"),
            ("speed = f(u", 12, "expected ','"),
            ("speed = 1 < u < 2", 15, "don't chain"),
            ("speed = u & v", 11, "'and' is &&"),
            ("speed = 1e999", 9, "no number"),
            ("speed = .", 9, "no number"),
            ("3 = u", 1, "expected 'name = expression'"),
            ("a = b; é = ü $", 14, "'$' means nothing"),
            ("a = b\n\tc = )", 6, "expected a value"),
        ] {
            let error = Script::parse(&[text.to_owned()]).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error}");
            assert_eq!(error.column, column, "{text}: {error}");
        }
        let error = Script::parse(&["a = (u + v".into()]).unwrap_err().to_string();
        assert!(error.ends_with("\n  a = (u + v\n            ^"), "{error}");
    }

    #[test]
    fn absurd_nesting_is_an_error_and_no_stack_overflow() {
        for text in [
            format!("a = {}", "(".repeat(50_000)),
            format!("a = {}b", "-".repeat(50_000)),
            format!("a = {}", "b^".repeat(20_000)),
            format!("a = {}", "f(".repeat(20_000)),
        ] {
            Script::parse(&[text]).unwrap_err();
        }
        let chain = |n| format!("a = b{}", " + b".repeat(n));
        assert_eq!(Script::parse(&[chain(MAX_OPERATORS)]).unwrap().statements.len(), 1);
        Script::parse(&[chain(MAX_OPERATORS + 1)]).unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[a-c0-9 .,;=()+*/^!<>&|#\n-]{0,60}|.{0,20}") {
            let _ = Script::parse(&[text]).map_err(|e| e.to_string());
        }
    }
}
