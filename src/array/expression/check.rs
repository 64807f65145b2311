//! Names, dimensions and types: statements -> nodes. Equal nodes are one node, so that what two statements have in
//! common is computed once.

use super::function::{self, Function, ReduceName};
use super::parse::{Expr, ExprKind, Infix, Statement};
use super::types::{self, Numeric, Operand};
use super::{ExpressionError, Script, Span, suggestion};
use crate::array::attributes;
use crate::format::Attribute;
use crate::kernels::accumulate::Reduction;
use crate::kernels::program::Operation;
use std::collections::HashMap;

/// What expressions may name.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub dims: Vec<String>,
    pub variables: Vec<Named>,
}

/// A variable as expressions see it: decoded.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    /// Indexes into [`Names::dims`].
    pub dims: Vec<usize>,
    /// `None`: text.
    pub numeric: Option<Numeric>,
    pub attributes: Vec<Attribute>,
}

/// Index of a node; a node's operands have smaller ones.
pub type NodeId = usize;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    /// The bits of an f64.
    Constant(u64),
    /// Index into [`Names::variables`].
    Variable(usize),
    Apply(Operation, Vec<NodeId>),
    /// Over those dimensions, ascending.
    Reduce(Reducer, NodeId, Vec<usize>),
}

/// A reduction with its options.
pub type Reducer = Reduction;

/// What is known of a node before anything is computed.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeInfo {
    /// In the order of the first operand that has them.
    pub dims: Vec<usize>,
    pub numeric: Numeric,
    /// Made of numbers in the text only: takes the type of what it meets.
    pub weak: bool,
    pub may_miss: bool,
    pub attributes: Vec<Attribute>,
}

/// A statement's result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    pub name: String,
    pub node: NodeId,
    pub span: Span,
    /// Whether a later statement uses it.
    pub used: bool,
}

/// Statements whose names and types are right.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Checked {
    pub nodes: Vec<Node>,
    pub info: Vec<NodeInfo>,
    /// One for each statement, in order.
    pub outputs: Vec<Output>,
}

/// Checks all statements.
///
/// # Errors
/// The first name, argument or dimension that is wrong, with its column.
pub fn check(script: &Script, names: &Names) -> Result<Checked, ExpressionError> {
    let mut checker = Checker { script, names, checked: Checked::default(), known: HashMap::new() };
    for statement in &script.statements {
        checker.statement(statement)?;
    }
    Ok(checker.checked)
}

struct Checker<'a> {
    script: &'a Script,
    names: &'a Names,
    checked: Checked,
    known: HashMap<Node, NodeId>,
}

impl Checker<'_> {
    fn error<T>(&self, span: Span, message: impl Into<String>) -> Result<T, ExpressionError> {
        Err(self.script.error(span, message))
    }

    fn info(&self, node: NodeId) -> &NodeInfo {
        &self.checked.info[node]
    }

    fn statement(&mut self, statement: &Statement) -> Result<(), ExpressionError> {
        let Statement { name, name_span, expr } = statement;
        if self.checked.outputs.iter().any(|o| o.name == *name) {
            return self.error(*name_span, format!("'{name}' is defined twice"));
        }
        let node = self.expr(expr)?;
        let output = Output { name: name.clone(), node, span: *name_span, used: false };
        self.checked.outputs.push(output);
        Ok(())
    }

    fn expr(&mut self, expr: &Expr) -> Result<NodeId, ExpressionError> {
        match &expr.kind {
            ExprKind::Number(value) => Ok(self.constant(*value)),
            ExprKind::Name(name) => self.name(name, expr.span),
            ExprKind::Negate(inner) => self.apply_to(Operation::Negate, &[inner]),
            ExprKind::Not(inner) => self.apply_to(Operation::Not, &[inner]),
            ExprKind::Infix(infix, left, right) => {
                let operation = operation_of(*infix);
                self.apply_to(operation, &[left, right])
            }
            ExprKind::Call { function, function_span, args, options } => {
                if let Some(reducer) = function::reducer(function) {
                    return self.reduction(reducer, expr.span, args, options);
                }
                let Some((function, wanted)) = function::function(function) else {
                    let near = match function.as_str() {
                        "sel" | "isel" => ": parts of arrays can't be selected (no sel, isel)".to_owned(),
                        _ => suggestion(function, &function::names(), "functions"),
                    };
                    return self.error(*function_span, format!("no function called '{function}'{near}"));
                };
                if let Some((option, span, _)) = options.first() {
                    return self.error(*span, format!("this function has no option '{option}'"));
                }
                self.call(function, wanted, expr.span, args)
            }
        }
    }

    fn apply_to(&mut self, operation: Operation, operands: &[&Expr]) -> Result<NodeId, ExpressionError> {
        let operands = operands.iter().map(|e| self.expr(e)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.apply(operation, operands))
    }

    fn name(&mut self, name: &str, span: Span) -> Result<NodeId, ExpressionError> {
        if let Some(output) = self.checked.outputs.iter_mut().find(|o| o.name == name) {
            output.used = true;
            return Ok(output.node);
        }
        let Some(index) = self.names.variables.iter().position(|v| v.name == name) else {
            let mut all: Vec<&str> = self.checked.outputs.iter().map(|o| o.name.as_str()).collect();
            all.extend(self.names.variables.iter().map(|v| v.name.as_str()));
            let near = suggestion(name, &all, "variables");
            return self.error(span, format!("no variable called '{name}'{near}"));
        };
        let variable = &self.names.variables[index];
        let Some(numeric) = variable.numeric else {
            return self.error(span, format!("'{name}' is text: there are only numbers to compute with"));
        };
        let info = NodeInfo {
            dims: variable.dims.clone(),
            numeric,
            weak: false,
            may_miss: numeric.is_float(),
            attributes: attributes::of_source(&variable.attributes),
        };
        Ok(self.node(Node::Variable(index), info))
    }

    fn constant(&mut self, value: f64) -> NodeId {
        let numeric = types::of_number(value);
        let may_miss = value.is_nan();
        let info = NodeInfo { dims: Vec::new(), numeric, weak: true, may_miss, attributes: Vec::new() };
        self.node(Node::Constant(value.to_bits()), info)
    }

    fn node(&mut self, node: Node, info: NodeInfo) -> NodeId {
        if let Some(id) = self.known.get(&node) {
            return *id;
        }
        let id = self.checked.nodes.len();
        self.known.insert(node.clone(), id);
        self.checked.nodes.push(node);
        self.checked.info.push(info);
        id
    }

    fn call(
        &mut self,
        function: Function,
        wanted: &[&str],
        span: Span,
        args: &[Expr],
    ) -> Result<NodeId, ExpressionError> {
        if args.len() != wanted.len() {
            let (s, n) = (if wanted.len() == 1 { "" } else { "s" }, wanted.len());
            let message = format!("expected {n} argument{s} ({}), found {}", wanted.join(", "), args.len());
            return self.error(args.get(n).map_or(span, |extra| extra.span), message);
        }
        let args = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>, _>>()?;
        Ok(match (function, &args[..]) {
            (Function::Clip, [x, low, high]) => {
                let raised = self.apply(Operation::Max2, vec![*x, *low]);
                self.apply(Operation::Min2, vec![raised, *high])
            }
            (Function::Where, [condition, a, b]) => self.apply(Operation::Select, vec![*a, *b, *condition]),
            (Function::Apply(operation), _) => self.apply(operation, args),
            (Function::Clip | Function::Where, _) => {
                return self.error(span, "this function takes three arguments");
            }
        })
    }

    /// The node of an elementwise operation.
    fn apply(&mut self, operation: Operation, operands: Vec<NodeId>) -> NodeId {
        if let Some(value) = self.folded(operation, &operands) {
            return self.constant(value);
        }
        let operation = match (operation, &operands[..]) {
            (Operation::Power, [_, two]) if self.checked.nodes[*two] == Node::Constant(2f64.to_bits()) => {
                Operation::Square
            }
            _ => operation,
        };
        let operands = if operation == Operation::Square { operands[..1].to_vec() } else { operands };
        let infos: Vec<&NodeInfo> = operands.iter().map(|o| self.info(*o)).collect();
        let mut dims: Vec<usize> = Vec::new();
        for dim in infos.iter().flat_map(|i| &i.dims) {
            if !dims.contains(dim) {
                dims.push(*dim);
            }
        }
        let numeric = types::of_operation(operation, &self.operand_types(&operands));
        let info = NodeInfo {
            dims,
            numeric,
            weak: infos.iter().all(|i| i.weak),
            may_miss: types::may_overflow(operation, numeric) || infos.iter().any(|i| i.may_miss),
            attributes: attributes::of_operation(operation, &infos),
        };
        self.node(Node::Apply(operation, operands), info)
    }

    fn operand_types(&self, operands: &[NodeId]) -> Vec<Operand> {
        let operand = |id: &NodeId| match self.checked.nodes[*id] {
            Node::Constant(bits) => Operand::Number(f64::from_bits(bits)),
            _ => Operand::Cells(self.info(*id).numeric, self.info(*id).weak),
        };
        operands.iter().map(operand).collect()
    }

    /// The value of arithmetic on plain numbers.
    fn folded(&self, operation: Operation, operands: &[NodeId]) -> Option<f64> {
        let value = |id: &NodeId| match self.checked.nodes[*id] {
            Node::Constant(bits) => Some(f64::from_bits(bits)),
            _ => None,
        };
        let values = operands.iter().map(value).collect::<Option<Vec<f64>>>()?;
        match (operation, &values[..]) {
            (Operation::Negate, [a]) => Some(-a),
            (Operation::Add, [a, b]) => Some(a + b),
            (Operation::Subtract, [a, b]) => Some(a - b),
            (Operation::Multiply, [a, b]) => Some(a * b),
            _ => None,
        }
    }

    /// `mean(x, time, height)`, `var(x, time, ddof=1)`; without dimensions: over all of them.
    fn reduction(
        &mut self,
        reducer: ReduceName,
        span: Span,
        args: &[Expr],
        options: &[(String, Span, Expr)],
    ) -> Result<NodeId, ExpressionError> {
        let name = reducer.name();
        let Some((over, dims)) = args.split_first() else {
            return self.error(span, format!("expected {name}(x, dimension, ..)"));
        };
        let input = self.expr(over)?;
        let input_dims = self.info(input).dims.clone();
        let mut reduced = Vec::new();
        for dim in dims {
            let index = self.dimension(dim, name, &input_dims)?;
            if reduced.contains(&index) {
                return self.error(dim.span, "the same dimension twice");
            }
            reduced.push(index);
        }
        if dims.is_empty() {
            reduced = input_dims.clone();
        }
        if reduced.is_empty() {
            return self.error(over.span, "there are no dimensions to reduce: this is a single number");
        }
        reduced.sort_unstable();
        let ddof = self.ddof(reducer, options)?;
        let reduction = match reducer {
            ReduceName::Mean => Reduction::Mean,
            ReduceName::Sum => Reduction::Sum,
            ReduceName::Min => Reduction::Min,
            ReduceName::Max => Reduction::Max,
            ReduceName::Var => Reduction::Var { ddof },
            ReduceName::Std => Reduction::Std { ddof },
            ReduceName::Count => Reduction::Count,
        };
        let info = self.info(input);
        let numeric = types::of_reduction(reducer, info.numeric);
        let names = input_dims.iter().filter(|d| reduced.contains(d)).map(|d| self.names.dims[*d].as_str());
        let made = NodeInfo {
            dims: input_dims.iter().copied().filter(|d| !reduced.contains(d)).collect(),
            numeric,
            weak: false,
            // A sum may exceed even 64 bits.
            may_miss: reducer != ReduceName::Count
                && (numeric.is_float() || info.may_miss || reducer == ReduceName::Sum),
            attributes: attributes::of_reduction(reducer, ddof, &names.collect::<Vec<_>>(), &info.attributes),
        };
        Ok(self.node(Node::Reduce(reduction, input, reduced), made))
    }

    fn dimension(&self, dim: &Expr, reducer: &str, dims: &[usize]) -> Result<usize, ExpressionError> {
        let all: Vec<&str> = dims.iter().map(|d| self.names.dims[*d].as_str()).collect();
        let ExprKind::Name(name) = &dim.kind else {
            return self.error(dim.span, format!("expected the name of a dimension ({})", all.join(", ")));
        };
        if let Some(found) = dims.iter().find(|d| self.names.dims[**d] == *name) {
            return Ok(*found);
        }
        let message = if self.names.dims.contains(name) {
            format!("the argument of {reducer} has no dimension '{name}' (it has: {})", all.join(", "))
        } else {
            let elementwise = matches!(reducer, "min" | "max")
                && self.names.variables.iter().any(|v| v.name == *name)
                || self.checked.outputs.iter().any(|o| o.name == *name);
            let near = suggestion(name, &all, "its dimensions");
            let hint = if elementwise { "; cell by cell: min2(a, b), max2(a, b)" } else { "" };
            format!("no dimension called '{name}'{near}{hint}")
        };
        self.error(dim.span, message)
    }

    fn ddof(
        &mut self,
        reducer: ReduceName,
        options: &[(String, Span, Expr)],
    ) -> Result<u32, ExpressionError> {
        let takes_ddof = matches!(reducer, ReduceName::Var | ReduceName::Std);
        let mut ddof = 0;
        for (number, (option, span, value)) in options.iter().enumerate() {
            if option != "ddof" || !takes_ddof {
                let hint = if takes_ddof { " (there is: ddof)" } else { "" };
                let name = reducer.name();
                return self.error(*span, format!("{name} has no option '{option}'{hint}"));
            }
            if number > 0 {
                return self.error(*span, "ddof is given twice");
            }
            ddof = match value.kind {
                ExprKind::Number(n) if n.fract() == 0.0 && (0.0..=1e9).contains(&n) => n as u32,
                _ => return self.error(value.span, "ddof must be a whole number such as 0 or 1"),
            };
        }
        Ok(ddof)
    }
}

fn operation_of(infix: Infix) -> Operation {
    match infix {
        Infix::Or => Operation::Or,
        Infix::And => Operation::And,
        Infix::Equal => Operation::Equal,
        Infix::NotEqual => Operation::NotEqual,
        Infix::Less => Operation::Less,
        Infix::LessEqual => Operation::LessEqual,
        Infix::Greater => Operation::Greater,
        Infix::GreaterEqual => Operation::GreaterEqual,
        Infix::Add => Operation::Add,
        Infix::Subtract => Operation::Subtract,
        Infix::Multiply => Operation::Multiply,
        Infix::Divide => Operation::Divide,
        Infix::Power => Operation::Power,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{AttrValue, DType};

    fn names() -> Names {
        let text =
            |name: &str, value: &str| Attribute { name: name.into(), value: AttrValue::Text(value.into()) };
        let named = |name: &str, dims: &[usize], numeric, attributes: &[Attribute]| Named {
            name: name.into(),
            dims: dims.to_vec(),
            numeric,
            attributes: attributes.to_vec(),
        };
        let wind = [text("units", "m s-1"), text("grid_mapping", "crs"), text("institution", "us")];
        Names {
            dims: ["time", "height", "y", "x"].map(String::from).to_vec(),
            variables: vec![
                named("u", &[0, 2, 3], Some(Numeric::F32), &wind),
                named("v", &[0, 2, 3], Some(Numeric::F32), &wind),
                named("t3", &[0, 1, 2, 3], Some(Numeric::F64), &[text("units", "K")]),
                named("orog", &[2, 3], Some(Numeric::Int(DType::I16)), &[text("units", "m")]),
                named("station", &[3], None, &[]),
            ],
        }
    }

    fn checked(text: &str) -> Result<Checked, ExpressionError> {
        check(&Script::parse(&[text.to_owned()])?, &names())
    }

    /// Dimensions and type of the last statement.
    fn typed(text: &str) -> (String, Numeric) {
        let checked = checked(text).unwrap();
        let info = &checked.info[checked.outputs.last().unwrap().node];
        let dims: Vec<&str> = info.dims.iter().map(|d| ["time", "height", "y", "x"][*d]).collect();
        (dims.join(" "), info.numeric)
    }

    #[test]
    fn dimensions_and_types_follow_from_the_operands() {
        for (text, dims, numeric) in [
            ("a = wind_speed(u, v)", "time y x", Numeric::F32),
            ("a = u * 2.5 + 1", "time y x", Numeric::F32),
            ("a = u * t3", "time y x height", Numeric::F64),
            ("a = orog + u", "y x time", Numeric::F32),
            ("a = orog * 2", "y x", Numeric::Int(DType::I16)),
            ("a = orog * 100000", "y x", Numeric::Int(DType::I32)),
            ("a = 3000000000 + orog", "y x", Numeric::Int(DType::I64)),
            ("a = where(u > 3, orog, -40000)", "y x time", Numeric::Int(DType::I32)),
            ("a = orog > 40000", "y x", Numeric::Bool),
            ("a = orog * 2.5", "y x", Numeric::F64),
            ("a = orog / 2", "y x", Numeric::F64),
            ("a = sqrt(orog)", "y x", Numeric::F32),
            ("a = u > 3 && v < 2", "time y x", Numeric::Bool),
            ("a = where(u > 3, u, 0)", "time y x", Numeric::F32),
            ("a = sum(u > 3, time)", "y x", Numeric::Int(DType::I64)),
            ("a = mean(u, time)", "y x", Numeric::F32),
            ("a = mean(orog)", "", Numeric::F64),
            ("a = sum(orog, y)", "x", Numeric::Int(DType::I64)),
            ("a = max(orog, y)", "x", Numeric::Int(DType::I16)),
            ("a = count(u, time, x)", "y", Numeric::Int(DType::I64)),
            ("a = var(t3, time, height, ddof=1)", "y x", Numeric::F64),
            ("a = u - mean(u, time)", "time y x", Numeric::F32),
            ("a = clip(u, -5, 5.5)", "time y x", Numeric::F32),
        ] {
            assert_eq!(typed(text), (dims.to_owned(), numeric), "{text}");
        }
    }

    #[test]
    fn equal_parts_are_one_node_and_used_statements_are_known() {
        let checked =
            checked("s = wind_speed(u, v); a = var(s, time); b = sqrt(var(wind_speed(u, v), time))").unwrap();
        let reductions = checked.nodes.iter().filter(|n| matches!(n, Node::Reduce(..))).count();
        assert_eq!((checked.nodes.len(), reductions), (5, 1));
        assert_eq!(checked.outputs.iter().map(|o| o.used).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn integers_that_may_exceed_their_type_may_be_missing() {
        for (text, may_miss) in [
            ("a = orog + 1", true),
            ("a = -orog", true),
            ("a = sum(orog, y)", true),
            ("a = max(orog, y)", false),
            ("a = orog > 1", false),
            ("a = count(u, time)", false),
            ("a = min2(orog, 3)", false),
        ] {
            let checked = checked(text).unwrap();
            assert_eq!(checked.info[checked.outputs[0].node].may_miss, may_miss, "{text}");
        }
    }

    #[test]
    fn mistakes_are_pointed_at_with_what_may_have_been_meant() {
        for (text, column, part) in [
            ("a = wind_spede(u, v)", 5, "no function called 'wind_spede': did you mean 'wind_speed'?"),
            ("a = uu", 5, "no variable called 'uu': did you mean 'u'?"),
            ("a = pressure", 5, "(variables: u, v, t3, orog, station)"),
            ("a = station", 5, "is text"),
            ("a = wind_speed(u)", 5, "expected 2 arguments (u, v), found 1"),
            ("a = sqrt(u, v)", 13, "expected 1 argument (x), found 2"),
            ("a = mean(u, tmie)", 13, "no dimension called 'tmie': did you mean 'time'?"),
            ("a = mean(u, height)", 13, "has no dimension 'height' (it has: time, y, x)"),
            ("a = mean(u, 3)", 13, "expected the name of a dimension"),
            ("a = mean(u, time, time)", 19, "twice"),
            ("a = min(u, v)", 12, "min2(a, b)"),
            ("a = mean()", 5, "expected mean(x"),
            ("a = mean(3)", 10, "no dimensions to reduce"),
            ("a = mean(u, time, ddof=1)", 19, "mean has no option 'ddof'"),
            ("a = var(u, time, dof=1)", 18, "no option 'dof' (there is: ddof)"),
            ("a = var(u, time, ddof=-1)", 23, "whole number"),
            ("a = u; a = v", 8, "defined twice"),
            ("a = b; b = u", 5, "no variable called 'b'"),
            ("a = median(u, time)", 5, "no function called 'median'"),
            ("a = sel(u, y=50:60)", 16, "no ranges, since parts of arrays can't be selected"),
            ("a = isel(u, time=3)", 5, "parts of arrays can't be selected (no sel, isel)"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error}");
            assert_eq!(error.column, column, "{text}: {error}");
        }
    }

    #[test]
    fn attributes_go_along_where_they_stay_true() {
        let shown = |text: &str| {
            let checked = checked(text).unwrap();
            let info = &checked.info[checked.outputs.last().unwrap().node];
            let pair = |a: &Attribute| format!("{}={}", a.name, a.value.text().unwrap_or("?"));
            info.attributes.iter().map(pair).collect::<Vec<_>>().join(", ")
        };
        let kept = "units=m s-1, grid_mapping=crs, institution=us";
        assert_eq!(shown("a = -u"), kept);
        assert_eq!(shown("a = u + v"), kept);
        assert_eq!(shown("a = u * 2"), kept);
        assert_eq!(shown("a = u * v"), "grid_mapping=crs");
        assert_eq!(shown("a = u - mean(u, time)"), "units=m s-1, grid_mapping=crs, institution=us");
        assert_eq!(shown("a = mean(u, time)"), format!("{kept}, cell_methods=time: mean"));
        let var = shown("a = var(wind_speed(u, v), time, ddof=1)");
        assert!(var.contains("standard_name=wind_speed") && var.contains("units=m2 s-2"), "{var}");
        assert!(var.ends_with("cell_methods=time: variance (ddof 1)"), "{var}");
        let direction = shown("a = wind_direction(u, v)");
        assert!(direction.contains("standard_name=wind_from_direction"), "{direction}");
        assert!(direction.contains("units=degrees"), "{direction}");
    }
}
