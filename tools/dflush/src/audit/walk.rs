// SPDX-License-Identifier: GPL-2.0

//! The fixpoint: from one way in, every program point that can be reached, with what is known
//! there.

use super::events::{End, Event};
use super::flow::Flow;
use super::state::{GsBase, Phase, State};
use super::value::Stack;
use anyhow::{Result, bail};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A program point, reached through a given chain of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) context: u32,
    pub(super) ip: u64,
    pub(super) phase: Phase,
    /// The stack pointer: what holds on one stack, or in one frame, must not be mixed with what
    /// holds in another.
    pub(super) stack: Option<(Stack, i64)>,
    /// Nor what holds with user mode's GS base and what holds with the kernel's.
    pub(super) gs: GsBase,
}

/// A chain of calls.
struct Context {
    caller: u32,
    return_to: u64,
    depth: u32,
}

/// All chains of calls of one walk. Number 0 is the empty one.
pub(super) struct Contexts {
    all: Vec<Context>,
    known: HashMap<(u32, u64), u32>,
}

const MAX_DEPTH: u32 = 48;
const MAX_NODES: usize = 60_000;
const WIDEN_AFTER: u32 = 6;

impl Contexts {
    fn new() -> Self {
        Self {
            all: vec![Context {
                caller: 0,
                return_to: 0,
                depth: 0,
            }],
            known: HashMap::new(),
        }
    }

    /// A call from `caller` that returns to `return_to`; nothing if the chain becomes too long.
    pub(super) fn call(&mut self, caller: u32, return_to: u64) -> Option<u32> {
        if let Some(known) = self.known.get(&(caller, return_to)) {
            return Some(*known);
        }
        let depth = self.all[caller as usize].depth + 1;
        if depth > MAX_DEPTH {
            return None;
        }
        let new = u32::try_from(self.all.len()).ok()?;
        self.all.push(Context {
            caller,
            return_to,
            depth,
        });
        self.known.insert((caller, return_to), new);
        Some(new)
    }

    /// Where a function returns to; nothing at the way in itself.
    pub(super) fn caller(&self, context: u32) -> Option<(u32, u64)> {
        let context = self.all.get(context as usize).filter(|c| c.depth > 0)?;
        Some((context.caller, context.return_to))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

struct Point {
    state: State,
    visits: u32,
    from: Option<Node>,
    is_queued: bool,
}

/// What one walk found.
pub(super) struct Walk {
    pub(super) events: Vec<(Node, Event)>,
    pub(super) points: usize,
    pub(super) contexts: usize,
    /// The addresses of all instructions before the flush and after the change of state.
    pub(super) recorded: BTreeSet<u64>,
    /// The addresses of all instructions.
    pub(super) visited: BTreeSet<u64>,
    pub(super) paths: u128,
    /// For each finding, in the order of `events`: the way to it, oldest first.
    pub(super) traces: HashMap<Node, Vec<u64>>,
}

/// How many instructions of the way to a finding are shown.
const TRACE: usize = 24;

/// Walks from the starts, which share one chain of calls.
pub(super) fn walk(flow: &mut Flow<'_>, starts: &[(u64, State)], phase: Phase) -> Result<Walk> {
    let mut contexts = Contexts::new();
    let mut points: HashMap<Node, Point> = HashMap::new();
    let mut queue = VecDeque::new();
    let mut next = Vec::new();
    for (ip, state) in starts {
        let node = Node {
            context: 0,
            ip: *ip,
            phase,
            stack: None,
            gs: state.gs,
        };
        reach(&mut points, &mut queue, node, state.clone(), None);
    }
    let mut ignored = Vec::new();
    while let Some(node) = queue.pop_front() {
        let Some(point) = points.get_mut(&node) else {
            continue;
        };
        point.is_queued = false;
        let state = point.state.clone();
        flow.transfer(node, &state, &mut contexts, &mut next, &mut ignored)?;
        ignored.clear();
        for (target, state) in next.drain(..) {
            reach(&mut points, &mut queue, target, state, Some(node));
        }
        if points.len() > MAX_NODES {
            bail!(
                "more than {MAX_NODES} program points from {}; most of them in {}",
                flow.image
                    .symbols
                    .describe(starts.first().map_or(0, |s| s.0)),
                crowded(flow, &points, &contexts)
            );
        }
    }
    // Everything has settled: now look at it once.
    let mut events = Vec::new();
    let mut edges: HashMap<Node, Vec<Node>> = HashMap::new();
    let mut order: Vec<_> = points.keys().copied().collect();
    order.sort_unstable();
    for node in order {
        let mut here = Vec::new();
        flow.transfer(
            node,
            &points[&node].state,
            &mut contexts,
            &mut next,
            &mut here,
        )?;
        edges.insert(
            node,
            next.drain(..)
                .map(|(node, state)| settle(node, &state))
                .collect(),
        );
        events.extend(here.into_iter().map(|event| (node, event)));
    }
    let traces = events
        .iter()
        .filter(|(_, event)| !matches!(event, Event::End(_)))
        .map(|(node, _)| (*node, trace(&points, *node)))
        .collect();
    let roots = starts.iter().map(|(ip, state)| {
        let node = Node {
            context: 0,
            ip: *ip,
            phase,
            stack: None,
            gs: state.gs,
        };
        settle(node, state)
    });
    Ok(Walk {
        paths: count_paths(&edges, roots),
        recorded: points
            .keys()
            .filter(|node| node.phase != Phase::Kernel)
            .map(|node| node.ip)
            .collect(),
        visited: points.keys().map(|node| node.ip).collect(),
        points: points.len(),
        contexts: contexts.len(),
        events,
        traces,
    })
}

/// Where most program points are, and by which calls one of them was reached.
fn crowded(flow: &Flow<'_>, points: &HashMap<Node, Point>, contexts: &Contexts) -> String {
    let mut functions: HashMap<String, Vec<Node>> = HashMap::new();
    for node in points.keys() {
        functions
            .entry(flow.function(node.ip))
            .or_default()
            .push(*node);
    }
    let mut functions: Vec<_> = functions.into_iter().collect();
    functions.sort_by_key(|(name, nodes)| (std::cmp::Reverse(nodes.len()), name.clone()));
    let names: Vec<_> = functions
        .iter()
        .take(8)
        .map(|(name, nodes)| format!("{name} ({})", nodes.len()))
        .collect();
    let chain = functions
        .first()
        .and_then(|(_, nodes)| nodes.iter().min())
        .map(|node| chain(flow, contexts, *node).join(" < "));
    format!("{}; one by {}", names.join(", "), chain.unwrap_or_default())
}

/// The calls that lead to a point, the innermost first.
fn chain(flow: &Flow<'_>, contexts: &Contexts, node: Node) -> Vec<String> {
    let mut chain = vec![
        format!("{:?}", node.phase),
        flow.image.symbols.describe(node.ip),
    ];
    let mut context = node.context;
    while let Some((caller, return_to)) = contexts.caller(context) {
        chain.push(flow.image.symbols.describe(return_to));
        context = caller;
    }
    chain
}

fn settle(node: Node, state: &State) -> Node {
    Node {
        stack: state.rsp().slot(),
        gs: state.gs,
        ..node
    }
}

fn reach(
    points: &mut HashMap<Node, Point>,
    queue: &mut VecDeque<Node>,
    node: Node,
    state: State,
    from: Option<Node>,
) {
    let node = settle(node, &state);
    let changed = if let Some(point) = points.get_mut(&node) {
        point.visits += 1;
        point.state.join(&state, point.visits > WIDEN_AFTER)
    } else {
        points.insert(
            node,
            Point {
                state,
                visits: 0,
                from,
                is_queued: false,
            },
        );
        true
    };
    if changed {
        if let Some(point) = points.get_mut(&node) {
            if !point.is_queued {
                point.is_queued = true;
                queue.push_back(node);
            }
        }
    }
}

fn trace(points: &HashMap<Node, Point>, end: Node) -> Vec<u64> {
    let mut trace = vec![end.ip];
    let mut at = end;
    while let Some(from) = points.get(&at).and_then(|point| point.from) {
        if trace.len() == TRACE {
            break;
        }
        trace.push(from.ip);
        at = from;
    }
    trace.reverse();
    trace
}

/// The number of different ways through, loops taken at most once.
fn count_paths(edges: &HashMap<Node, Vec<Node>>, roots: impl Iterator<Item = Node>) -> u128 {
    #[derive(Clone, Copy)]
    enum Mark {
        Open,
        Done(u128),
    }
    let mut marks: HashMap<Node, Mark> = HashMap::new();
    let mut total = 0u128;
    for root in roots {
        let mut stack = vec![(root, false)];
        while let Some((node, is_back)) = stack.pop() {
            let targets = edges.get(&node).map_or(&[][..], Vec::as_slice);
            if is_back {
                let mut sum = 0u128;
                for target in targets {
                    if let Some(Mark::Done(paths)) = marks.get(target) {
                        sum = sum.saturating_add(*paths);
                    }
                }
                marks.insert(node, Mark::Done(sum.max(1)));
            } else if let Entry::Vacant(mark) = marks.entry(node) {
                mark.insert(Mark::Open);
                stack.push((node, true));
                stack.extend(targets.iter().map(|target| (*target, false)));
            }
        }
        if let Some(Mark::Done(paths)) = marks.get(&root) {
            total = total.saturating_add(*paths);
        }
    }
    total
}

impl Walk {
    /// How its paths end.
    pub(super) fn ends(&self) -> impl Iterator<Item = &End> {
        self.events.iter().filter_map(|(_, event)| match event {
            Event::End(end) => Some(end),
            _ => None,
        })
    }
}
