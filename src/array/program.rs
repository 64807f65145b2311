//! Nodes -> register programs. Each node is computed once; registers are used again as soon as nothing reads them.

use super::expression::{Checked, Node, NodeId, Numeric};
use crate::kernels::program::{Lane, Operation, Program, Step};
use std::collections::{BTreeSet, HashMap};

/// The lane that holds a type's cells.
pub fn lane_of(numeric: Numeric) -> Lane {
    if numeric == Numeric::F32 { Lane::F32 } else { Lane::F64 }
}

/// Compiles the nodes into one program. `leaf` says which nodes are operands: the number, and the lane in which its
/// cells are loaded. A result is in the lane that is asked for, or in the one that it came in.
///
/// With `wide`, what is computed is computed in f64 whatever its type: for values that are only accumulated, and
/// need not be rounded to f32 on the way.
pub fn compile(
    checked: &Checked,
    results: &[(NodeId, Option<Lane>)],
    wide: bool,
    leaf: &dyn Fn(NodeId) -> Option<(u16, Lane)>,
) -> Program {
    let (of_node, converted) = (HashMap::new(), HashMap::new());
    let mut compiler = Compiler { checked, wide, values: Vec::new(), of_node, converted };
    for node in needed(checked, results.iter().map(|(node, _)| *node), leaf) {
        compiler.node(node, leaf);
    }
    let results: Vec<usize> = results
        .iter()
        .map(|(node, lane)| match lane {
            Some(lane) => compiler.value(*node, *lane),
            None => compiler.value(*node, compiler.lane(*node)),
        })
        .collect();
    allocate(&compiler.values, &results)
}

/// All nodes from the operands up to `roots`, operands before what uses them.
pub fn needed(
    checked: &Checked,
    roots: impl Iterator<Item = NodeId>,
    leaf: &dyn Fn(NodeId) -> Option<(u16, Lane)>,
) -> BTreeSet<NodeId> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<NodeId> = roots.collect();
    while let Some(node) = open.pop() {
        if !seen.insert(node) || leaf(node).is_some() {
            continue;
        }
        if let Node::Apply(_, operands) = &checked.nodes[node] {
            open.extend(operands);
        }
    }
    seen
}

/// A value of the program before it has a register; operands are earlier values.
enum Value {
    Load(u16, Lane),
    Constant(f64, Lane),
    Convert(Lane, usize),
    Apply(Operation, Lane, [usize; 3]),
}

impl Value {
    fn lane(&self) -> Lane {
        match self {
            Value::Load(_, lane)
            | Value::Constant(_, lane)
            | Value::Convert(lane, _)
            | Value::Apply(_, lane, _) => *lane,
        }
    }

    fn reads(&self) -> &[usize] {
        match self {
            Value::Load(..) | Value::Constant(..) => &[],
            Value::Convert(_, from) => std::slice::from_ref(from),
            Value::Apply(_, _, from) => from,
        }
    }
}

struct Compiler<'a> {
    checked: &'a Checked,
    wide: bool,
    values: Vec<Value>,
    of_node: HashMap<NodeId, usize>,
    converted: HashMap<(NodeId, Lane), usize>,
}

impl Compiler<'_> {
    fn push(&mut self, value: Value) -> usize {
        self.values.push(value);
        self.values.len() - 1
    }

    /// The lane in which the node's own value is.
    fn lane(&self, node: NodeId) -> Lane {
        self.of_node.get(&node).map_or(Lane::F64, |value| self.values[*value].lane())
    }

    fn node(&mut self, node: NodeId, leaf: &dyn Fn(NodeId) -> Option<(u16, Lane)>) {
        if let Some((operand, lane)) = leaf(node) {
            let value = self.push(Value::Load(operand, lane));
            self.of_node.insert(node, value);
            return;
        }
        // Constants are made in the lane that they are wanted in.
        let Node::Apply(operation, operands) = &self.checked.nodes[node] else { return };
        let lane = self.lane_of_operation(*operation, node, operands);
        let mut from = [0; 3];
        for (k, slot) in from.iter_mut().enumerate() {
            *slot = self.value(*operands.get(k).unwrap_or(&operands[0]), lane);
        }
        let value = self.push(Value::Apply(*operation, lane, from));
        self.of_node.insert(node, value);
    }

    /// Truth values are made in the lane of what is compared, all else in the lane of its type.
    fn lane_of_operation(&self, operation: Operation, node: NodeId, operands: &[NodeId]) -> Lane {
        use Operation as O;
        let info = |node: NodeId| &self.checked.info[node];
        match operation {
            O::Not
            | O::Or
            | O::And
            | O::Equal
            | O::NotEqual
            | O::Less
            | O::LessEqual
            | O::Greater
            | O::GreaterEqual => {
                let strong = || operands.iter().filter(|o| !info(**o).weak);
                let all_f32 = strong().all(|o| {
                    matches!(info(*o).numeric, Numeric::F32 | Numeric::Bool) && self.lane(*o) == Lane::F32
                });
                if all_f32 && strong().next().is_some() { Lane::F32 } else { Lane::F64 }
            }
            _ if self.wide => Lane::F64,
            _ => lane_of(info(node).numeric),
        }
    }

    /// The node's value in that lane.
    fn value(&mut self, node: NodeId, lane: Lane) -> usize {
        if let Some(value) = self.converted.get(&(node, lane)) {
            return *value;
        }
        let value = match (&self.checked.nodes[node], self.of_node.get(&node)) {
            (Node::Constant(bits), _) => self.push(Value::Constant(f64::from_bits(*bits), lane)),
            (_, Some(value)) if self.values[*value].lane() == lane => *value,
            (_, Some(value)) => self.push(Value::Convert(lane, *value)),
            (_, None) => unreachable_node(),
        };
        self.converted.insert((node, lane), value);
        value
    }
}

/// Operands are compiled before what uses them, and only constants have no value of their own.
fn unreachable_node() -> usize {
    unreachable!("a node is compiled after its operands")
}

/// Gives values registers. Constants have theirs for good; the others' are free after their last reader.
fn allocate(values: &[Value], results: &[usize]) -> Program {
    let mut last_read: Vec<usize> = vec![0; values.len()];
    for (number, value) in values.iter().enumerate() {
        value.reads().iter().for_each(|read| last_read[*read] = number);
    }
    results.iter().for_each(|result| last_read[*result] = usize::MAX);
    let mut registers = [0u16; 2];
    let mut free: [Vec<u16>; 2] = [Vec::new(), Vec::new()];
    let mut place: Vec<u16> = vec![0; values.len()];
    let mut steps = Vec::with_capacity(values.len());
    let mut fresh = |lane: Lane| {
        registers[lane as usize] += 1;
        registers[lane as usize] - 1
    };
    for (number, value) in values.iter().enumerate() {
        if let Value::Constant(constant, lane) = value {
            place[number] = fresh(*lane);
            steps.push(Step::Constant { value: *constant, lane: *lane, to: place[number] });
        }
    }
    for (number, value) in values.iter().enumerate() {
        if matches!(value, Value::Constant(..)) {
            continue;
        }
        let lane = value.lane();
        let to = free[lane as usize].pop().unwrap_or_else(|| fresh(lane));
        place[number] = to;
        steps.push(match value {
            Value::Load(operand, lane) => Step::Load { operand: *operand, lane: *lane, to },
            Value::Constant(value, lane) => Step::Constant { value: *value, lane: *lane, to },
            Value::Convert(lane, from) => Step::Convert { lane: *lane, to, from: place[*from] },
            Value::Apply(operation, lane, from) => {
                Step::Apply { operation: *operation, lane: *lane, to, from: from.map(|f| place[f]) }
            }
        });
        let mut done: Vec<usize> = value.reads().to_vec();
        done.sort_unstable();
        done.dedup();
        for read in done {
            if last_read[read] == number && !matches!(values[read], Value::Constant(..)) {
                free[values[read].lane() as usize].push(place[read]);
            }
        }
    }
    let results = results.iter().map(|result| (values[*result].lane(), place[*result])).collect();
    Program { steps, registers, results }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::expression::{Named, Names, Script, check::check};

    #[test]
    fn shared_parts_are_computed_once_in_few_registers() {
        let named = |name: &str, numeric| Named {
            name: name.into(),
            dims: vec![0],
            numeric: Some(numeric),
            attributes: vec![],
        };
        let names = Names {
            dims: vec!["x".into()],
            variables: vec![named("u", Numeric::F32), named("d", Numeric::F64)],
        };
        let text = "a = sqrt(u*u + 1) + sqrt(u*u + 2); b = a * d; c = ((((u+1)*2+3)*4+5)*6+7)*8".to_owned();
        let checked = check(&Script::parse(&[text]).unwrap(), &names).unwrap();
        let leaf = |node: NodeId| match checked.nodes[node] {
            Node::Variable(k) => Some((k as u16, lane_of(checked.info[node].numeric))),
            _ => None,
        };
        let wanted: Vec<(NodeId, Option<Lane>)> = checked.outputs.iter().map(|o| (o.node, None)).collect();
        let program = compile(&checked, &wanted, false, &leaf);
        assert!(program.is_sound(2), "{program:?}");
        let count = |f: &dyn Fn(&Step) -> bool| program.steps.iter().filter(|s| f(s)).count();
        assert_eq!(count(&|s| matches!(s, Step::Load { .. })), 2);
        let multiplied = |s: &Step| matches!(s, Step::Apply { operation: Operation::Multiply, lane: Lane::F32, from: [a, b, _], .. } if a == b);
        assert_eq!(count(&multiplied), 1, "u*u once");
        assert_eq!(count(&|s| matches!(s, Step::Convert { lane: Lane::F64, .. })), 1);
        assert_eq!(
            program.results.iter().map(|r| r.0).collect::<Vec<_>>(),
            [Lane::F32, Lane::F64, Lane::F32]
        );
        let wide = compile(&checked, &wanted[2..], true, &leaf);
        assert_eq!(wide.registers[0], 1, "only u is loaded in f32");
        // Eight constants, u, and a few in flight.
        assert!(program.registers[0] <= 13, "{:?}", program.registers);
    }
}
