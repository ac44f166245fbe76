//! The wildcard filters of an index, as a trie over levels.
//!
//! A filter that shares no further level with another hangs as a leaf, with the rest of its text
//! compared in one go; a second filter below the same edge unfolds it by the levels that both share.
//! Edges to literal levels are in one hash table for the whole trie, keyed by (node, level); the
//! edge `+` and the filters that end at a node are fields of the node.
//!
//! Invariants:
//! - each node but the root has something below it: `1 ≤ edges + plus + end + hash`;
//! - a label has as many references as nodes carry its token;
//! - a child hangs below exactly one edge, so a walk reaches each node and each leaf at most once.
//!
//! Cost of a walk over a topic of `L` levels: at level `i` at most `min(2^i, nodes at depth i)` nodes
//! are visited, in all never more than there are nodes, each with one probe of the edge table. Each
//! leaf met is compared once, in at most one pass over its text. Nothing recurses: the nodes visited
//! are a list. What one tenant can make a walk cost is thus linear in what it has stored.

use std::collections::BTreeMap;

use super::arena::Arena;
use super::hash::{Seed, Table};
use super::labels::Labels;
use super::slot::{Place, Position, Slot};
use crate::wildcard::{level_at, tail_matches};

const ROOT: u32 = 0;

/// No filter, no child.
const NONE: u32 = u32::MAX;

/// Token of the level `+`, which no label has.
const PLUS: u32 = u32::MAX - 1;

/// Marks a child that is a leaf: the number is a filter's.
const LEAF: u32 = 1 << 31;

#[derive(Copy, Clone)]
struct Node {
    parent: u32,
    /// Label of the edge from the parent, or `PLUS`.
    token: u32,
    /// Child below `+`, a leaf if marked.
    plus: u32,
    /// Filter whose last level leads here.
    end: u32,
    /// Filter that ends with `#` below this node.
    hash: u32,
    /// Number of edges to literal levels.
    edges: u32,
}

const _: () = assert!(size_of::<Node>() == 24);

impl Default for Node {
    fn default() -> Self {
        Self { parent: NONE, token: NONE, plus: NONE, end: NONE, hash: NONE, edges: 0 }
    }
}

impl Node {
    fn is_bare(&self) -> bool {
        self.edges == 0 && self.plus == NONE && self.end == NONE && self.hash == NONE
    }
}

/// A child as the tables hold it.
enum Child {
    Node(u32),
    Leaf(u32),
}

impl Child {
    #[inline]
    fn unpack(packed: u32) -> Option<Self> {
        match packed {
            NONE => None,
            _ if packed & LEAF != 0 => Some(Self::Leaf(packed & !LEAF)),
            _ => Some(Self::Node(packed)),
        }
    }
}

/// One level of the text at hand. Hash and token are found out once, at the first need.
struct Level<'t> {
    text: &'t [u8],
    hash: Option<u64>,
    /// `NONE` while unknown.
    token: u32,
}

impl<'t> Level<'t> {
    #[inline]
    fn new(text: &'t [u8]) -> Self {
        Self { text, hash: None, token: NONE }
    }

    #[inline]
    fn hash(&mut self, seed: &Seed) -> u64 {
        *self.hash.get_or_insert_with(|| seed.hash(self.text))
    }
}

/// Numbers of nodes in the order of their visits; the first ones without an allocation.
struct Visits {
    near: [u32; NEAR],
    far: Vec<u32>,
    len: usize,
}

const NEAR: usize = 32;

impl Visits {
    #[inline]
    fn new() -> Self {
        Self { near: [NONE; NEAR], far: Vec::new(), len: 0 }
    }

    #[inline]
    fn push(&mut self, number: u32) {
        match self.near.get_mut(self.len) {
            Some(place) => *place = number,
            None => self.far.push(number),
        }
        self.len += 1;
    }

    #[inline]
    fn at(&self, position: usize) -> u32 {
        if position < NEAR { self.near[position] } else { self.far[position - NEAR] }
    }
}

pub(super) struct Trie {
    nodes: Arena<Node>,
    edges: Table,
    labels: Labels,
}

impl Trie {
    pub(super) fn new() -> Self {
        let mut nodes = Arena::new();
        let root = nodes.insert(Node::default());
        assert_eq!(root, ROOT, "the first number is the lowest");
        Self { nodes, edges: Table::default(), labels: Labels::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes[ROOT].is_bare()
    }

    /// Number of inner nodes, the root included.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.nodes.memory() + self.edges.memory() + self.labels.memory()
    }

    /// Hangs the filter `id` into the trie. `text` is that of its slot, a well-formed filter that is
    /// not in the trie yet.
    pub(super) fn insert(&mut self, seed: &Seed, slots: &mut Arena<Slot>, id: u32, text: &[u8]) {
        let (mut node, mut at) = (ROOT, 0);
        loop {
            let mut level = Level::new(level_at(text, at));
            let below = match self.child(seed, slots, node, &mut level) {
                None => return self.attach(seed, slots, node, id, at),
                Some(Child::Node(below)) => below,
                Some(Child::Leaf(other)) => self.unfold(seed, slots, other, &mut level),
            };
            at += level.text.len() + 1;
            if at > text.len() {
                return self.attach_end(slots, below, id);
            }
            node = below;
        }
    }

    /// Takes the filter `id` out, with the nodes that only it needed. A slot outside the trie is left
    /// alone.
    pub(super) fn remove(&mut self, seed: &Seed, id: u32, slot: &Slot) {
        let node = match slot.place.position() {
            Position::Exact => return,
            Position::End { node } => {
                self.nodes[node].end = NONE;
                node
            }
            Position::Hash { node } => {
                self.nodes[node].hash = NONE;
                node
            }
            Position::Leaf { node, at } => {
                let level = level_at(slot.text.as_bytes(), at);
                if level == b"+" {
                    self.nodes[node].plus = NONE;
                } else {
                    self.cut_edge(node, seed.edge(node, seed.hash(level)), LEAF | id);
                }
                node
            }
        };
        self.prune(seed, node);
    }

    /// Calls `found` for each filter that matches `topic`, once. Returns the number of nodes visited.
    pub(super) fn matches(
        &self,
        seed: &Seed,
        slots: &Arena<Slot>,
        topic: &[u8],
        mut found: impl FnMut(u32),
    ) -> usize {
        // All nodes visited, level by level: those from `begin` are of the level at hand.
        let mut visited = Visits::new();
        visited.push(ROOT);
        // [MQTT-4.7.2-1] The wildcards of the root are leading ones.
        let mut takes_wildcards = topic.first() != Some(&b'$');
        let (mut begin, mut at) = (0, 0);
        loop {
            let end = visited.len;
            if begin == end {
                return end;
            }
            let mut level = Level::new(level_at(topic, at));
            let next = at + level.text.len() + 1;
            for position in begin..end {
                let number = visited.at(position);
                let node = &self.nodes[number];
                if takes_wildcards && node.hash != NONE {
                    found(node.hash);
                }
                let plus = if takes_wildcards { node.plus } else { NONE };
                let has_edges = node.edges > 0;
                let literal =
                    if has_edges { self.edge(seed, slots, number, &mut level) } else { NONE };
                for child in [plus, literal] {
                    if child & LEAF == 0 {
                        visited.push(child);
                    } else if child != NONE {
                        let id = child & !LEAF;
                        let rest = slots[id].leaf_of(number);
                        if rest.is_some_and(|rest| tail_matches(rest, &topic[at..])) {
                            found(id);
                        }
                    }
                }
            }
            if next > topic.len() {
                self.finish(&visited, end, &mut found);
                return visited.len;
            }
            (begin, at, takes_wildcards) = (end, next, true);
        }
    }

    /// At the nodes that the topic's last level leads to: what ends there, and what goes on with `#`,
    /// which matches the parent level too.
    fn finish(&self, visited: &Visits, begin: usize, found: &mut impl FnMut(u32)) {
        for position in begin..visited.len {
            let node = &self.nodes[visited.at(position)];
            for filter in [node.end, node.hash] {
                if filter != NONE {
                    found(filter);
                }
            }
        }
    }

    /// What is below the edge `level` of `node`. `#` is no edge.
    fn child(
        &self,
        seed: &Seed,
        slots: &Arena<Slot>,
        node: u32,
        level: &mut Level<'_>,
    ) -> Option<Child> {
        match level.text {
            b"#" => None,
            b"+" => Child::unpack(self.nodes[node].plus),
            _ => Child::unpack(self.edge(seed, slots, node, level)),
        }
    }

    /// The child below a literal level, packed; `NONE` if there is none.
    #[inline]
    fn edge(&self, seed: &Seed, slots: &Arena<Slot>, node: u32, level: &mut Level<'_>) -> u32 {
        let hash = seed.edge(node, level.hash(seed));
        let text = level.text;
        let found = self.edges.find(hash, |packed| {
            if packed & LEAF != 0 {
                let rest = slots[packed & !LEAF].leaf_of(node);
                return rest.is_some_and(|rest| begins_with_level(rest, text));
            }
            let below = &self.nodes[packed];
            if below.parent != node {
                return false;
            }
            // A label exists once: after the first comparison of texts, tokens suffice.
            if level.token != NONE {
                return level.token == below.token;
            }
            let is_equal = self.labels.text(below.token) == text;
            if is_equal {
                level.token = below.token;
            }
            is_equal
        });
        found.unwrap_or(NONE)
    }

    /// Panics unless the invariants at the head hold and each filter hangs where its slot says.
    pub(super) fn check_invariants(&self, seed: &Seed, slots: &Arena<Slot>) {
        let mut edges: BTreeMap<u32, u32> = BTreeMap::new();
        let mut references: BTreeMap<u32, u32> = BTreeMap::new();
        for (number, node) in self.nodes.iter() {
            if number == ROOT {
                continue;
            }
            assert!(!node.is_bare(), "node {number} has something below it");
            if node.token == PLUS {
                assert_eq!(self.nodes[node.parent].plus, number, "the parent knows node {number}");
                continue;
            }
            *edges.entry(node.parent).or_default() += 1;
            *references.entry(node.token).or_default() += 1;
            let mut level = Level::new(self.labels.text(node.token));
            let found = self.edge(seed, slots, node.parent, &mut level);
            assert_eq!(found, number, "the edge table knows node {number}");
        }
        for (id, slot) in slots.iter() {
            match slot.place.position() {
                Position::Exact => {}
                Position::End { node } => assert_eq!(self.nodes[node].end, id, "filter {id}"),
                Position::Hash { node } => assert_eq!(self.nodes[node].hash, id, "filter {id}"),
                Position::Leaf { node, at } => {
                    let mut level = Level::new(level_at(slot.text.as_bytes(), at));
                    let found = self.child(seed, slots, node, &mut level);
                    assert!(matches!(found, Some(Child::Leaf(leaf)) if leaf == id), "leaf {id}");
                    if level.text != b"+" {
                        *edges.entry(node).or_default() += 1;
                    }
                }
            }
        }
        let total = edges.values().map(|count| *count as usize).sum::<usize>();
        assert_eq!(self.edges.len(), total, "each edge has one entry");
        for (number, node) in self.nodes.iter() {
            assert_eq!(node.edges, edges.remove(&number).unwrap_or(0), "edges of node {number}");
        }
        assert!(self.labels.references().eq(references), "each label counts its nodes");
    }

    /// Hangs the filter `id` below `node`, where nothing hangs under its level at `at`.
    fn attach(&mut self, seed: &Seed, slots: &mut Arena<Slot>, node: u32, id: u32, at: usize) {
        let level = level_at(slots[id].text.as_bytes(), at);
        let position = match level {
            b"#" => {
                assert_eq!(self.nodes[node].hash, NONE, "filter {id} is new");
                self.nodes[node].hash = id;
                Position::Hash { node }
            }
            b"+" => {
                assert_eq!(self.nodes[node].plus, NONE, "nothing hangs below '+'");
                self.nodes[node].plus = LEAF | id;
                Position::Leaf { node, at }
            }
            _ => {
                self.edges.insert(seed.edge(node, seed.hash(level)), LEAF | id);
                self.nodes[node].edges += 1;
                Position::Leaf { node, at }
            }
        };
        slots[id].place = Place::new(position);
    }

    fn attach_end(&mut self, slots: &mut Arena<Slot>, node: u32, id: u32) {
        assert_eq!(self.nodes[node].end, NONE, "filter {id} is new");
        self.nodes[node].end = id;
        slots[id].place = Place::new(Position::End { node });
    }

    /// Puts a node where the leaf `other` hangs under `level`, and the leaf below it. Returns the node.
    fn unfold(
        &mut self,
        seed: &Seed,
        slots: &mut Arena<Slot>,
        other: u32,
        level: &mut Level<'_>,
    ) -> u32 {
        let Position::Leaf { node: parent, at } = slots[other].place.position() else {
            unreachable!("filter {other} was found as a leaf");
        };
        let below = if level.text == b"+" {
            let below = self.nodes.insert(Node { parent, token: PLUS, ..Node::default() });
            self.nodes[parent].plus = below;
            below
        } else {
            let hash = level.hash(seed);
            let token = self.labels.acquire(hash, level.text);
            let below = self.nodes.insert(Node { parent, token, ..Node::default() });
            self.edges.replace(seed.edge(parent, hash), LEAF | other, below);
            below
        };
        let next = at + level.text.len() + 1;
        if next > slots[other].text.len() {
            self.attach_end(slots, below, other);
        } else {
            self.attach(seed, slots, below, other, next);
        }
        below
    }

    /// Removes `node` and its ancestors as far as nothing hangs below them.
    fn prune(&mut self, seed: &Seed, mut node: u32) {
        while node != ROOT && self.nodes[node].is_bare() {
            let Node { parent, token, .. } = self.nodes.remove(node);
            if token == PLUS {
                self.nodes[parent].plus = NONE;
            } else {
                let hash = seed.hash(self.labels.text(token));
                self.cut_edge(parent, seed.edge(parent, hash), node);
                self.labels.release(hash, token);
            }
            node = parent;
        }
    }

    fn cut_edge(&mut self, node: u32, hash: u32, packed: u32) {
        assert!(self.nodes[node].edges > 0, "node {node} has an edge to cut");
        self.edges.remove(hash, packed);
        self.nodes[node].edges -= 1;
    }
}

/// Whether the first level of `rest` is `level`.
#[inline]
fn begins_with_level(rest: &[u8], level: &[u8]) -> bool {
    rest.strip_prefix(level).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}
